"""The column of feature vectors: their type, those that it does not hold, and how it comes beside other rows."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from torch import Tensor, nn

from fastcam.classifiers.models import Classifier
from fastcam.dataset.loading import LoadedImage
from fastcam.dataset.records import JsonObject
from fastcam.dataset.rows import extended
from fastcam.dataset.work import Maker, Rows, Work
from fastcam.inspect.extraction import Extractor, Pool

VectorType: TypeAlias = Literal["float16", "float32"]
COLUMN = "feature"
LAYER = "feature layer"  # in what is stored with a shard
HIDDEN = "hidden"  # in place of a layer's name
TOO_LARGE = "larger than float16 holds: store float32"


@dataclass(frozen=True)
class VectorFormat:
    """What a feature vector is, and how it is stored.

    Attributes:
        layer: whose output is taken, by name; None for the last hidden layer.
        pool: what is done with the positions of its maps.
        dtype: of the stored vectors.
    """

    layer: str | None = None
    pool: Pool = "mean"
    dtype: VectorType = "float16"

    def __post_init__(self) -> None:
        if self.dtype not in get_args(VectorType):
            raise ValueError(f"`dtype` must be one of {', '.join(get_args(VectorType))}, got {self.dtype!r}")

    @property
    def settings(self) -> JsonObject:
        """What of a run's identity is about its vectors."""
        return {"features": asdict(self)}

    @property
    def field(self) -> pa.Field:
        """The column of the vectors."""
        return pa.field(COLUMN, pa.list_(pa.float16() if self.dtype == "float16" else pa.float32()))

    def extractor(self, model: nn.Module) -> Extractor:
        """Return what makes the vectors.

        Raises:
            ValueError, TypeError: for a layer that the model does not have, or a model whose layers cannot be read.
        """
        return Extractor(model, self.layer, self.pool)

    def encode(self, vectors: Tensor) -> tuple[pa.ListArray, list[str]]:
        """Return vectors (N, D) as N lists, null where a number is lost, and the status of each: "ok" or the reason."""
        exact: npt.NDArray[np.floating] = vectors.float().cpu().numpy()
        with np.errstate(over="ignore"):
            values = exact.astype(self.dtype)
        is_kept = np.isfinite(values).all(1)
        statuses = np.where(is_kept, "ok", np.where(np.isfinite(exact).all(1), TOO_LARGE, "non-finite"))
        offsets = np.concatenate([[0], np.cumsum(is_kept) * values.shape[1]]).astype(np.int32)
        kept = pa.array(values[is_kept].reshape(-1))
        return pa.ListArray.from_arrays(pa.array(offsets), kept, mask=pa.array(~is_kept)), statuses.tolist()

    def beside(self, rows: pa.Table, numbers: Sequence[int], vectors: Tensor | None) -> pa.Table:
        """Return rows with the vectors (N, D) of the images with such numbers, each in the image's first row."""
        if vectors is None or not len(rows):
            return extended(rows, [self.field], {})
        encoded, _ = self.encode(vectors)
        place_of = {number: place for place, number in enumerate(numbers)}
        present, first = np.unique(rows["number"].to_numpy(), return_index=True)
        places = np.full(len(rows), -1)
        places[first] = [place_of[number] for number in present.tolist()]
        return extended(rows, [self.field], {COLUMN: encoded.take(pa.array(places, mask=places < 0))})


@dataclass(frozen=True)
class WithVectors:
    """Work that keeps the feature vectors of the images beside its rows, mostly from the same passes of the model.

    Attributes:
        work: that makes the rows.
        format: of the vectors.
    """

    work: Work
    format: VectorFormat

    def start(self, classifier: Classifier, batch_size: int) -> "MakerWithVectors":
        """Return what makes both in this process."""
        maker = self.work.start(classifier, batch_size)
        return MakerWithVectors(maker, self.format, self.format.extractor(classifier.model))


@dataclass
class MakerWithVectors:
    """Makes rows, and the vectors of their images.

    Attributes:
        maker: of the rows.
        format: of the vectors.
        extractor: of the vectors.
    """

    maker: Maker
    format: VectorFormat
    extractor: Extractor

    def begin(self) -> "MakerWithVectors":
        """Return what makes the rows of one more shard."""
        return replace(self, maker=self.maker.begin())

    def of_batch(self, inputs: Tensor, images: Sequence[LoadedImage], numbers: Sequence[int]) -> Rows:
        """Begin with some images; in their rows each vector is in the image's first."""
        rows, vectors = self.extractor.alongside(inputs, lambda: self.maker.of_batch(inputs, images, numbers))
        return lambda: self.format.beside(rows(), numbers, vectors)

    def of_failures(self, images: Sequence[LoadedImage], numbers: Sequence[int], reasons: Sequence[str]) -> pa.Table:
        """Return the rows of images of which nothing was made."""
        return self.format.beside(self.maker.of_failures(images, numbers, reasons), numbers, None)

    def finish(self) -> tuple[Sequence[pa.Table], Mapping[str, object]]:
        """Return what the maker has at the end, and the layer of the vectors."""
        rows, stored = self.maker.finish()
        return [self.format.beside(each, (), None) for each in rows], {**stored, LAYER: self.extractor.name}
