"""The public functions that run and verify."""

import contextlib
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fastcam.classifiers.class_choice import ClassChoice
from fastcam.classifiers.models import Classifier
from fastcam.classifiers.preprocessing import Preprocessing
from fastcam.dataset import table
from fastcam.dataset.cluster import Cluster
from fastcam.dataset.decode import Decoder, Limits, check_decoder, default_decoder
from fastcam.dataset.detection_rows import DetectionRows, detections_of
from fastcam.dataset.devices import Devices, OnDevices
from fastcam.dataset.identity import identity
from fastcam.dataset.job import Job, device_of
from fastcam.dataset.loading import Loader
from fastcam.dataset.records import Span
from fastcam.dataset.rows import MapRows
from fastcam.dataset.runner import Progress, Report
from fastcam.dataset.sources import SourceLike, source_of
from fastcam.dataset.stages import Stages
from fastcam.dataset.store import Store
from fastcam.dataset.work import MapWork, Work
from fastcam.model.layers import TargetLayer
from fastcam.postprocess import Fusion
from fastcam.preparation.prepare import Precision
from fastcam.targets import Detections

DEFAULT_BATCH_SIZE = 64
DEFAULT_CPU_BATCH_SIZE = 8
PLAN_SHARD_SIZE = 64


def run(
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
    precision: Precision | None = None,
    compile: bool = False,
    ray: Cluster | str | None = None,
    devices: OnDevices | None = None,
    report: Report | None = None,
    **options: Any,
) -> Progress:
    """Write a saliency map for every image of a dataset; resume an earlier run that was interrupted.

    Committed shards survive a killed process, and a power failure on a file system that honours fsync; the others are
    made again, with the same content. An image that cannot be read becomes a row with the reason.

    Args:
        source: a folder, ``.tar`` (WebDataset), ``.parquet`` or ``.txt`` file, a glob or fsspec URL of such, a list of
            paths, or a PyTorch dataset or unshuffled DataLoader (samples: PIL images or preprocessed tensors, alone or
            with a label); or a part of one of these, from :func:`fastcam.dataset.select`.
        model: a model in evaluation mode, on the device to run on.
        out: output folder.
        method: a registry name, or several that share a pass.
        target: class indices, names, "top3" for the highest three, or "label" for the class that the image's own label
            names; one or several. "detections", or "detections>0.3", makes a row for every detection of a detector, as
            does a :class:`fastcam.targets.Detections`.
        target_layer: as for :class:`fastcam.Explainer`; several layers get rows of their own unless ``fuse`` is given.
        fuse: reduction of the maps of several layers to one.
        reshape_transform: as for :class:`fastcam.Explainer`.
        preprocessing: converts a photograph to the model's input; None takes the classifier's, else ImageNet's.
        resolution: "native", the size of the layer's map, or "input", the size of the model's input.
        dtype: "float16", "float32", or "uint8" for maps scaled to [0, 1] and then to 0..255.
        batch_size: images per batch; None takes 8 on a CPU, 64 elsewhere. Halved when memory runs out.
        shard_size: images per Parquet file.
        workers: threads that read and decode; None takes one per core, at most eight.
        limits: limits of the images.
        decoder: of JPEG files, "torchcodec" or "pillow"; None takes torchcodec if it is installed. Pillow reads all
            other formats. "scaled" decodes large photographs at 1/2, 1/4 or 1/8, where that is still at least twice
            what they are resized to: in 0.6 of the time for twelve megapixels, with inputs that differ by some 1/255.
        precision: as for :class:`fastcam.Explainer`.
        compile: as for :class:`fastcam.Explainer`.
        ray: None runs in this process; a :class:`Cluster`, or its address, on the nodes of a Ray cluster.
        devices: of this machine to run on, each in a process of its own: ["cuda:0", "cuda:1"], [0, 1], or "all" GPUs.
        report: called with the :class:`Progress` after every batch and commit.
        options: options of the method.

    Returns:
        The progress at the end.

    Raises:
        InterruptedRunError: after SIGINT or SIGTERM.
        OSError: if the folder cannot be written; committed shards are kept.
        ValueError, TypeError, RuntimeError: for invalid arguments or a failed run; committed shards are kept.
    """
    job = make_job(
        source,
        model,
        out,
        method=method,
        target=target,
        target_layer=target_layer,
        fuse=fuse,
        reshape_transform=reshape_transform,
        preprocessing=preprocessing,
        resolution=resolution,
        dtype=dtype,
        batch_size=batch_size,
        shard_size=shard_size,
        workers=workers,
        limits=limits,
        decoder=decoder,
        precision=precision,
        compile=compile,
        **options,
    )
    return run_job(job, report or (lambda progress: None), ray, devices)


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
    precision: Precision | None = None,
    compile: bool = False,
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
    return job_of(
        source,
        classifier,
        out,
        MapWork(explainer_options, chosen, rows),
        settings,
        preprocessing=preprocessing,
        batch_size=batch_size,
        shard_size=shard_size,
        workers=workers,
        limits=limits,
        decoder=decoder,
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

    Raises:
        ValueError, TypeError: for invalid arguments.
    """
    for name, value in (("batch_size", batch_size), ("shard_size", shard_size), ("workers", workers)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"`{name}` must be a positive whole number, got {value!r}")
    decoder = decoder or default_decoder()
    check_decoder(decoder)
    loader = Loader(preprocessing or classifier.preprocessing, limits or Limits(), decoder)
    images = source_of(source)
    default_batch_size = DEFAULT_CPU_BATCH_SIZE if device_of(classifier.model).type == "cpu" else DEFAULT_BATCH_SIZE
    batch_size = batch_size or default_batch_size
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
    )


def run_job(job: Job, report: Report, ray: Cluster | str | None, devices: OnDevices | None = None) -> Progress:
    """Run a job in this process, on the nodes of a Ray cluster, or on several devices of this machine."""
    if ray is not None and devices is not None:
        raise ValueError("a run is on the nodes of a Ray cluster or on `devices` of this machine, not on both")
    place = Devices.of(devices) if devices is not None else Cluster.of(ray) if ray is not None else None
    maker = job.make_maker()  # raises for invalid settings before anything is written
    with contextlib.closing(job.open_store()) as store:
        if place is not None:
            return place.run(job, store, report)
        return job.make_runner(maker, store, report).run(len(job.source), job.missing_spans(store))


def plan(source: SourceLike, model: nn.Module | Classifier, seconds: float = 10.0, **settings: Any) -> Stages:
    """Measure what the stages of a run can do on this machine, with the first images and without keeping maps.

    Shards are small, so that writing is measured too; larger ones are written faster.

    Args:
        source: as for :func:`run`.
        model: as for :func:`run`.
        seconds: when to stop.
        settings: of :func:`run`; ``report``, ``ray`` and ``devices`` are not possible.

    Returns:
        What was measured after the first batch.

    Raises:
        ValueError, TypeError, RuntimeError, OSError, InterruptedRunError: as :func:`run`.
    """
    refused = {"out", "report", "ray", "devices"} & {name for name, value in settings.items() if value is not None}
    if refused:
        raise ValueError(f"a plan is measured in this process and keeps nothing: `{refused.pop()}` is not possible")
    start, stages = time.monotonic(), Stages()

    class Measured(Exception):  # noqa: N818 - no error
        pass

    def stop(progress: Progress) -> None:
        nonlocal stages
        stages = progress.stages
        if time.monotonic() - start >= seconds and stages.images:
            raise Measured

    batch_size = settings.get("batch_size")
    size = max(PLAN_SHARD_SIZE, batch_size) if isinstance(batch_size, int) else PLAN_SHARD_SIZE  # for whole batches
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Measured):
        stages = run(source, model, folder, **{**settings, "report": stop, "shard_size": size}).stages
    return stages


def verify(folder: str | Path, repair: bool = False) -> list[tuple[Span, str]]:
    """Rehash every committed shard.

    Args:
        folder: output folder of :func:`run`.
        repair: whether to set damaged shards aside, so that the next run makes them again.

    Returns:
        The damaged shards, each with a description of the damage.

    Raises:
        ValueError: for a folder that holds no maps.
    """
    store = Store(folder)
    damaged = list(store.damaged())
    if repair:
        for span, _ in damaged:
            store.set_shard_aside(span)
    return damaged


def layer_names(model: nn.Module, target_layer: TargetLayer) -> object:
    """Return the target layers with modules replaced by their names."""
    if isinstance(target_layer, nn.Module):
        return next((name for name, module in model.named_modules() if module is target_layer), repr(target_layer))
    if isinstance(target_layer, list | tuple):
        return [layer_names(model, layer) for layer in target_layer]
    return target_layer
