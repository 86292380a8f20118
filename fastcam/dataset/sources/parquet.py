"""Images of Parquet files."""

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem

from fastcam.dataset.decode import Limits
from fastcam.dataset.sources.base import Item, digest_lines, relative_names
from fastcam.dataset.sources.remote import is_networked, named_errors

IMAGE_COLUMNS = ("image", "img", "jpg")  # preferred names, where several columns hold bytes
LABEL_COLUMNS = ("label", "labels", "cls")
READ_BATCH_SIZE = 64  # rows


class ParquetSource:
    """Parquet files with a column of images: bytes, or {bytes, path} as in Hugging Face datasets.

    Where parts are read one behind the other, as a run does, every row group is read once, however the parts cut it.
    """

    def __init__(self, system: AbstractFileSystem, paths: Sequence[str]) -> None:
        self.system, self.paths = system, paths
        self._open_rows: dict[int, Iterator[Item]] = {}  # by the position where they go on
        self.names, self.starts = relative_names(paths), [0]
        for path in paths:
            with self._open(path) as file:
                _find_image_column(file.schema_arrow, path)  # checked before the run begins
                self.starts.append(self.starts[-1] + file.metadata.num_rows)

    def _open(self, path: str) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(path, filesystem=self.system)
        except (pa.ArrowException, OSError) as error:
            reason = str(error).strip().split("\n", maxsplit=1)[0]
            raise ValueError(f"{path!r} is no Parquet file that can be read: {reason}") from None

    @property
    def is_remote(self) -> bool:
        """Whether a read waits for a network."""
        return is_networked(self.system)

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.starts[-1]

    def digest(self) -> str:
        """Return a digest of the file names and row counts."""
        ends = zip(self.paths, self.starts[1:], strict=True)
        return digest_lines([f"{self.names[path]}:{end}" for path, end in ends])

    def items(self, start: int, stop: int) -> Iterator[Item]:
        """Yield the rows from position ``start`` to ``stop``."""
        rows = self._open_rows.pop(start, None) or self._rows_from(start)
        self._open_rows.clear()
        yield from itertools.islice(rows, max(0, min(stop, len(self)) - start))
        if stop < len(self):
            self._open_rows[stop] = rows

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without open files."""
        return {**vars(self), "_open_rows": {}}

    def _rows_from(self, start: int) -> Iterator[Item]:
        """Yield all rows from a position on."""
        for path, first, last in zip(self.paths, self.starts, self.starts[1:], strict=False):
            if last > start:
                with named_errors(path):
                    yield from self._read_rows(path, max(start - first, 0))

    def descriptions(self) -> Iterator[tuple[str, str, str]]:
        """Yield (id, path, label) of all rows without reading their images; "" for no label."""
        for path in self.paths:
            with self._open(path) as file:
                schema, name = file.schema_arrow, self.names[path]
                image, label = _find_image_column(schema, path), _find_label_column(schema)
                kind = schema.field(image).type
                has_path = pa.types.is_struct(kind) and kind.get_field_index("path") >= 0
                columns = [f"{image}.path"] * has_path + [label] * (label is not None)
                rows: Iterable[dict[str, Any]] = [{}] * file.metadata.num_rows
                if columns:
                    rows = (row for batch in file.iter_batches(columns=columns) for row in batch.to_pylist())
                for number, row in enumerate(rows):
                    text, identity = row.get(label or ""), f"{name}:{number}"
                    yield identity, (row.get(image) or {}).get("path") or identity, "" if text is None else str(text)

    def _read_rows(self, path: str, start: int) -> Iterator[Item]:
        """Yield the rows of one file from a row on; row groups before it are not read."""
        with self._open(path) as file:
            image_column = _find_image_column(file.schema_arrow, path)
            label_column = _find_label_column(file.schema_arrow)
            columns = [image_column] + ([label_column] if label_column else [])
            first = 0
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                if first + count > start:
                    row = first
                    for batch in file.iter_batches(READ_BATCH_SIZE, row_groups=[group], columns=columns):
                        for index in range(max(0, start - row), len(batch)):
                            yield self._make_item(path, row + index, batch, index, image_column, label_column)
                        row += len(batch)
                first += count

    def _make_item(
        self, path: str, row: int, batch: pa.RecordBatch, index: int, image_column: str, label_column: str | None
    ) -> Item:
        image = batch.column(image_column)[index].as_py()
        image_path = image.get("path") if isinstance(image, dict) else None
        data = image.get("bytes") if isinstance(image, dict) else image
        label = None if label_column is None else batch.column(label_column)[index].as_py()
        name = f"{self.names[path]}:{row}"
        return Item(
            name, image_path or name, None if label is None else str(label), functools.partial(_check_data, data)
        )


def _check_data(data: bytes | None, limits: Limits) -> bytes:
    """Return the bytes of a row, if there are any and they are within the limits."""
    if data is None:
        raise ValueError("the row holds no bytes of an image")
    limits.check_bytes(len(data))
    return data


def _find_image_column(schema: pa.Schema, path: str) -> str:
    candidates = [field.name for field in schema if _holds_bytes(field.type)]
    for name in IMAGE_COLUMNS:
        if name in candidates:
            return name
    if len(candidates) != 1:
        raise ValueError(f"{path!r} must have one column of image bytes, got {candidates or schema.names}")
    return candidates[0]


def _find_label_column(schema: pa.Schema) -> str | None:
    return next((name for name in LABEL_COLUMNS if name in schema.names), None)


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
