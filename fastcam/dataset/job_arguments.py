"""The job of a run, made of the arguments of its function."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict, get_args

from torch import Tensor, nn

from fastcam.classifiers.class_choice import ClassChoice
from fastcam.classifiers.models import Classifier
from fastcam.classifiers.preprocessing import Preprocessing
from fastcam.dataset import table
from fastcam.dataset.decode import Decoder, Limits, check_decoder, default_decoder
from fastcam.dataset.decoding_processes import DecodeIn
from fastcam.dataset.detection_rows import DetectionRows, detections_of
from fastcam.dataset.identity import identity
from fastcam.dataset.job import Job, device_of
from fastcam.dataset.loading import Loader
from fastcam.dataset.records import read_json
from fastcam.dataset.rows import MapRows
from fastcam.dataset.sources import SourceLike, source_of
from fastcam.dataset.store import RUN
from fastcam.dataset.vectors import HIDDEN, VectorFormat, WithVectors
from fastcam.dataset.work import MapWork, Work
from fastcam.model.layers import TargetLayer
from fastcam.postprocess import Fusion
from fastcam.preparation.prepare import Precision
from fastcam.preparation.prepared import Prepared
from fastcam.targets import Detections

DEFAULT_BATCH_SIZE = 64
DEFAULT_CPU_BATCH_SIZE = 8


def make_job(
    source: SourceLike,
    model: nn.Module | Classifier,
    out: str | Path,
    *,
    method: str | Sequence[str] = "grad_cam",
    target: str | int | Sequence[str | int] | Detections = "top1",
    target_layer: TargetLayer = None,
    fuse: Fusion | None = None,
    reshape_transform: Callable[[Tensor], Tensor] | None = None,
    preprocessing: Preprocessing | None = None,
    resolution: table.Resolution = "native",
    dtype: table.MapType = "float16",
    batch_size: int | None = None,
    shard_size: int = 1024,
    workers: int | None = None,
    limits: Limits | None = None,
    decoder: Decoder | None = None,
    decode_in: DecodeIn | None = None,
    precision: Precision | None = None,
    compile: bool = False,
    features: str | nn.Module | None = None,
    **options: Any,
) -> Job:
    """Return the job of a run; the arguments are those of :func:`run`.

    Raises:
        ValueError, TypeError: for invalid arguments.
    """
    explainer_options = {
        "method": [method] if isinstance(method, str) else list(method),
        "target_layer": target_layer,
        "fuse": fuse,
        "reshape_transform": reshape_transform,
        "precision": precision,
        "compile": compile,
        **options,
    }
    chosen, described = _target_of(target)
    map_format = table.MapFormat(resolution, dtype)
    rows = DetectionRows(map_format) if isinstance(chosen, Detections) else MapRows(map_format)
    classifier = classifier_of(model, preprocessing)
    settings = {
        "maps": asdict(map_format),
        **explainer_options,
        "target_layer": layer_names(classifier.model, target_layer),
        "target": described,
    }
    work: Work = MapWork(explainer_options, chosen, rows)
    if features is not None:
        vectors = vector_format(classifier.model, None if features == HIDDEN else features)
        work, settings = WithVectors(work, vectors), settings | vectors.settings
    return job_of(
        source,
        classifier,
        out,
        work,
        settings,
        preprocessing=preprocessing,
        batch_size=batch_size,
        shard_size=shard_size,
        workers=workers,
        limits=limits,
        decoder=decoder,
        decode_in=decode_in,
    )


def _target_of(target: str | int | Sequence[str | int] | Detections) -> tuple[ClassChoice | Detections, object]:
    """Return the target of a run, and what of it determines the maps."""
    if not isinstance(target, Detections):
        texts = tuple(map(str, [target] if isinstance(target, str | int) else target))
        found = detections_of(texts)
        if found is None:
            return ClassChoice(texts), texts
        target = found
    if target.index is not None:
        raise ValueError("a dataset has a row for every detection: leave out `index`")
    return target, {"detections": vars(target)}


class Feeding(TypedDict, total=False):
    """The arguments of :func:`run` that say how images are read and batched; see there."""

    preprocessing: Preprocessing | None
    batch_size: int | None
    shard_size: int
    workers: int | None
    limits: Limits | None
    decoder: Decoder | None
    decode_in: DecodeIn | None


def classifier_of(model: nn.Module | Classifier, preprocessing: Preprocessing | None) -> Classifier:
    """Return the classifier of a model; None takes ImageNet's preprocessing."""
    return model if isinstance(model, Classifier) else Classifier(model, preprocessing or Preprocessing())


