"""The function that makes the feature vectors of a dataset."""

from pathlib import Path
from typing import Unpack

from torch import nn

from fastcam.classifiers.models import Classifier
from fastcam.dataset.api import run_job
from fastcam.dataset.cluster import Cluster
from fastcam.dataset.devices import OnDevices
from fastcam.dataset.job_arguments import Feeding, classifier_of, job_of, vector_format
from fastcam.dataset.runner import Progress, Report
from fastcam.dataset.sources import SourceLike
from fastcam.dataset.vectors import VectorType
from fastcam.features.rows import FeatureWork
from fastcam.inspect.extraction import Pool


def run(
    source: SourceLike,
    model: nn.Module | Classifier,
    out: str | Path,
    *,
    layer: str | nn.Module | None = None,
    pool: Pool = "mean",
    dtype: VectorType = "float16",
    ray: Cluster | str | None = None,
    devices: OnDevices | None = None,
    report: Report | None = None,
    **feeding: Unpack[Feeding],
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
        ray: as for :func:`fastcam.dataset.run`.
        devices: as for :func:`fastcam.dataset.run`.
        report: as for :func:`fastcam.dataset.run`.
        feeding: ``preprocessing``, ``batch_size``, ``shard_size``, ``workers``, ``limits``, ``decoder`` and
            ``decode_in``, as for :func:`fastcam.dataset.run`.

    Returns:
        The progress at the end.

    Raises:
        InterruptedRunError: after SIGINT or SIGTERM.
        OSError: if the folder cannot be written; committed shards are kept.
        ValueError, TypeError, RuntimeError: for invalid arguments or a failed run; committed shards are kept.
    """
    classifier = classifier_of(model, feeding.get("preprocessing"))
    vectors = vector_format(classifier.model, layer, pool=pool, dtype=dtype)
    job = job_of(source, classifier, out, FeatureWork(vectors), vectors.settings, **feeding)
    return run_job(job, report or (lambda progress: None), ray, devices)
