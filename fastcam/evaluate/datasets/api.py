"""Measures over a whole dataset: of images and a model, or of stored maps."""

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from fastcam.classifiers.models import Classifier
from fastcam.classifiers.preprocessing import Preprocessing
from fastcam.dataset.api import run_job
from fastcam.dataset.cluster import Cluster
from fastcam.dataset.devices import OnDevices
from fastcam.dataset.export import read_preprocessing
from fastcam.dataset.job_arguments import make_job
from fastcam.dataset.loading import LoadedImage
from fastcam.dataset.reader import Maps
from fastcam.dataset.records import Commit, JsonObject
from fastcam.dataset.runner import Progress, Report
from fastcam.dataset.sources import Item, SourceLike
from fastcam.dataset.store import Store
from fastcam.dataset.table import Row
from fastcam.dataset.work import MapWork
from fastcam.evaluate.annotations import Annotations
from fastcam.evaluate.api import Options
from fastcam.evaluate.datasets.rows import MeasureRows, check_measures
from fastcam.evaluate.registry import get_measure
from fastcam.explanation import Explanation

ROWS_AT_A_TIME = 256
RECIPE = ("classes", "size", "interpolation", "normalization")  # of what a shard says of its maps


def run(
    source: SourceLike,
    model: nn.Module | Classifier,
    out: str | Path,
    measures: Sequence[str],
    *,
    annotations: Annotations | None = None,
    measure_options: Options | None = None,
    ray: Cluster | str | None = None,
    devices: OnDevices | None = None,
    report: Report | None = None,
    **settings: Any,
) -> Progress:
    """Explain and measure every image of a dataset; resume an earlier run that was interrupted.

    The folder has the form of one of maps, with the same promises: shards that are committed survive, damaged images
    become rows with a reason, and the values do not depend on how often the run was interrupted.

    Args:
        source: as for :func:`fastcam.dataset.run`.
        model: as for :func:`fastcam.dataset.run`.
        out: output folder.
        measures: names, see :func:`fastcam.evaluate.list_measures`.
        annotations: of the images, from :func:`fastcam.evaluate.annotations.open_annotations`. They are brought to
            the pixels of the model's input; objects that are difficult, and void pixels, do not count. Where all labels
            of an image's objects are names of the model's classes, the objects of the explained class count, and others
            are background; else all count.
        measure_options: options of the measures by name.
        ray: as for :func:`fastcam.dataset.run`.
        devices: as for :func:`fastcam.dataset.run`.
        report: as for :func:`fastcam.dataset.run`.
        settings: further arguments of :func:`fastcam.dataset.run`: ``method``, ``target``, ``target_layer``, ...; the
            target "objects" is the classes of the annotated objects.

    Returns:
        The progress at the end.

    Raises:
        InterruptedRunError: after SIGINT or SIGTERM.
        OSError: if the folder cannot be written; committed shards are kept.
        ValueError, TypeError, RuntimeError: for invalid arguments or a failed run; committed shards are kept.
    """
    options = dict(measure_options or {})
    check_measures(measures, options, annotations is not None, has_model=True)
    if settings.get("features") is not None:
        raise ValueError("`features` are kept beside maps, by fastcam.dataset.run, not beside measures")
    job = make_job(source, model, out, **settings)
    preprocessing = job.loader.preprocessing
    filled = _with_colours(measures, options, preprocessing)
    # Without the model: the rows are sent to every node, and must not take another copy of it along.
    names = replace(job.classifier, model=nn.Identity()).known_names
    rows = MeasureRows(list(measures), filled, annotations, preprocessing, names)
    assert isinstance(job.work, MapWork)
    work = replace(job.work, rows=rows)
    job = replace(job, work=work, identity={**job.identity, **_identity(measures, options, annotations)})
    return run_job(job, report or (lambda progress: None), ray, devices)


