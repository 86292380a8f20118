"""The rows of a run that keeps feature vectors: one for every image, those of maps with a vector in their place."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from torch import Tensor

from fastcam.classifiers.models import Classifier
from fastcam.dataset.loading import LoadedImage
from fastcam.dataset.rows import describe, extended, repeated, rows_of_failures, table_of
from fastcam.features.extraction import Extractor, Pool

VectorType: TypeAlias = Literal["float16", "float32"]
METHOD = "features"  # in the column of the method, which is null where an image failed
TOO_LARGE = "larger than float16 holds: store float32"


def vector_field(dtype: VectorType) -> pa.Field:
    """Return the column of the vectors."""
    return pa.field("feature", pa.list_(pa.float16() if dtype == "float16" else pa.float32()))


@dataclass(frozen=True)
class FeatureWork:
    """Feature vectors.

    Attributes:
        layer: its name; None for the last hidden layer.
        pool: what is done with the positions of its maps.
        dtype: of the stored vectors.
    """

    layer: str | None = None
    pool: Pool = "mean"
    dtype: VectorType = "float16"

    def __post_init__(self) -> None:
        if self.dtype not in get_args(VectorType):
            raise ValueError(f"`dtype` must be one of {', '.join(get_args(VectorType))}, got {self.dtype!r}")

    def start(self, classifier: Classifier, batch_size: int) -> "FeatureMaker":
        """Return what makes vectors in this process."""
        return FeatureMaker(Extractor(classifier.model, self.layer, self.pool), self.dtype, classifier.known_names)


@dataclass
class FeatureMaker:
    """Makes the vectors of images.

    Attributes:
        extractor: the model and the layer.
        dtype: of the stored vectors.
        class_names: the names of so many classes, empty if they are unknown.
    """

    extractor: Extractor
    dtype: VectorType
    class_names: Callable[[int], Sequence[str]]
    _size: tuple[int, ...] = field(init=False, default=())  # of the model's input
    _outputs: int = field(init=False, default=0)  # classes of the model

    def begin(self) -> None:
        """Begin a shard."""
        self._size, self._outputs = (), 0

    def of_batch(self, inputs: Tensor, images: Sequence[LoadedImage], numbers: Sequence[int]) -> pa.Table:
        """Return a row for every image."""
        vectors, output = self.extractor(inputs)
        exact: npt.NDArray[np.floating] = vectors.float().cpu().numpy()
        with np.errstate(over="ignore"):
            values = exact.astype(self.dtype)
        is_kept = np.isfinite(values).all(1)
        count = len(images)
        classes = output.float() if isinstance(output, Tensor) and output.shape[:1] == (count,) else None
        predicted, scores = (None, None)
        if classes is not None and classes.dim() == 2:
            predicted, scores = classes.argmax(1).cpu().numpy(), classes.amax(1).cpu().numpy()
            self._outputs = classes.shape[1]
        self._size = tuple(inputs.shape[2:])
        statuses = np.where(is_kept, "ok", np.where(np.isfinite(exact).all(1), TOO_LARGE, "non-finite"))
        columns = {
            **describe(images, numbers),
            "predicted": pa.nulls(count, pa.int32()) if predicted is None else pa.array(predicted, pa.int32()),
            "score": pa.nulls(count, pa.float32()) if scores is None else pa.array(scores, pa.float32()),
            "method": repeated(METHOD, count),
            "layer": repeated(self.extractor.name, count),
            "status": pa.array(statuses.tolist(), pa.string()),
        }
        return extended(table_of(columns, count), [self._field], {"feature": _lists(values, is_kept)})

    def of_failures(self, images: Sequence[LoadedImage], numbers: Sequence[int], reasons: Sequence[str]) -> pa.Table:
        """Return a row for every image."""
        return extended(rows_of_failures(images, numbers, reasons), [self._field], {})

    def finish(self) -> tuple[Sequence[pa.Table], Mapping[str, object]]:
        """Return no further rows; the size of the input, and the names of the classes if they are known."""
        names = list(self.class_names(self._outputs)) if self._outputs else []
        return (), {**({"classes": names} if names else {}), "size": list(self._size)}

    @property
    def _field(self) -> pa.Field:
        return vector_field(self.dtype)


def _lists(values: npt.NDArray[np.floating], is_kept: npt.NDArray[np.bool_]) -> pa.ListArray:
    """Return vectors (N, D) as N lists, null where they are not kept."""
    offsets = np.concatenate([[0], np.cumsum(is_kept) * values.shape[1]]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values[is_kept].reshape(-1)), mask=pa.array(~is_kept))