def job_of(
    source: SourceLike,
    classifier: Classifier,
    out: str | Path,
    work: Work,
    settings: Mapping[str, object],
    *,
    preprocessing: Preprocessing | None = None,
    batch_size: int | None = None,
    shard_size: int = 1024,
    workers: int | None = None,
    limits: Limits | None = None,
    decoder: Decoder | None = None,
    decode_in: DecodeIn | None = None,
) -> Job:
    """Return the job that makes ``work`` of the images.

    Args:
        source: as for :func:`run`.
        classifier: the model.
        out: output folder.
        work: what is made.
        settings: all of the work that determines its rows, for the identity of the run.
        preprocessing: as for :func:`run`.
        batch_size: as for :func:`run`.
        shard_size: as for :func:`run`.
        workers: as for :func:`run`.
        limits: as for :func:`run`.
        decoder: as for :func:`run`.
        decode_in: as for :func:`run`.

    Raises:
        ValueError, TypeError: for invalid arguments.
    """
    for name, value in (("batch_size", batch_size), ("shard_size", shard_size), ("workers", workers)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"`{name}` must be a positive whole number, got {value!r}")
    decoder = decoder or default_decoder()
    check_decoder(decoder)
    if decode_in is not None and decode_in not in get_args(DecodeIn):
        raise ValueError(f"`decode_in` must be {' or '.join(get_args(DecodeIn))}, got {decode_in!r}")
    loader = Loader(preprocessing or classifier.preprocessing, limits or Limits(), decoder)
    images = source_of(source)
    batch_size = batch_size or usual_batch_size(classifier.model, Path(out), shard_size)
    sizes = {"shard_size": shard_size, "batch_size": batch_size}
    return Job(
        source=images,
        classifier=classifier,
        work=work,
        loader=loader,
        folder=Path(out),
        identity=identity(classifier.model, images, loader, **settings, **sizes),
        batch_size=batch_size,
        shard_size=shard_size,
        workers=workers,
        decode_in=decode_in,
    )


def usual_batch_size(model: nn.Module, folder: Path, shard_size: int) -> int:
    """Return how many images a batch has where nobody says it.

    As many as in the folder, if a run began it: another number would be another run. Else as many as are fastest for a
    prepared model, but four batches a shard, so that loading, explaining and writing overlap.
    """
    kept = (read_json(folder / RUN) or {}).get("batch_size")
    if isinstance(kept, int) and kept > 0:
        return kept
    if isinstance(model, Prepared) and model.batch_size is not None:
        return min(model.batch_size, max(1, shard_size // 4))
    return DEFAULT_CPU_BATCH_SIZE if device_of(model).type == "cpu" else DEFAULT_BATCH_SIZE


def vector_format(model: nn.Module, layer: str | nn.Module | None, **settings: Any) -> VectorFormat:
    """Return the format of vectors of a layer, a module of the model or its name; None for the last hidden layer.

    Raises:
        TypeError: for several layers.
        ValueError: for unknown settings.
    """
    name = layer_names(model, layer)
    if name is not None and not isinstance(name, str):
        raise TypeError(f"`layer` must be one module of the model or its name, got {name!r}")
    return VectorFormat(name, **settings)


def layer_names(model: nn.Module, target_layer: TargetLayer) -> object:
    """Return the target layers with modules replaced by their names."""
    if isinstance(target_layer, nn.Module):
        return next((name for name, module in model.named_modules() if module is target_layer), repr(target_layer))
    if isinstance(target_layer, list | tuple):
        return [layer_names(model, layer) for layer in target_layer]
    return target_layer
