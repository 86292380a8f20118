"""Reader for a folder of maps: rows and full-size maps by image id, counts, mean maps."""

import json
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from fastcam.dataset.records import Commit, JsonObject
from fastcam.dataset.store import Store
from fastcam.dataset.table import SCHEMA, Map, Row, decode_map, read_shard
from fastcam.dataset.vectors import COLUMN

MAX_CACHED_BYTES = 512 * 2**20  # of shards in memory: those of ImageNet with maps of 7 x 7
READ_BATCH_SIZE = 64  # rows

MapGroup: TypeAlias = tuple[str, str, int | None]  # (method, layer, explained class)
Shard: TypeAlias = tuple[pa.Table, tuple[int, ...]]  # its rows, and the size of the model's input


@dataclass(frozen=True)
class Stats:
    """Counts of a folder of maps.

    Attributes:
        total: images of the dataset.
        images: images in committed shards.
        failed: images without a map.
        rows: rows.
        bytes: size of the shards.
        statuses: number of rows by status.
        predicted: number of images by predicted class.
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
        folder: output folder of :func:`fastcam.dataset.run`.

    Attributes:
        cached_shard: as :meth:`read_shard`, from memory where the shard was read lately.

    Raises:
        ValueError: for a folder that holds no maps or is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.store = Store(folder)
        self.cached_shard = _ShardCache(self.read_shard)

    @cached_property
    def commits(self) -> list[Commit]:
        """The committed shards at the first access."""
        return self.store.committed()

    @property
    def identity(self) -> JsonObject:
        """The identity of the run: weights, method, layer, preprocessing, ..."""
        return self.store.identity

    @property
    def last_run(self) -> JsonObject | None:
        """What the last run that made something says of itself: images, seconds, the rates of its stages; or None."""
        return self.store.last_run()

    @cached_property
    def class_names(self) -> list[str]:
        """The names of the model's classes as the run knew them, possibly none."""
        for commit in self.commits:
            metadata = pq.read_schema(self.store.shard(commit.span)).metadata or {}
            names: list[str] = json.loads(metadata.get(b"fastcam", b"{}")).get("classes", [])
            if names:
                return names
        return []

    def dataset(self) -> ds.Dataset:
        """Return all rows as an Arrow dataset, for filters, ``to_table().to_pandas()``, DuckDB or Polars."""
        files = [str(self.store.shard(commit.span)) for commit in self.commits]
        schema = pq.read_schema(files[0]).remove_metadata() if files else SCHEMA  # detections have columns of their own
        return ds.dataset(files, schema=schema, format="parquet")

    @cached_property
    def _locations(self) -> dict[str, tuple[Commit, int]]:
        """The shard of each image, and its first row there."""
        locations: dict[str, tuple[Commit, int]] = {}
        for commit in self.commits:
            names = pq.read_table(self.store.shard(commit.span), columns=["image_id"])["image_id"]
            for row, name in enumerate(names.to_pylist()):
                locations.setdefault(name, (commit, row))
        return locations

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._locations)

    def __iter__(self) -> Iterator[str]:
        """Yield the image ids, in the dataset's order."""
        return iter(self._locations)

    def __contains__(self, image_id: object) -> bool:
        """Whether there is an image with this id."""
        return image_id in self._locations

    def rows(self, image_id: str) -> list[Row]:
        """Return all rows of an image.

        Raises:
            KeyError: for an unknown id.
            ValueError: for a damaged shard.
        """
        commit, first = self._locate(image_id)
        table, _ = self.cached_shard(commit)
        names = table["image_id"]
        last = first
        while last < len(names) and names[last].as_py() == image_id:
            last += 1
        return table.slice(first, last - first).to_pylist()

    def maps(self, image_id: str) -> list[Map]:
        """Return an image's maps at the size of the model's input, scaled to [0, 1]; none for a failed image.

        Raises:
            KeyError: for an unknown id.
            ValueError: for a damaged shard.
        """
        size = self.cached_shard(self._locate(image_id)[0])[1]
        return [decode_map(row, size) for row in self.rows(image_id) if row["map"] is not None]

    def size_of(self, image_id: str) -> tuple[int, ...]:
        """Return the size of the model's input for an image.

        Raises:
            KeyError: for an unknown id.
        """
        return self.cached_shard(self._locate(image_id)[0])[1]

    def each(self) -> Iterator[tuple[Row, Map]]:
        """Yield every row with a map, and the map at the size of the model's input; one shard in memory at a time.

        Raises:
            ValueError: for a damaged shard.
        """
        for commit in self.commits:
            table, size = self.read_shard(commit)
            for batch in table.to_batches(max_chunksize=READ_BATCH_SIZE):
                yield from ((row, decode_map(row, size)) for row in batch.to_pylist() if row["map"] is not None)

    def _locate(self, image_id: str) -> tuple[Commit, int]:
        if image_id not in self._locations:
            raise KeyError(f"there are no maps of an image {image_id!r}")
        return self._locations[image_id]

    def read_shard(self, commit: Commit) -> Shard:
        """Return the rows of a shard without feature vectors, and the size of the model's input.

        Raises:
            ValueError: for a damaged shard.
        """
        table = read_shard(self.store.data(commit), without=COLUMN)
        return table, tuple(json.loads(table.schema.metadata[b"fastcam"])["size"])

    def stats(self) -> Stats:
        """Return counts of images, rows, failures and predictions."""
        table = self.dataset().to_table(["image_id", "status", "predicted"])
        statuses = Counter(table["status"].to_pylist())
        first = table.group_by("image_id", use_threads=False).aggregate([("predicted", "first")])
        times = [self.store.record(commit.span).stat().st_mtime for commit in self.commits]
        return Stats(
            self.identity["images"],
            sum(commit.stop - commit.start for commit in self.commits),
            sum(commit.failed for commit in self.commits),
            table.num_rows,
            sum(commit.bytes for commit in self.commits),
            dict(statuses.most_common()),
            dict(Counter(pc.drop_null(first["predicted_first"]).to_pylist()).most_common()),
            max(times, default=0.0) - min(times, default=0.0),
        )

    def mean_maps(self) -> dict[MapGroup, Map]:
        """Return the mean full-size map by (method, layer, explained class), without non-finite maps."""
        sums: dict[MapGroup, npt.NDArray[np.float64]] = {}
        counts: Counter[MapGroup] = Counter()
        for row, values in self.each():
            if row["status"] != "non-finite":
                key = (row["method"], row["layer"], row["target"])
                sums[key] = sums.get(key, 0.0) + values.astype(np.float64)
                counts[key] += 1
        return {key: (total / counts[key]).astype(np.float32) for key, total in sums.items()}


class _ShardCache:
    """The shards that were read last, up to ``MAX_CACHED_BYTES``.

    Args:
        read: reads a shard.
    """

    def __init__(self, read: Callable[[Commit], Shard]) -> None:
        self._read, self.cached_shards, self._bytes = read, OrderedDict[Commit, Shard](), 0
        self._lock = threading.Lock()

    def __call__(self, commit: Commit) -> Shard:
        """Return a shard."""
        with self._lock:
            if commit not in self.cached_shards:
                self.cached_shards[commit] = self._read(commit)
                self._bytes += self.cached_shards[commit][0].nbytes
            self.cached_shards.move_to_end(commit)
            while self._bytes > MAX_CACHED_BYTES and len(self.cached_shards) > 1:
                self._bytes -= self.cached_shards.popitem(last=False)[1][0].nbytes
            return self.cached_shards[commit]
