"""What the maps themselves say, in one pass over the shards: how spread out each is, whether methods agree, and means.

Made when it is first asked for: it is the one thing for which all maps are read.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from fastcam.dataset.reader import Maps

Floats = npt.NDArray[np.float32]
MeanKey = tuple[str, str, int | None]  # method, layer, class
_COLUMNS = ["image_id", "target", "method", "layer", "status", "map", "map_shape", "map_dtype", "map_scale"]


@dataclass
class Statistics:
    """Of one folder of maps, in the order of its rows; NaN where there is no value.

    Attributes:
        entropy: of the map's positive values, taken for a distribution over the positions: 0 for all at one, 1 for the
            same at every one.
        disagreement: 1 minus the correlation with the maps of the same image and class by other methods or layers of
            the same size, their mean: 0 for the same map, 1 for unrelated ones, 2 for the opposite.
        means: mean of the maps, each scaled to [0, 1], by method, layer and class.
    """

    entropy: Floats
    disagreement: Floats
    means: dict[MeanKey, Floats] = field(default_factory=dict)


def statistics_of(maps: Maps) -> Statistics:
    """Return the statistics of a folder of maps."""
    entropies, disagreements = [], []
    sums: dict[MeanKey, tuple[npt.NDArray[np.float64], int]] = {}
    for commit in maps.commits:
        table = pq.read_table(maps.store.shard(commit.span), columns=_COLUMNS, use_threads=False).combine_chunks()
        entropy = np.full(len(table), np.nan, np.float32)
        disagreement = entropy.copy()
        for rows, values in _by_shape(table):
            entropy[rows] = entropies_of(values)
            disagreement[rows] = disagreements_of(values, _groups(table, rows))
            for key, total, count in _sums(table, rows, values):
                before, counted = sums.get(key, (0.0, 0))
                if counted == 0 or np.shape(before) == total.shape:
                    sums[key] = before + total, counted + count
        entropies.append(entropy)
        disagreements.append(disagreement)
    means = {key: (total / count).astype(np.float32) for key, (total, count) in sums.items()}
    return Statistics(np.concatenate(entropies), np.concatenate(disagreements), means)


def entropies_of(maps: Floats) -> Floats:
    """Return the entropies (n,) of maps (n, *s), from 0 to 1; NaN for maps without a positive value."""
    flat = maps.reshape(len(maps), -1).clip(min=0).astype(np.float64)
    total = flat.sum(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = flat / total
        logarithms = np.where(shares > 0, np.log(shares), 0.0)
        found = -(shares * logarithms).sum(1) / np.log(max(2, flat.shape[1]))
    result: Floats = np.where(total[:, 0] > 0, found, np.nan).astype(np.float32)
    return result


def disagreements_of(maps: Floats, groups: npt.NDArray[np.int64]) -> Floats:
    """Return 1 minus the mean correlation (n,) of each map (n, *s) with the others of its group; NaN where none is."""
    flat = maps.reshape(len(maps), -1).astype(np.float64)
    centred = flat - flat.mean(1, keepdims=True)
    norm = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = np.divide(centred, norm, out=np.zeros_like(centred), where=norm > 0)
    counted = (norm[:, 0] > 0).astype(np.float64)
    totals = np.zeros((groups.max() + 1, flat.shape[1]))
    np.add.at(totals, groups, unit)
    others = np.bincount(groups, counted)[groups] - counted
    alike = (unit * totals[groups]).sum(1) - counted
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = np.where((others > 0) & (counted > 0), 1 - alike / others, np.nan).astype(np.float32)
    return found


def _by_shape(table: pa.Table) -> Iterator[tuple[npt.NDArray[np.int64], Floats]]:
    """Yield the numbers of the rows whose maps have one shape and type, and the finite maps (n, *s)."""
    cells = table["map"].to_pylist()
    kinds: dict[tuple[Any, ...], list[int]] = {}
    for row, (cell, shape, dtype) in enumerate(
        zip(cells, table["map_shape"].to_pylist(), table["map_dtype"].to_pylist(), strict=True)
    ):
        if cell is not None:
            kinds.setdefault((dtype, *shape), []).append(row)
    scales = table["map_scale"].to_numpy(zero_copy_only=False).astype(np.float32)
    for (dtype, *shape), rows in kinds.items():
        chosen = np.array(rows)
        values = (
            np.frombuffer(b"".join(cells[row] for row in rows), dtype).reshape(len(rows), *shape).astype(np.float32)
        )
        scale = np.nan_to_num(scales[chosen], nan=1 / 255).reshape(-1, *[1] * len(shape))
        finite = np.isfinite(values).reshape(len(rows), -1).all(1)
        if finite.any():
            yield chosen[finite], (values * scale)[finite]


def _groups(table: pa.Table, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return a number for each row that rows of the same image and class share."""
    images, targets = (table[name].take(rows).to_pylist() for name in ("image_id", "target"))
    numbers: dict[tuple[object, object], int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in zip(images, targets, strict=True)])


def _sums(
    table: pa.Table, rows: npt.NDArray[np.int64], maps: Floats
) -> Iterator[tuple[MeanKey, npt.NDArray[np.float64], int]]:
    """Yield the sums of maps scaled to [0, 1], and their number, by method, layer and class."""
    flat = maps.reshape(len(maps), -1)
    low, high = flat.min(1), flat.max(1)
    width = np.where(high > low, high - low, 1)
    shape = (-1, *[1] * (maps.ndim - 1))
    scaled = (maps - low.reshape(shape)) / width.reshape(shape)
    methods, layers, targets = (table[name].take(rows).to_pylist() for name in ("method", "layer", "target"))
    keys: dict[MeanKey, list[int]] = {}
    for place, key in enumerate(zip(methods, layers, targets, strict=True)):
        keys.setdefault(key, []).append(place)
    for key, places in keys.items():
        yield key, scaled[places].sum(0, dtype=np.float64), len(places)
