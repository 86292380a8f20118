"""Reader for a folder of measured values: rows, means with intervals, localisation errors."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import torch
from torch import Tensor

from fastcam.dataset.reader import Maps
from fastcam.dataset.summary import classes_of_labels
from fastcam.dataset.table import Row
from fastcam.evaluate.bootstrap import interval, pooled_interval
from fastcam.evaluate.datasets.rows import SCHEMA
from fastcam.evaluate.registry import Measure, get_measure
from fastcam.evaluate.results import MAX_POOLS

LEVEL, DRAWS = 0.95, 2000


@dataclass(frozen=True)
class Mean:
    """The mean of one measure over a dataset.

    Attributes:
        measure: name of the measure, or of an error of localisation.
        method: name of the method.
        layer: name of its layer.
        mean: of the values, or what the measure pools; NaN if there is none.
        low, high: the bootstrap interval of 95 %, over images.
        values: number of maps with a value.
        undefined: number of maps without.
        higher_is_better: as of the measure.
    """

    measure: str
    method: str
    layer: str
    mean: float
    low: float
    high: float
    values: int
    undefined: int
    higher_is_better: bool | None


class Evaluations:
    """The values of a folder, read-only.

    Args:
        folder: output folder of :func:`fastcam.evaluate.datasets.run` or ``run_on_maps``.

    Raises:
        ValueError: for a folder that holds no measured values, or is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.maps = Maps(folder)
        if "measures" not in self.maps.identity:
            raise ValueError(f"{str(folder)!r} holds maps, but no measured values")

    @property
    def measures(self) -> list[str]:
        """The names of the measures."""
        names: list[str] = self.maps.identity["measures"]
        return names

    def dataset(self) -> ds.Dataset:
        """Return all rows as an Arrow dataset."""
        files = [str(self.maps.store.shard(commit.span)) for commit in self.maps.commits]
        return ds.dataset(files, schema=SCHEMA, format="parquet")

    def means(self) -> Iterator[Mean]:
        """Yield the mean of every method, layer and measure."""
        names = ["image_id", "method", "layer", "measure", "value"]
        rows = self.dataset().to_table(names, filter=pc.field("measure").is_valid())
        for (method, layer, name), chosen in _groups(rows, ["method", "layer", "measure"]):
            found = get_measure(name)
            values = chosen["value"].to_numpy(zero_copy_only=False)
            defined = ~np.isnan(values)
            mean, low, high = self._mean(found, method, layer, values, chosen["image_id"])
            counts = int(defined.sum()), int((~defined).sum())
            yield Mean(name, method, layer, mean, low, high, *counts, found.higher_is_better)

    def _mean(
        self, found: Measure, method: str, layer: str, values: np.ndarray, ids: pa.ChunkedArray
    ) -> tuple[float, float, float]:
        if np.isnan(values).all():
            return np.nan, np.nan, np.nan
        if found.pool is None:
            by_image = torch.from_numpy(_by_image(values, ids))
            return (float(np.nanmean(values)), *interval(by_image, LEVEL, DRAWS))
        details = self.details(found.name, method, layer)
        return (found.pool(details).item(), *pooled_interval(found.pool, details, 0, LEVEL, MAX_POOLS, 0))

    def details(self, measure: str, method: str, layer: str) -> dict[str, Tensor]:
        """Return the details (rows, ...) of a measure, by name, of the maps that have a value."""
        is_chosen = (pc.field("measure") == measure) & (pc.field("method") == method) & (pc.field("layer") == layer)
        rows = self.dataset().to_table(["details"], filter=is_chosen & pc.field("value").is_valid())
        columns: dict[str, list[object]] = {}
        for each in rows["details"].to_pylist():
            for name, values in each or ():
                columns.setdefault(name, []).append(values)
        return {name: torch.tensor(values, dtype=torch.float64) for name, values in columns.items()}

    def pointing_games(self) -> Iterator[Mean]:
        """Yield the pointing game as it is played on Pascal VOC and COCO (arXiv:1608.00507): means over classes.

        "pointing game, mean over classes" is of all maps, "difficult" of those whose objects cover less than a quarter
        of what the model sees while the image has objects of another class too. Both need maps of one class each, where
        annotations tell the classes apart: the target "objects".
        """
        if "pointing_game" not in self.measures:
            return
        is_game = pc.field("measure") == "pointing_game"
        rows = self.dataset().to_table(
            ["image_id", "target", "method", "layer", "value", "details"],
            filter=is_game & pc.field("value").is_valid() & pc.field("target").is_valid(),
        )
        for (method, layer), chosen in _groups(rows, ["method", "layer"]):
            details = [dict(each) for each in chosen["details"].to_pylist()]
            share, others = (
                np.array([each[name][0] for each in details]) for name in ("object_share", "other_classes")
            )
            if not (others > 0).any():
                continue  # annotations do not tell classes apart
            subsets = {"mean over classes": np.ones(len(share), bool), "difficult": (share < 0.25) & (others > 0)}
            for name, is_in in subsets.items():
                if is_in.any():
                    yield _game(f"pointing game, {name}", method, layer, chosen.filter(pa.array(is_in)))

    def localisation_errors(self) -> Iterator[Mean]:
        """Yield ILSVRC's errors from "localisation_accuracy", for labels that are classes of the model.

        A guess is right if its class is the label and its box fits an object. "top-1 localisation error" takes the
        guess of the highest class; "top-k" any of the k explained classes of an image; "known-class" the map of the
        label's class, where that was explained.
        """
        if "localisation_accuracy" not in self.measures:
            return
        names = ["image_id", "label", "target", "predicted", "method", "layer", "value"]
        rows = self.dataset().to_table(names, filter=pc.field("measure") == "localisation_accuracy")
        labels = sorted(set(rows["label"].drop_null().to_pylist()))
        classes = classes_of_labels(labels, self.maps.class_names)
        for (method, layer), chosen in _groups(rows, ["method", "layer"]):
            errors = _errors(chosen.to_pylist(), classes)
            for name, values in errors.items():
                numbers = np.array(values)
                if not len(numbers):
                    continue
                low, high = interval(torch.from_numpy(numbers), LEVEL, DRAWS)
                yield Mean(name, method, layer, float(numbers.mean()), low, high, len(numbers), 0, False)


