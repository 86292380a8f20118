"""What a run makes of its images: settings that every node gets, and what makes rows with them in a process."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import pyarrow as pa
from torch import Tensor

from fastcam.classifiers.class_choice import ChosenClasses, ClassChoice
from fastcam.classifiers.models import Classifier
from fastcam.dataset.loading import LoadedImage
from fastcam.dataset.rows import BatchRows
from fastcam.explainer import Explainer
from fastcam.explanation import Explanation
from fastcam.targets import Score, Target

Rows = Callable[[], pa.Table]


class Maker(Protocol):
    """Makes the rows of shards."""

    def begin(self) -> "Maker":
        """Return what makes the rows of one more shard, while some of the one before may not be made yet."""

    def of_batch(self, inputs: Tensor, images: Sequence[LoadedImage], numbers: Sequence[int]) -> Rows:
        """Begin with some images, and return what makes their rows of what the device has computed by then.

        Called again with fewer of them if it, or what it returns, raises. What a GPU can do without being waited for
        belongs before it returns, what waits for the GPU after that: other images are begun with in between.

        Args:
            inputs: (N, C, *S), the images on the model's device.
            images: the N images.
            numbers: of the images, in the shard.

        Returns:
            From nothing to a table that begins with the columns of a shard and ends with "number" and "cause", in no
            order; called once, after those of earlier images.
        """

    def of_failures(self, images: Sequence[LoadedImage], numbers: Sequence[int], reasons: Sequence[str]) -> pa.Table:
        """Return the rows of images of which nothing was made, each with the reason as its status."""

    def finish(self) -> tuple[Sequence[pa.Table], Mapping[str, object]]:
        """Return the rows that only a whole shard has, and what is stored with the shard as JSON."""


def done(table: pa.Table) -> Rows:
    """Return what makes rows that are made already."""
    return lambda: table


class Work(Protocol):
    """What a run makes, independent of the machine."""

    def start(self, classifier: Classifier, batch_size: int) -> Maker:
        """Return what makes the rows in this process.

        Raises:
            ValueError, TypeError: for a model, layers or options that do not fit together.
        """


@dataclass(frozen=True)
class MapWork:
    """Saliency maps.

    Attributes:
        explainer_options: keyword arguments of :class:`fastcam.Explainer`.
        classes: the classes to explain for each image, or another score.
        rows: what is written of each batch.
    """

    explainer_options: Mapping[str, Any]
    classes: ClassChoice | Score
    rows: BatchRows

    def start(self, classifier: Classifier, batch_size: int) -> "MapMaker":
        """Return what explains images in this process."""
        explainer = Explainer(classifier.model, batch_size=batch_size, **self.explainer_options)
        target = self.classes if isinstance(self.classes, Score) else self.classes.target(classifier)
        return MapMaker(explainer, target, self.rows, classifier.known_names)


@dataclass
class MapMaker:
    """Explains images.

    Attributes:
        explainer: the model and a list of methods.
        target: target of each explanation.
        rows: what is written of each batch.
        class_names: the names of so many classes, empty if they are unknown.
    """

    explainer: "Explainer[Any]"
    target: Target
    rows: BatchRows
    class_names: Callable[[int], Sequence[str]] = lambda count: ()
    _input_size: tuple[int, ...] = field(init=False, default=())
    _outputs: int = field(init=False, default=0)  # classes of the model

    def begin(self) -> "MapMaker":
        """Return what makes the rows of one more shard."""
        return replace(self)

    def of_batch(self, inputs: Tensor, images: Sequence[LoadedImage], numbers: Sequence[int]) -> Rows:
        """Explain images, and return what makes their rows."""
        target = self.target
        if isinstance(target, ChosenClasses):
            objects = functools.partial(self.rows.classes_of_objects, images)
            target = target.of_images([image.label for image in images], objects)
        explanations: Mapping[object, Explanation] = self.explainer(inputs, target)
        output = next(iter(explanations.values())).output
        size = tuple(inputs.shape[2:])

        def rows() -> pa.Table:
            made = self.rows.of_batch(self.explainer, explanations, images, numbers)
            self._outputs = output.shape[1] if isinstance(output, Tensor) and output.dim() == 2 else 0
            self._input_size = size
            return made

        return done(rows()) if self.rows.asks_model else rows

    def of_failures(self, images: Sequence[LoadedImage], numbers: Sequence[int], reasons: Sequence[str]) -> pa.Table:
        """Return the rows of images without maps."""
        return self.rows.of_failures(images, numbers, reasons)

    def finish(self) -> tuple[Sequence[pa.Table], Mapping[str, object]]:
        """Return no further rows; the recipe for full-size maps, and the names of the classes if they are known."""
        names = list(self.class_names(self._outputs)) if self._outputs else []
        return (), {
            **({"classes": names} if names else {}),
            "size": list(self._input_size),
            "interpolation": "linear, corners not aligned",
            "normalization": "min-max",
        }
