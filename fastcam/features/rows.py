"""The rows of a run that keeps feature vectors: one for every image, those of maps with a vector in their place."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
from torch import Tensor

from fastcam.classifiers.models import Classifier
from fastcam.dataset.loading import LoadedImage
from fastcam.dataset.rows import describe, extended, repeated, rows_of_failures, table_of
from fastcam.dataset.vectors import COLUMN, VectorFormat
from fastcam.dataset.work import Rows
from fastcam.inspect.extraction import Extractor
from fastcam.model.elements import ModelOutput

METHOD = "features"  # in the column of the method, which is null where an image failed


@dataclass(frozen=True)
class FeatureWork:
    """Feature vectors.

    Attributes:
        format: what they are, and how they are stored.
    """

    format: VectorFormat

    def start(self, classifier: Classifier, batch_size: int) -> "FeatureMaker":
        """Return what makes vectors in this process."""
        return FeatureMaker(self.format.extractor(classifier.model), self.format, classifier.known_names)


@dataclass
class FeatureMaker:
    """Makes the vectors of images.

    Attributes:
        extractor: the model and the layer.
        format: of the vectors.
        class_names: the names of so many classes, empty if they are unknown.
    """

    extractor: Extractor
    format: VectorFormat
    class_names: Callable[[int], Sequence[str]]
    _size: tuple[int, ...] = field(init=False, default=())  # of the model's input
    _outputs: int = field(init=False, default=0)  # classes of the model

    def begin(self) -> "FeatureMaker":
        """Return what makes the rows of one more shard."""
        return replace(self)

    def of_batch(self, inputs: Tensor, images: Sequence[LoadedImage], numbers: Sequence[int]) -> Rows:
        """Run the model, and return what makes a row for every image."""
        vectors, output = self.extractor(inputs)
        size = tuple(inputs.shape[2:])
        return lambda: self._rows(vectors, output, size, images, numbers)

    def _rows(
        self,
        vectors: Tensor,
        output: ModelOutput,
        size: tuple[int, ...],
        images: Sequence[LoadedImage],
        numbers: Sequence[int],
    ) -> pa.Table:
        encoded, statuses = self.format.encode(vectors)
        count = len(images)
        classes = output.float() if isinstance(output, Tensor) and output.shape[:1] == (count,) else None
        predicted, scores = (None, None)
        if classes is not None and classes.dim() == 2:
            predicted, scores = classes.argmax(1).cpu().numpy(), classes.amax(1).cpu().numpy()
            self._outputs = classes.shape[1]
        self._size = size
        columns = {
            **describe(images, numbers),
            "predicted": pa.nulls(count, pa.int32()) if predicted is None else pa.array(predicted, pa.int32()),
            "score": pa.nulls(count, pa.float32()) if scores is None else pa.array(scores, pa.float32()),
            "method": repeated(METHOD, count),
            "layer": repeated(self.extractor.name, count),
            "status": pa.array(statuses, pa.string()),
        }
        return extended(table_of(columns, count), [self.format.field], {COLUMN: encoded})

    def of_failures(self, images: Sequence[LoadedImage], numbers: Sequence[int], reasons: Sequence[str]) -> pa.Table:
        """Return a row for every image."""
        return extended(rows_of_failures(images, numbers, reasons), [self.format.field], {})

    def finish(self) -> tuple[Sequence[pa.Table], Mapping[str, object]]:
        """Return no further rows; the size of the input, and the names of the classes if they are known."""
        names = list(self.class_names(self._outputs)) if self._outputs else []
        return (), {**({"classes": names} if names else {}), "size": list(self._size)}
