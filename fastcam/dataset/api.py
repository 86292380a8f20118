"""The way in: from what a user names to a run."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fastcam.classifiers.class_choice import Asked
from fastcam.classifiers.models import Classifier
from fastcam.classifiers.preprocessing import Preprocessing
from fastcam.dataset import table
from fastcam.dataset.cluster import Cluster
from fastcam.dataset.decode import Decoder, Limits, check_decoder, usual_decoder
from fastcam.dataset.identity import identity
from fastcam.dataset.job import Job, device_of
from fastcam.dataset.loading import Loader
from fastcam.dataset.runner import Progress, Report
from fastcam.dataset.sources import source_of
from fastcam.dataset.store import Span, Store
from fastcam.model.layers import TargetLayer
from fastcam.postprocess import Fusion
from fastcam.preparation.prepare import Precision


def run(
    source: Any,
    model: nn.Module | Classifier,
    out: str | Path,
    *,
    method: str | Sequence[str] = "grad_cam",
    target: str | int | Sequence[str | int] = "top1",
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
    report: Report | None = None,
    **options: Any,
) -> Progress:
    """Writes a saliency map for every image of a dataset; goes on where an earlier call was interrupted.

    What is committed survives a killed process, and a power failure on a file system that honours fsync; what was not
    is made anew, the same. An image that cannot be read becomes a row that says why.

    Args:
        source: a folder, ``.tar`` (WebDataset), ``.parquet`` or ``.txt`` file, a glob or fsspec URL of such, a list of
            paths, or a PyTorch dataset or unshuffled DataLoader (its samples: PIL images, or tensors ready for the
            model, alone or with a label).
        model: in evaluation mode, on the device it is to run on.
        out: the folder for the maps.
        method: a registry name, or several of one pass.
        target: class indices, names, or "top3" for the highest three; one or several.
        target_layer: as for :class:`fastcam.Explainer`; of several each gets its rows unless ``fuse`` joins them.
        fuse: how the maps of several layers become one.
        reshape_transform: as for :class:`fastcam.Explainer`.
        preprocessing: from a photograph to the model's input; None takes the classifier's, else ImageNet's usual one.
        resolution: "native", maps as large as the layer's, or "input", as large as the model's input.
        dtype: "float16", "float32", or "uint8" for maps scaled to [0, 1] and then to 0..255.
        batch_size: images at a time; None takes 8 on a CPU, 64 elsewhere. Halved where memory runs out.
        shard_size: images per Parquet file.
        workers: threads that read and decode; None takes one per core, eight at most.
        limits: what an image may be at most.
        decoder: of JPEG files, "torchcodec" or "pillow"; None takes torchcodec where it is installed. The other formats
            are read by Pillow.
        precision: as for :class:`fastcam.Explainer`.
        compile: as for :class:`fastcam.Explainer`.
        ray: None runs in this process; a :class:`Cluster`, or its address, on the nodes of a Ray cluster.
        report: called with the :class:`Progress` after every batch and commit.
        options: of the method.

    Returns:
        The progress at the end.

    Raises:
        InterruptedRunError: after SIGINT or SIGTERM.
        OSError: where the folder cannot be written; what is committed stays.
        ValueError, TypeError, RuntimeError: with a sentence; nothing was lost.
    """
    for name, value in (("batch_size", batch_size), ("shard_size", shard_size), ("workers", workers)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"`{name}` must be a positive whole number, got {value!r}")
    classifier = model if isinstance(model, Classifier) else Classifier(model, preprocessing or Preprocessing())
    explainer = {
        "method": [method] if isinstance(method, str) else list(method),
        "target_layer": target_layer,
        "fuse": fuse,
        "reshape_transform": reshape_transform,
        "precision": precision,
        "compile": compile,
        **options,
    }
    asked = Asked(tuple(map(str, [target] if isinstance(target, str | int) else target)))
    decoder = decoder or usual_decoder()
    check_decoder(decoder)
    loader = Loader(preprocessing or classifier.preprocessing, limits or Limits(), decoder)
    images, maps = source_of(source), table.Maps(resolution, dtype)
    settings = {
        **explainer,
        "target_layer": _layer_names(classifier.model, target_layer),
        "target": asked.texts,
        "shard_size": shard_size,
        "batch_size": batch_size or (8 if device_of(classifier.model).type == "cpu" else 64),
    }
    job = Job(
        source=images,
        classifier=classifier,
        explainer=explainer,
        asked=asked,
        loader=loader,
        maps=maps,
        folder=Path(out),
        identity=identity(classifier.model, images, loader, maps, **settings),
        batch_size=settings["batch_size"],
        shard_size=shard_size,
        workers=workers,
    )
    return _done(job, report or (lambda progress: None), ray)


def _done(job: Job, report: Report, ray: Cluster | str | None) -> Progress:
    """The job after its run."""
    engine = job.engine()  # settings that cannot be are refused before anything is written
    with contextlib.closing(job.store()) as store:
        if ray is not None:
            return Cluster.of(ray).run(job, store, report)
        return job.runner(engine, store, report).run(len(job.source), job.todo(store))


def verify(folder: str | Path, repair: bool = False) -> list[tuple[Span, str]]:
    """Rehashes every committed shard.

    Args:
        folder: what :func:`run` wrote.
        repair: sets damaged shards aside, so that the next run makes them anew.

    Returns:
        The damaged ones, and what is wrong with each.

    Raises:
        ValueError: where the folder holds no maps.
    """
    store = Store(folder)
    found = list(store.damaged())
    if repair:
        for span, _ in found:
            store.give_up(span)
    return found


def _layer_names(model: nn.Module, target_layer: TargetLayer) -> Any:
    """What the user named, modules by their names."""
    if isinstance(target_layer, nn.Module):
        return next((name for name, each in model.named_modules() if each is target_layer), repr(target_layer))
    if isinstance(target_layer, list | tuple):
        return [_layer_names(model, each) for each in target_layer]
    return target_layer
