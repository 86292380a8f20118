"""The rows of a shard: one per image, method, layer and target, as an Arrow table."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from fastcam import postprocess
from fastcam.explanation import Explanation

Resolution = Literal["native", "input"]
MapType = Literal["float16", "float32", "uint8"]

SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("path", pa.string()),
        pa.field("sha256", pa.string()),  # of the encoded image
        pa.field("label", pa.string()),
        pa.field("target", pa.int32()),
        pa.field("predicted", pa.int32()),
        pa.field("score", pa.float32()),
        pa.field("method", pa.string()),
        pa.field("layer", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("map", pa.binary()),
        pa.field("map_shape", pa.list_(pa.int32())),
        pa.field("map_dtype", pa.string()),
        pa.field("map_scale", pa.float32()),  # values x scale is the map; null where it is scaled to 0..255
    ]
)


@dataclass(frozen=True)
class Maps:
    """How maps are kept.

    Attributes:
        resolution: "native", as large as the layer's; or "input", as large as the model's input.
        dtype: "float16" or "float32" of the map as it is, divided by its largest magnitude; or "uint8" of the map
            scaled to [0, 1].
    """

    resolution: Resolution = "native"
    dtype: MapType = "float16"

    def __post_init__(self) -> None:
        if self.resolution not in get_args(Resolution):
            raise ValueError(f"`resolution` must be one of {', '.join(get_args(Resolution))}, got {self.resolution!r}")
        if self.dtype not in get_args(MapType):
            raise ValueError(f"`dtype` must be one of {', '.join(get_args(MapType))}, got {self.dtype!r}")

    def encoded(self, explanation: Explanation) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any] | None]:
        """The values (N, [K,] *s) as they are kept, and their scales (N, [K])."""
        at_input = self.resolution == "input"
        if self.dtype == "uint8":
            maps = (
                explanation.maps if at_input else postprocess.resize(explanation.native, native_size(explanation), True)
            )
            return (maps.nan_to_num() * 255).round().to(torch.uint8).cpu().numpy(), None
        maps = (explanation.raw if at_input else explanation.native).float()
        axes = tuple(range(explanation.scores.dim(), maps.dim()))
        scales = maps.abs().nan_to_num(posinf=0.0).amax(axes)
        scales = scales.where(scales > 0, 1.0)
        values = (maps / scales.reshape(*scales.shape, *[1] * len(axes))).cpu().numpy()
        return values.astype(self.dtype), scales.cpu().numpy()


def native_size(explanation: Explanation) -> tuple[int, ...]:
    """Spatial size of the map as the layer has it."""
    return tuple(explanation.native.shape[explanation.scores.dim() :])


def decoded(row: dict[str, Any], size: Sequence[int]) -> np.ndarray[Any, Any]:
    """The map of a row at the size of the model's input, scaled to [0, 1], float32.

    The recipe: values as ``map_dtype`` in ``map_shape``; bilinear (linear, trilinear) interpolation to ``size`` with
    corners not aligned; less the minimum, over the maximum of what remains.
    """
    values = np.frombuffer(row["map"], row["map_dtype"]).reshape(row["map_shape"])
    tensor = torch.from_numpy(values.astype(np.float32))[None]
    return postprocess.resize(tensor, tuple(size), True)[0].numpy()


def rows_of(explanation: Explanation, maps: Maps) -> list[list[dict[str, Any]]]:
    """For every image the rows of its targets, without what belongs to the image itself."""
    values, scales = maps.encoded(explanation)
    count = len(explanation)
    shape = (count, -1)
    per_target = values.reshape(count, -1, *values.shape[explanation.scores.dim() :])
    scores = explanation.scores.detach().float().cpu().reshape(shape).tolist()
    width = len(scores[0])
    classes: list[list[int | None]] = [[None] * width] * count
    if explanation.targets is not None:
        classes = explanation.targets.cpu().reshape(shape).tolist()
    statuses = [each if isinstance(each, list) else [each] for each in explanation.status]
    predicted = _predicted(explanation.output, count)
    return [
        [
            {
                "target": classes[i][k],
                "predicted": predicted[i],
                "score": scores[i][k],
                "method": explanation.method,
                "layer": explanation.layer,
                "status": statuses[i][k],
                "map": per_target[i, k].tobytes(),
                "map_shape": list(per_target.shape[2:]),
                "map_dtype": maps.dtype,
                "map_scale": None if scales is None else float(scales.reshape(shape)[i, k]),
            }
            for k in _each_once(classes[i])
        ]
        for i in range(count)
    ]


def _each_once(classes: list[int | None]) -> Iterator[int]:
    """The positions of classes, without those asked for twice."""
    for k, each in enumerate(classes):
        if each is None or each not in classes[:k]:
            yield k


def _predicted(output: Any, count: int) -> list[int | None]:
    if isinstance(output, Tensor) and output.dim() == 2 and len(output) == count:
        found: list[int | None] = output.argmax(1).cpu().tolist()
        return found
    return [None] * count


def shard_bytes(rows: list[dict[str, Any]], metadata: dict[str, str]) -> bytes:
    """A Parquet file of these rows: the same bytes for the same rows, with a checksum in every page."""
    table = pa.Table.from_pylist(rows, SCHEMA).replace_schema_metadata(metadata)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def read_shard(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """The table of a shard, its checksums verified.

    Raises:
        ValueError: where the bytes are damaged.
    """
    try:
        return pq.read_table(
            io.BytesIO(data), columns=None if columns is None else list(columns), page_checksum_verification=True
        )
    except (pa.ArrowException, OSError) as error:
        raise ValueError(str(error).strip().split("\n", maxsplit=1)[0]) from error