def _game(name: str, method: str, layer: str, rows: pa.Table) -> Mean:
    """Return the mean over classes of the shares of hits."""
    ids = rows["image_id"]
    by_image = {
        each: torch.from_numpy(_by_image(rows[each].to_numpy().astype(float), ids)) for each in ("value", "target")
    }
    low, high = pooled_interval(_mean_over_classes, by_image, 1, LEVEL, MAX_POOLS, 0)
    return Mean(name, method, layer, _mean_over_classes(by_image).item(), low, high, len(rows), 0, True)


def _mean_over_classes(details: dict[str, Tensor]) -> Tensor:
    """Return the mean of the values of each class, for values and their classes, NaN where there is none."""
    is_there = ~details["value"].isnan()
    values, classes = details["value"][is_there], details["target"][is_there]
    places = classes.unique(return_inverse=True)[1]
    return (places.bincount(values) / places.bincount()).mean()


def _errors(rows: list[Row], classes: Mapping[str, set[int]]) -> dict[str, list[float]]:
    by_image: dict[str, list[Row]] = {}
    for row in rows:
        if row["label"] in classes and row["value"] is not None and row["target"] is not None:
            by_image.setdefault(row["image_id"], []).append(row)
    guesses = max((len(each) for each in by_image.values()), default=1)
    top, best, known = "top-1 localisation error", f"top-{guesses} localisation error", "known-class localisation error"
    errors: dict[str, list[float]] = {top: [], best: [], known: []}
    for each in by_image.values():
        right = [row["value"] * (row["target"] in classes[row["label"]]) for row in each]
        first = [value for value, row in zip(right, each, strict=True) if row["target"] == row["predicted"]]
        if first:
            errors[top].append(1 - first[0])
        if guesses > 1:
            errors[best].append(1 - max(right))
        errors[known] += [1 - row["value"] for row in each if row["target"] in classes[row["label"]]][:1]
    return errors


def _groups(table: pa.Table, names: list[str]) -> Iterator[tuple[tuple[Any, ...], pa.Table]]:
    """Yield the rows that are equal in some columns, in the order in which they come."""
    keys = list(zip(*(table[name].to_pylist() for name in names), strict=True))
    places: dict[tuple[Any, ...], list[int]] = {}
    for index, key in enumerate(keys):
        places.setdefault(key, []).append(index)
    for key, chosen in places.items():
        yield key, table.take(chosen)


def _by_image(values: np.ndarray, ids: pa.ChunkedArray) -> np.ndarray:
    """Return values (rows,) with a row for every image, (N, K), NaN where an image has fewer targets than others."""
    codes = pc.dictionary_encode(ids).combine_chunks().indices.to_numpy()
    if not len(codes):
        return np.empty((0, 1))
    order = np.argsort(codes, kind="stable")
    counts = np.bincount(codes)
    places = np.arange(len(codes)) - np.repeat(np.cumsum(counts) - counts, counts)
    table = np.full((len(counts), counts.max()), np.nan)
    table[codes[order], places] = values[order]
    return table
