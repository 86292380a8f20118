"""Reader for a folder of features: all vectors in memory, and what is known of their images."""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fastcam.dataset.reader import Maps
from fastcam.dataset.rows import repeated
from fastcam.dataset.table import read_shard
from fastcam.dataset.vectors import LAYER, TOO_LARGE
from fastcam.features.exact_search import Vectors, lengths_of

_COLUMNS = ("image_id", "path", "sha256", "label", "predicted", "score", "layer", "feature")


class Features:
    """The committed vectors of a folder, read into memory: D numbers of two bytes for each of N images.

    Images without a vector are left out.

    Args:
        folder: output folder of :func:`fastcam.features.run`, or of :func:`fastcam.dataset.run` with ``features``.

    Attributes:
        vectors: (N, D).
        images: N rows of image_id, path, sha256, label, predicted, score and layer.

    Raises:
        ValueError: for a folder that holds no features, none of any image, or is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self._rows = Maps(folder)
        self.folder = Path(folder)
        if "features" not in self._rows.identity:
            raise ValueError(
                f"{str(folder)!r} holds no vectors: `fastcam features` makes them, or `fastcam map --features`"
            )
        tables = [_read(self._rows.store.data(commit)) for commit in self._rows.commits]
        table = pa.concat_tables(tables) if tables else None
        if table is None or not len(table):
            raise ValueError(f"{str(folder)!r} holds no vector of any image")
        self.vectors = _stacked(table["feature"])
        self.images: pa.Table = table.drop_columns(["feature"])

    def __len__(self) -> int:
        """The number of images with a vector."""
        return len(self.vectors)

    @property
    def run(self) -> str:
        """The digest of the run's identity."""
        return self._rows.store.run

    @property
    def identity(self) -> dict[str, object]:
        """The identity of the run: weights, layer, preprocessing, ..."""
        return self._rows.identity

    @property
    def class_names(self) -> list[str]:
        """The names of the model's classes, possibly none."""
        return self._rows.class_names

    @cached_property
    def lengths(self) -> npt.NDArray[np.float32]:
        """(N,), the Euclidean lengths of the vectors."""
        return lengths_of(self.vectors)

    @cached_property
    def ids(self) -> list[str]:
        """The ids of the images, in the order of the vectors."""
        ids: list[str] = self.images["image_id"].to_pylist()
        return ids

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.ids)}

    def index(self, image_id: str) -> int:
        """Return the place of an image.

        Raises:
            KeyError: for an unknown id.
        """
        if image_id not in self._numbers:
            raise KeyError(f"there is no vector of an image {image_id!r}")
        return self._numbers[image_id]

    def reason(self, image_id: str) -> str | None:
        """Return why an image of the dataset has no vector; None for one that has, or is not there."""
        if image_id in self._numbers or image_id not in self._rows:
            return None
        status = str(self._rows.rows(image_id)[0]["status"])
        return status if status != "ok" else "not finite, or " + TOO_LARGE  # beside a map that is

    def of_content(self, sha256: str) -> int | None:
        """Return the place of the image whose encoded bytes have this digest; None if there is none."""
        place = pc.index(self.images["sha256"], sha256).as_py()
        return None if place < 0 else int(place)

    def texts(self, column: str) -> Sequence[str]:
        """Return what is known of each image as a text: "label", or "predicted", its class by name; "" if unknown."""
        values = self.images[column].to_pylist()
        if column == "predicted" and self.class_names:
            return ["" if value is None else self.class_names[value] for value in values]
        return ["" if value is None else str(value) for value in values]


def _read(data: bytes) -> pa.Table:
    table = read_shard(data, _COLUMNS)
    layer = json.loads(table.schema.metadata[b"fastcam"]).get(LAYER)
    if layer is not None:  # beside maps, whose layer is another one
        table = table.set_column(table.column_names.index("layer"), "layer", repeated(layer, len(table)))
    return table.filter(pc.is_valid(table["feature"]))


def _stacked(column: pa.ChunkedArray) -> Vectors:
    """Return lists of one length as an array (N, D).

    Raises:
        ValueError: for several lengths.
    """
    lengths = np.unique(pc.list_value_length(column).to_numpy())
    if len(lengths) > 1:
        raise ValueError(f"the vectors have {', '.join(map(str, lengths))} numbers, of inputs of several sizes")
    parts = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks if len(chunk)]
    return np.concatenate(parts).reshape(-1, int(lengths[0]))
