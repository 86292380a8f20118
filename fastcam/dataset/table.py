"""The format of a shard: its columns, the values of its maps, and the Parquet file."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from fastcam import postprocess
from fastcam.explanation import Explanation

Resolution: TypeAlias = Literal["native", "input"]
MapType: TypeAlias = Literal["float16", "float32", "uint8"]
Row: TypeAlias = dict[str, Any]  # by column, see SCHEMA
Map: TypeAlias = npt.NDArray[np.float32]  # (*S)

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
        pa.field("map_scale", pa.float32()),  # factor from the values to the map; null for uint8
    ]
)


@dataclass(frozen=True)
class MapFormat:
    """The format of stored maps.

    Attributes:
        resolution: "native", the size of the layer's map; or "input", the size of the model's input.
        dtype: "float16" or "float32" for the raw map divided by its largest magnitude; "uint8" for the map scaled to
            [0, 1] and then to 0..255.
    """

    resolution: Resolution = "native"
    dtype: MapType = "float16"

    def __post_init__(self) -> None:
        if self.resolution not in get_args(Resolution):
            raise ValueError(f"`resolution` must be one of {', '.join(get_args(Resolution))}, got {self.resolution!r}")
        if self.dtype not in get_args(MapType):
            raise ValueError(f"`dtype` must be one of {', '.join(get_args(MapType))}, got {self.dtype!r}")

    def encode(self, explanation: Explanation) -> tuple[npt.NDArray[np.number], npt.NDArray[np.float32] | None]:
        """Return the stored values (N, [K,] *s), and their scales (N, [K]) for floating point types."""
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
    """Return the spatial size of the layer's map."""
    return tuple(explanation.native.shape[explanation.scores.dim() :])


def decode_map(row: Row, size: Sequence[int]) -> Map:
    """Return the map of a row at the size of the model's input, scaled to [0, 1].

    Steps: read the values as ``map_dtype`` in ``map_shape``; interpolate to ``size`` (linear, bilinear or trilinear,
    corners not aligned); subtract the minimum, then divide by the maximum.
    """
    values = np.frombuffer(row["map"], row["map_dtype"]).reshape(row["map_shape"])
    tensor = torch.from_numpy(values.astype(np.float32))[None]
    return postprocess.resize(tensor, tuple(size), True)[0].numpy()


def encode_shard(rows: pa.Table, metadata: dict[str, str]) -> bytes:
    """Return a Parquet file of the rows: the same bytes for the same rows, with a checksum in every page."""
    buffer = io.BytesIO()
    pq.write_table(rows.replace_schema_metadata(metadata), buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def read_shard(data: bytes, columns: Sequence[str] | None = None, without: str | None = None) -> pa.Table:
    """Return the table of a shard, its checksums verified.

    Args:
        data: the Parquet file.
        columns: names; None for all.
        without: the name of one that is not read, if it is there.

    Raises:
        ValueError: for damaged bytes.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        # On one thread: a shard is small, and threads for its columns take longer to start than to read.
        names = file.schema_arrow.names if columns is None else columns
        return file.read([name for name in names if name != without], use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(str(error).strip().split("\n", maxsplit=1)[0]) from error