def run_on_maps(
    maps: Maps | str | Path,
    out: str | Path,
    measures: Sequence[str],
    *,
    annotations: Annotations | None = None,
    measure_options: Options | None = None,
    report: Report | None = None,
) -> Progress:
    """Measure the stored maps of a dataset, by measures that need no model; resume an earlier run.

    Photographs are not read: where annotations do not hold the size of their image, boxes and masks must be in pixels
    of the model's input.

    Args:
        maps: a folder of maps.
        out: output folder.
        measures: names of measures that need no model.
        annotations: as for :func:`run`.
        measure_options: as for :func:`run`.
        report: called after every shard.

    Returns:
        The progress at the end.

    Raises:
        OSError: if the folder cannot be written.
        ValueError, TypeError: for invalid arguments, or damaged maps.
    """
    maps = maps if isinstance(maps, Maps) else Maps(maps)
    options = dict(measure_options or {})
    check_measures(measures, options, annotations is not None, has_model=False)
    preprocessing = read_preprocessing(maps.identity["preprocessing"])
    rows = MeasureRows(list(measures), options, annotations, preprocessing, lambda count: maps.class_names)
    identity = {
        "maps_run": maps.store.run,
        "images": maps.identity["images"],
        "preprocessing": maps.identity["preprocessing"],
        **_identity(measures, options, annotations),
    }
    progress = Progress(int(maps.identity["images"]))
    with closing(Store(out, identity)) as store:
        for commit in maps.commits:
            if not store.is_done(commit.span):
                made, recipe = _measure_shard(maps, commit, rows)
                progress.commit = store.commit(commit.span, made, recipe)
                progress.new += commit.stop - commit.start
            progress.done += commit.stop - commit.start
            progress.failed += store.read_commit(commit.span).failed
            if report is not None:
                report(progress)
    return progress


def _identity(measures: Sequence[str], options: Options, annotations: Annotations | None) -> JsonObject:
    plain = {name: {key: _plain(value) for key, value in each.items()} for name, each in options.items()}
    digest = None if annotations is None else annotations.digest
    return {"measures": list(measures), "measure_options": plain, "annotations": digest}


def _with_colours(measures: Sequence[str], options: Options, preprocessing: Preprocessing) -> Options:
    """Return the options, of measures that change pixels also how these became the model's input."""
    colours = {"mean": preprocessing.mean, "std": preprocessing.std}
    return {
        name: {**(colours if colours.keys() <= get_measure(name).options.keys() else {}), **options.get(name, {})}
        for name in measures
    }


def _plain(value: object) -> object:
    if isinstance(value, Tensor):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value


def _measure_shard(maps: Maps, commit: Commit, rows: MeasureRows) -> tuple[list[pa.Table], JsonObject]:
    """Return the rows of a shard of maps, and what it says of all of them."""
    table, size = maps.read_shard(commit)
    recipe = json.loads(table.schema.metadata[b"fastcam"])
    numbers: dict[str, int] = {}
    made = []
    for batch in table.to_batches(max_chunksize=ROWS_AT_A_TIME):
        stored = batch.to_pylist()
        for row in stored:
            numbers.setdefault(row["image_id"], len(numbers))
        failed = [row for row in stored if row["method"] is None]
        if failed:
            images = [_image(row) for row in failed]
            ids = [numbers[row["image_id"]] for row in failed]
            made.append(rows.of_failures(images, ids, [row["status"] for row in failed]))
        for group in _alike([row for row in stored if row["method"] is not None]):
            explanation = _explanation(group, size)
            images = [_image(row) for row in group]
            made.append(rows.table({"": explanation}, images, [numbers[row["image_id"]] for row in group]))
    return made, {name: recipe[name] for name in RECIPE if name in recipe}


def _alike(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Yield the rows of each method and layer, those of no class (nothing was detected) by themselves."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        key = row["method"], row["layer"], tuple(row["map_shape"]), row["map_dtype"], row["target"] is None
        groups.setdefault(key, []).append(row)
    yield from groups.values()


def _explanation(rows: Sequence[Row], size: tuple[int, ...]) -> Explanation:
    """Return an explanation that holds stored maps; of uint8 the scaled ones, since others are not there."""
    values = np.stack([np.frombuffer(row["map"], row["map_dtype"]).reshape(row["map_shape"]) for row in rows])
    native = torch.from_numpy(values.astype(np.float32))
    scales = torch.tensor([1 / 255 if row["map_scale"] is None else row["map_scale"] for row in rows])
    native = native * scales.reshape(-1, *[1] * (native.dim() - 1))
    targets = [row["target"] for row in rows]
    return Explanation(
        method=rows[0]["method"],
        layer=rows[0]["layer"],
        images=torch.empty(1).expand(len(rows), 1, *size),
        output=_predicted(rows),
        scores=torch.tensor([row["score"] for row in rows]),
        targets=None if None in targets else torch.tensor(targets),
        native=native,
    )


def _predicted(rows: Sequence[Row]) -> Tensor | None:
    """Return an output whose highest class is the stored one."""
    classes = [row["predicted"] for row in rows]
    return None if None in classes else torch.nn.functional.one_hot(torch.tensor(classes)).float()


def _image(row: Row) -> LoadedImage:
    def unread(limits: object) -> object:
        raise ValueError("the photograph of a stored map is not read")

    item = Item(row["image_id"], row["path"] or "", row["label"], unread)
    return LoadedImage(item, row["label"], row["sha256"], None)
