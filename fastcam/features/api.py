"""The function that makes the feature vectors of a dataset."""

from pathlib import Path

from torch import nn

from fastcam.classifiers.models import Classifier
from fastcam.classifiers.preprocessing import Preprocessing
from fastcam.dataset.api import classifier_of, job_of, layer_names, run_job
from fastcam.dataset.cluster import Cluster
from fastcam.dataset.decode import Decoder, Limits
from fastcam.dataset.devices import OnDevices
from fastcam.dataset.runner import Progress, Report
from fastcam.dataset.sources import SourceLike
from fastcam.features.extraction import Pool
from fastcam.features.rows import FeatureWork, VectorType


def run(
    source: SourceLike,
    model: nn.Module | Classifier,
    out: str | Path,
    *,
    layer: str | nn.Module | None = None,
    pool: Pool = "mean",
    dtype: VectorType = "float16",
    preprocessing: Preprocessing | None = None,
    batch_size: int | None = None,
    shard_size: int = 1024,
    workers: int | None = None,
    limits: Limits | None = None,
    decoder: Decoder | None = None,
    ray: Cluster | str | None = None,
    devices: OnDevices | None = None,
    report: Report | None = None,
) -> Progress:
    """Write a feature vector for every image of a dataset; resume an earlier run that was interrupted.

    The folder holds Parquet files whose column "feature" is a list of numbers, beside the image's id, path, label and
    predicted class; :func:`fastcam.features.open` reads it, and so do DuckDB, Polars and pandas.

    Args:
        source: as for :func:`fastcam.dataset.run`.
        model: as for :func:`fastcam.dataset.run`.
        out: output folder.
        layer: whose output is taken, a module of the model or its name; None for the input of the last linear layer,
            which is the last hidden layer of a classifier.
        pool: what is done with the positions of a map, or of tokens: "mean", "max", or "none" to keep them all.
        dtype: "float16", or "float32" for layers with values beyond 65,504.
        preprocessing: as for :func:`fastcam.dataset.run`.
        batch_size: as for :func:`fastcam.dataset.run`.
        shard_size: images per Parquet file.
        workers: as for :func:`fastcam.dataset.run`.
        limits: as for :func:`fastcam.dataset.run`.
        decoder: as for :func:`fastcam.dataset.run`.
        ray: as for :func:`fastcam.dataset.run`.
        devices: as for :func:`fastcam.dataset.run`.
        report: as for :func:`fastcam.dataset.run`.

    Returns:
        The progress at the end.

    Raises:
        InterruptedRunError: after SIGINT or SIGTERM.
        OSError: if the folder cannot be written; committed shards are kept.
        ValueError, TypeError, RuntimeError: for invalid arguments or a failed run; committed shards are kept.
    """
    classifier = classifier_of(model, preprocessing)
    name = layer_names(classifier.model, layer)
    if name is not None and not isinstance(name, str):
        raise TypeError(f"`layer` must be one module of the model or its name, got {name!r}")
    job = job_of(
        source,
        classifier,
        out,
        FeatureWork(name, pool, dtype),
        {"features": {"layer": name, "pool": pool, "dtype": dtype}},
        preprocessing=preprocessing,
        batch_size=batch_size,
        shard_size=shard_size,
        workers=workers,
        limits=limits,
        decoder=decoder,
    )
    return run_job(job, report or (lambda progress: None), ray, devices)
