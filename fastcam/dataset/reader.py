"""Reading a folder of maps: any image by its id, full-size maps, counts, means."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from fastcam.dataset.store import Commit, Store
from fastcam.dataset.table import SCHEMA, decoded, read_shard

_HELD = 8  # shards in memory


@dataclass(frozen=True)
class Stats:
    """What a folder of maps holds.

    Attributes:
        total: images of the dataset.
        images: images in committed shards.
        failed: images without a map.
        rows: rows.
        bytes: of the shards.
        statuses: how many rows have each status.
        predicted: how many images each class was predicted for.
        seconds: from the first commit to the last.
    """

    total: int
    images: int
    failed: int
    rows: int
    bytes: int
    statuses: dict[str, int]
    predicted: dict[int, int]
    seconds: float


class Maps:
    """The committed maps of a folder, read-only.

    Args:
        folder: what :func:`fastcam.dataset.run` wrote.

    Raises:
        ValueError: where there is no such folder, or it is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.store = Store(folder)
        self._shard = lru_cache(_HELD)(self._read)

    @cached_property
    def commits(self) -> list[Commit]:
        """The shards, as they were when first asked for."""
        return self.store.committed()

    @property
    def identity(self) -> dict[str, Any]:
        """What the maps are of: weights, method, layer, preprocessing, ..."""
        return self.store.identity

    def dataset(self) -> ds.Dataset:
        """All rows as an Arrow dataset: filters, columns, ``to_pandas()``, DuckDB and Polars read it as it is."""
        files = [str(self.store.shard(each.span)) for each in self.commits]
        return ds.dataset(files, schema=SCHEMA, format="parquet")

    @cached_property
    def _places(self) -> dict[str, tuple[Commit, int]]:
        """The shard of every image, and its first row there."""
        found: dict[str, tuple[Commit, int]] = {}
        for commit in self.commits:
            names = pq.read_table(self.store.shard(commit.span), columns=["image_id"])["image_id"]
            for row, name in enumerate(names.to_pylist()):
                found.setdefault(name, (commit, row))
        return found

    def __len__(self) -> int:
        """Number of images."""
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        """The ids, in the dataset's order."""
        return iter(self._places)

    def __contains__(self, image_id: object) -> bool:
        """Whether there is such an image."""
        return image_id in self._places

    def rows(self, image_id: str) -> list[dict[str, Any]]:
        """All rows of an image, as they were written.

        Raises:
            KeyError: for an id that is not there.
            ValueError: where its shard is damaged.
        """
        commit, first = self._place(image_id)
        table, _ = self._shard(commit)
        names = table["image_id"]
        last = first
        while last < len(names) and names[last].as_py() == image_id:
            last += 1
        return table.slice(first, last - first).to_pylist()

    def maps(self, image_id: str) -> list[np.ndarray[Any, Any]]:
        """The maps of an image's rows at the size of the model's input, scaled to [0, 1]; none for a failed image.

        Raises:
            KeyError: for an id that is not there.
            ValueError: where its shard is damaged.
        """
        size = self._shard(self._place(image_id)[0])[1]
        return [decoded(row, size) for row in self.rows(image_id) if row["map"] is not None]

    def each(self) -> Iterator[tuple[dict[str, Any], np.ndarray[Any, Any]]]:
        """Every row that has a map, and the map at the size of the model's input; a shard at a time in memory.

        Raises:
            ValueError: where a shard is damaged.
        """
        for commit in self.commits:
            table, size = self._read(commit)
            for batch in table.to_batches(max_chunksize=64):
                yield from ((row, decoded(row, size)) for row in batch.to_pylist() if row["map"] is not None)

    def _place(self, image_id: str) -> tuple[Commit, int]:
        if image_id not in self._places:
            raise KeyError(f"there are no maps of an image {image_id!r}")
        return self._places[image_id]

    def _read(self, commit: Commit) -> tuple[pa.Table, tuple[int, ...]]:
        table = read_shard(self.store.data(commit))
        return table, tuple(json.loads(table.schema.metadata[b"fastcam"])["size"])

    def stats(self) -> Stats:
        """Counts of images, rows, failures and predictions."""
        table = self.dataset().to_table(["image_id", "status", "predicted"])
        statuses = Counter(table["status"].to_pylist())
        first = table.group_by("image_id", use_threads=False).aggregate([("predicted", "first")])
        times = [self.store.record(each.span).stat().st_mtime for each in self.commits]
        return Stats(
            self.identity["images"],
            sum(each.stop - each.start for each in self.commits),
            sum(each.failed for each in self.commits),
            table.num_rows,
            sum(each.bytes for each in self.commits),
            dict(statuses.most_common()),
            dict(Counter(pc.drop_null(first["predicted_first"]).to_pylist()).most_common()),
            max(times, default=0.0) - min(times, default=0.0),
        )

    def mean_maps(self) -> dict[tuple[str, str, int | None], np.ndarray[Any, Any]]:
        """The mean full-size map by (method, layer, explained class); maps that are not finite left out."""
        sums: dict[tuple[str, str, int | None], np.ndarray[Any, Any]] = {}
        counts: Counter[tuple[str, str, int | None]] = Counter()
        for row, found in self.each():
            if row["status"] != "non-finite":
                key = (row["method"], row["layer"], row["target"])
                sums[key] = sums.get(key, 0.0) + found.astype(np.float64)
                counts[key] += 1
        return {key: (total / counts[key]).astype(np.float32) for key, total in sums.items()}
