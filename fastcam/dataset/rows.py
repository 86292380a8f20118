"""The rows of a shard while it is made, in columns: one row per image, method, layer and target."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from torch import Tensor

from fastcam.dataset.loading import LoadedImage
from fastcam.dataset.table import SCHEMA, MapFormat
from fastcam.explainer import Explainer
from fastcam.explanation import Explanation

MAX_CHUNK_BYTES = 2**31 - 1  # of Arrow's strings

# Beside the columns of a shard: the number of the image in it, and why a map shows nothing.
COLUMNS = pa.schema([*SCHEMA, pa.field("number", pa.int64()), pa.field("cause", pa.string())])
OWN_COLUMNS = COLUMNS.names[len(SCHEMA) :]


class BatchRows(Protocol):
    """What a run writes of its images.

    Attributes:
        asks_model: whether the model runs again for the rows.
    """

    asks_model: ClassVar[bool]

    def of_batch(
        self,
        explainer: "Explainer[Any]",
        explanations: Mapping[Any, Explanation],
        images: Sequence[LoadedImage],
        numbers: Sequence[int],
    ) -> pa.Table:
        """Return the rows of explained images.

        Args:
            explainer: that explained them.
            explanations: of the same N images, by methods or layers.
            images: the N images.
            numbers: of the images, in the shard.

        Returns:
            A table that begins with the columns of a shard and ends with "number" and "cause", in no order.
        """

    def of_failures(self, images: Sequence[LoadedImage], numbers: Sequence[int], reasons: Sequence[str]) -> pa.Table:
        """Return the rows of images without maps, each with the reason as its status; its method is null."""

    def classes_of_objects(self, images: Sequence[LoadedImage], names: Sequence[str]) -> list[list[int]]:
        """Return the classes of the annotated objects of each image, for the names of the model's classes."""


@dataclass(frozen=True)
class MapRows:
    """The maps of the images: what :func:`fastcam.dataset.run` writes.

    Attributes:
        map_format: format of the stored maps.
    """

    asks_model: ClassVar[bool] = False

    map_format: MapFormat

    def of_batch(
        self,
        explainer: "Explainer[Any]",
        explanations: Mapping[Any, Explanation],
        images: Sequence[LoadedImage],
        numbers: Sequence[int],
    ) -> pa.Table:
        """Return a row for every image, method, layer and target."""
        return rows_of_maps(list(explanations.values()), self.map_format, images, numbers)

    def of_failures(self, images: Sequence[LoadedImage], numbers: Sequence[int], reasons: Sequence[str]) -> pa.Table:
        """Return a row for every image."""
        return rows_of_failures(images, numbers, reasons)

    def classes_of_objects(self, images: Sequence[LoadedImage], names: Sequence[str]) -> list[list[int]]:
        """Return none: maps are made without annotations."""
        return [[] for _ in images]


def rows_of_maps(
    explanations: Sequence[Explanation], map_format: MapFormat, images: Sequence[LoadedImage], numbers: Sequence[int]
) -> pa.Table:
    """Return the rows of explained images.

    Args:
        explanations: of the same N images, by methods or layers.
        map_format: format of the stored maps.
        images: the N images.
        numbers: of the images, in the shard.

    Returns:
        A table of ``COLUMNS``, in no order.
    """
    described = describe(images, numbers)
    return pa.concat_tables([_rows_of_one(explanation, map_format, described) for explanation in explanations])


def rows_of_failures(images: Sequence[LoadedImage], numbers: Sequence[int], reasons: Sequence[str]) -> pa.Table:
    """Return the rows of images without maps, each with the reason as its status, as a table of ``COLUMNS``."""
    columns = {**describe(images, numbers), "status": pa.array(reasons, pa.string())}
    return table_of(columns, len(images))


def in_order(tables: Sequence[pa.Table]) -> tuple[pa.Table, dict[str, str]]:
    """Return the table of a shard, in the order of its images, and the causes of the maps that show nothing.

    The causes are by the number of their row, where they say more than the status. A shard has them in its metadata: a
    column would part its schema from that of earlier shards of the same folder, and other programs read such files
    together only if they are told to.
    """
    rows = pa.concat_tables(tables).combine_chunks() if tables else table_of({}, 0)
    numbers = rows["number"].to_numpy()
    if (np.diff(numbers) < 0).any():
        rows = rows.take(np.argsort(numbers, kind="stable"))
    pairs = zip(rows["cause"].to_pylist(), rows["status"].to_pylist(), strict=True)
    causes = {str(row): cause for row, (cause, status) in enumerate(pairs) if cause not in (None, "", status)}
    return rows.drop_columns(OWN_COLUMNS).combine_chunks(), causes


def describe(images: Sequence[LoadedImage], numbers: Sequence[int]) -> dict[str, pa.Array]:
    """Return the columns of the images themselves, and their numbers."""
    return {
        "image_id": pa.array([image.item.id for image in images], pa.string()),
        "path": pa.array([image.item.path for image in images], pa.string()),
        "sha256": pa.array([image.sha256 for image in images], pa.string()),
        "label": pa.array([image.label for image in images], pa.string()),
        "number": pa.array(numbers, pa.int64()),
    }


