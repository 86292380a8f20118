"""The public functions that run and verify."""

import contextlib
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fastcam.classifiers.models import Classifier
from fastcam.classifiers.preprocessing import Preprocessing
from fastcam.dataset import table
from fastcam.dataset.cluster import Cluster
from fastcam.dataset.decode import Decoder, Limits
from fastcam.dataset.decoding_processes import DecodeIn
from fastcam.dataset.device_decoding import device_decoder
from fastcam.dataset.devices import Devices, OnDevices
from fastcam.dataset.job import Job
from fastcam.dataset.job_arguments import make_job
from fastcam.dataset.records import Span
from fastcam.dataset.runner import Progress, Report
from fastcam.dataset.several import ByModel, check_one_model, jobs_of, run_jobs
from fastcam.dataset.sources import SourceLike
from fastcam.dataset.stages import Stages
from fastcam.dataset.store import Store
from fastcam.model.layers import TargetLayer
from fastcam.postprocess import Fusion
from fastcam.preparation.prepare import Precision
from fastcam.targets import Detections

PLAN_SHARD_SIZE = 64


def run(
    source: SourceLike,
    model: nn.Module | Classifier | Mapping[str, nn.Module | Classifier],
    out: str | Path,
    *,
    method: str | Sequence[str] = "grad_cam",
    target: ByModel[str | int | Sequence[str | int] | Detections] = "top1",
    target_layer: ByModel[TargetLayer] = None,
    fuse: Fusion | None = None,
    reshape_transform: ByModel[Callable[[Tensor], Tensor] | None] = None,
    preprocessing: ByModel[Preprocessing | None] = None,
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
    features: ByModel[str | nn.Module | None] = None,
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
        model: a model in evaluation mode, on the device to run on; or several by name, which see each image in the same
            pass, read and decoded once, each with its own folder ``out/name``. Then ``target``, ``target_layer``,
            ``reshape_transform``, ``preprocessing`` and ``features`` may be mappings from these names too.
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
        batch_size: images per batch, halved when memory runs out. None takes that of the run in the folder, else
            what :func:`fastcam.prepare` measured for a prepared model, else 8 on a CPU and 64 elsewhere.
        shard_size: images per Parquet file.
        workers: threads that read and decode; None takes one per core, at most eight, or 32 with processes.
        limits: limits of the images.
        decoder: of JPEG files, "torchcodec" or "pillow"; None takes torchcodec if it is installed. Pillow reads all
            other formats. "scaled" decodes large photographs at 1/2, 1/4 or 1/8, where that is still at least twice
            what they are resized to: in 0.6 of the time for twelve megapixels, with inputs that differ by some 1/255.
            "gpu" decodes ordinary JPEG files on the GPU of the model, by nvJPEG, and resizes them there.
        decode_in: "threads", or "processes", one for each of them, which decodes what it reads: faster from a few cores
            on, where threads wait for the interpreter's lock, and what kills a process is a row with the reason. None
            takes processes for a model on another device than the CPU, on more than two cores. The maps are the same.
        precision: as for :class:`fastcam.Explainer`.
        compile: as for :class:`fastcam.Explainer`.
        features: "hidden" for the last hidden layer, or a layer: its mean over the positions is kept beside the maps of
            each image, as :func:`fastcam.features.run` makes it, for :func:`fastcam.features.open`. It comes from the
            pass that explains the image; with ``precision`` or ``compile`` from a pass of its own.
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
    settings: dict[str, Any] = dict(
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
        decode_in=decode_in,
        precision=precision,
        compile=compile,
        features=features,
        **options,
    )
    report = report or (lambda progress: None)
    if not isinstance(model, Mapping):
        check_one_model(settings)
        return run_job(make_job(source, model, out, **settings), report, ray, devices)
    if ray is not None or devices is not None:
        raise ValueError("several models run in this process: give each a run of its own for `ray` or `devices`")
    return run_jobs(jobs_of(source, model, out, settings), report)


def run_job(job: Job, report: Report, ray: Cluster | str | None, devices: OnDevices | None = None) -> Progress:
    """Run a job in this process, on the nodes of a Ray cluster, or on several devices of this machine."""
    if ray is not None and devices is not None:
        raise ValueError("a run is on the nodes of a Ray cluster or on `devices` of this machine, not on both")
    place = Devices.of(devices) if devices is not None else Cluster.of(ray) if ray is not None else None
    if place is None:
        device_decoder(job.loader, job.device)
    maker = job.make_maker()  # raises for invalid settings before anything is written
    with contextlib.closing(job.open_store()) as store:
        if place is not None:
            done = place.run(job, store, report)
        else:
            done = job.make_runner(maker, store, report).run(len(job.source), job.missing_spans(store))
        if done.new:
            store.note_run(done.summary())
        return done


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