def _rows_of_one(explanation: Explanation, map_format: MapFormat, described: dict[str, pa.Array]) -> pa.Table:
    count, per_image = len(explanation), explanation.scores.numel() // len(explanation)
    values, scales = map_format.encode(explanation)
    values = values.reshape(count * per_image, *values.shape[explanation.scores.dim() :])
    classes = None if explanation.targets is None else explanation.targets.cpu().numpy().reshape(count, per_image)
    is_missing = None if explanation.is_found is None else ~explanation.is_found.cpu().numpy().ravel()
    kept = kept_places(explanation)
    image, size = kept // per_image, len(kept)
    predicted = _predicted_classes(explanation.output, count)
    columns = {
        **(described if per_image == 1 else {name: column.take(image) for name, column in described.items()}),
        "target": pa.nulls(size, pa.int32()) if classes is None else _classes(classes, is_missing, kept),
        "predicted": pa.nulls(size, pa.int32()) if predicted is None else pa.array(predicted[image], pa.int32()),
        "score": pa.array(explanation.scores.detach().float().cpu().numpy().ravel()[kept]),
        "method": repeated(explanation.method, size),
        "layer": repeated(explanation.layer, size),
        "status": _texts(explanation.status, kept),
        "cause": _texts(explanation.causes, kept),
        "map": _binary(values[kept]),
        "map_shape": _lists(values.shape[1:], size),
        "map_dtype": repeated(map_format.dtype, size),
        "map_scale": pa.nulls(size, pa.float32()) if scales is None else pa.array(scales.ravel()[kept]),
    }
    return table_of(columns, size)


def _classes(
    classes: npt.NDArray[np.int64], is_missing: npt.NDArray[np.bool_] | None, kept: npt.NDArray[np.int64]
) -> pa.Array:
    """Return some of the classes (N, K), null for targets that an image does not have."""
    return pa.array(classes.ravel()[kept], pa.int32(), mask=None if is_missing is None else is_missing[kept])


def kept_places(explanation: Explanation) -> npt.NDArray[np.int64]:
    """Return the places in N x K of the explanations that get a row: of equal classes of an image the first.

    Detections have one each, and an image without any has one.
    """
    if explanation.is_found is not None:
        is_found = explanation.is_found.cpu().numpy().reshape(len(explanation), -1).copy()
        is_found[:, 0] = True
        return np.flatnonzero(is_found)
    if explanation.targets is None:
        return np.arange(explanation.scores.numel())
    return np.flatnonzero(_is_first(explanation.targets.cpu().numpy().reshape(len(explanation), -1)))


def table_of(columns: Mapping[str, pa.Array], size: int) -> pa.Table:
    """Return a table of ``COLUMNS``; those that are not given are null."""
    nulls = {field.name: pa.nulls(size, field.type) for field in COLUMNS if field.name not in columns}
    return pa.table([{**nulls, **columns}[name] for name in COLUMNS.names], schema=COLUMNS)


def extended(rows: pa.Table, fields: Sequence[pa.Field], columns: Mapping[str, pa.Array]) -> pa.Table:
    """Return rows with further columns, null where they are not given, before the run's own."""
    own = rows.select(OWN_COLUMNS)
    rows = rows.drop_columns(OWN_COLUMNS)
    for field in fields:
        rows = rows.append_column(field, columns.get(field.name, pa.nulls(len(rows), field.type)))
    for field in own.schema:
        rows = rows.append_column(field, own[field.name])
    return rows


def _is_first(classes: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    """Whether a class (N, K) is none of the image's classes before it."""
    same = classes[:, :, None] == classes[:, None, :]
    return ~np.tril(same, -1).any(-1)


def _predicted_classes(output: object, count: int) -> npt.NDArray[np.int64] | None:
    if isinstance(output, Tensor) and output.dim() == 2 and len(output) == count:
        predicted: npt.NDArray[np.int64] = output.argmax(1).cpu().numpy()
        return predicted
    return None


def _texts(values: Sequence[object], kept: npt.NDArray[np.int64]) -> pa.Array:
    """Return some of the texts in a list of N, or in N lists of K."""
    flat = [text for texts in values for text in (texts if isinstance(texts, list) else [texts])]
    return pa.array([flat[index] for index in kept], pa.string())


def repeated(text: str | None, size: int) -> pa.Array:
    """Return a text ``size`` times."""
    return pa.repeat(pa.scalar(text, pa.string()), size)


def _binary(values: npt.NDArray[np.number]) -> pa.ChunkedArray:
    """Return (R, ...) values as R strings of bytes, in as many chunks as their 32-bit offsets need."""
    values = np.ascontiguousarray(values)
    width = max(1, values.nbytes // max(1, len(values)))
    step = max(1, MAX_CHUNK_BYTES // width)
    chunks = []
    for start in range(0, len(values), step):
        part = values[start : start + step]
        offsets = np.arange(len(part) + 1, dtype=np.int32) * np.int32(part.nbytes // len(part))
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(part.view(np.uint8).reshape(-1))]
        chunks.append(pa.Array.from_buffers(pa.binary(), len(part), buffers))
    return pa.chunked_array(chunks, pa.binary())


def _lists(numbers: Sequence[int], size: int) -> pa.Array:
    """Return a list of numbers ``size`` times."""
    offsets = np.arange(size + 1, dtype=np.int32) * len(numbers)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.tile(np.array(numbers, np.int32), size)))
