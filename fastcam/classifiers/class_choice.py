"""The choice of classes to explain, as users write it: indices, names, "top3", "label", "objects"."""

import difflib
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fastcam.classifiers.models import Classifier
from fastcam.targets.binding import Bound, Logit, Score
from fastcam.targets.class_indices import ClassIndices

LABEL, OBJECTS = "label", "objects"
ClassesOfImages = Callable[[Sequence[str]], list[list[int]]]  # from the names of the classes to those of N images


@dataclass(frozen=True)
class ClassChoice:
    """The classes to explain per image, as the user wrote them: indices, names, "top" or "top3", "label", "objects".

    "label" is the class of the dataset's own label, "objects" those of the annotated objects, unless a class has that
    name.
    """

    texts: tuple[str, ...]

    @cached_property
    def is_highest(self) -> bool:
        """Whether only the highest class is chosen."""
        return not self.texts or (len(self.texts) == 1 and self.texts[0].lower() in ("top", "top1"))

    def target(self, classifier: Classifier, score: type[Logit] = Logit) -> Score:
        """Return the score of the chosen classes; "top3" is resolved in the pass that explains."""
        return score() if self.is_highest else ChosenClasses(self, classifier, score)

    def indices(
        self,
        output: Tensor,
        names: Sequence[str],
        labels: Sequence[str | None] | None = None,
        objects: ClassesOfImages | None = None,
    ) -> list[list[int]]:
        """Return class indices (N, K) for the model's output (N, classes).

        Args:
            output: of the model.
            names: of the classes.
            labels: of the N images; None where there are none.
            objects: the classes of their annotated objects; None where there are none.

        Raises:
            ValueError: for a class unknown to the model.
        """
        order = output.detach().argsort(1, descending=True)
        columns: list[list[list[int]]] = []
        for text in self.texts or ("top1",):
            match = re.fullmatch(r"top(\d*)", text.lower())
            if match and text not in names:
                count = int(match[1] or 1)
                if not 1 <= count <= output.shape[1]:
                    raise ValueError(f"target {text!r} must choose 1 to {output.shape[1]} classes of this model")
                columns.append(order[:, :count].tolist())
            elif text.lower() == LABEL and text not in names:
                columns.append([[index] for index in _classes_of_labels(labels, names)])
            elif text.lower() == OBJECTS and text not in names:
                columns.append(_classes_of_objects(objects, names))
            else:
                columns.append([[_class_index(text, names)]] * len(output))
        return [list(itertools.chain(*rows)) for rows in zip(*columns, strict=True)]


class ChosenClasses(Score):
    """The score of the chosen classes, resolved on the output for the original images."""

    def __init__(
        self,
        choice: ClassChoice,
        classifier: Classifier,
        score: type[Logit],
        labels: Sequence[str | None] | None = None,
        objects: ClassesOfImages | None = None,
    ) -> None:
        self.choice, self.classifier, self.score = choice, classifier, score
        self.labels, self.objects = labels, objects

    def of_images(self, labels: Sequence[str | None], objects: ClassesOfImages | None) -> "ChosenClasses":
        """Return the score for images with these labels and objects, see :meth:`ClassChoice.indices`."""
        return ChosenClasses(self.choice, self.classifier, self.score, labels, objects)

    def bind(self, output: Tensor, count: int) -> Bound:
        """Find the classes of every image."""
        names = self.classifier.class_names(class_count(output))
        indices = torch.tensor(self.choice.indices(output, names, self.labels, self.objects), device=output.device)
        return self.score().bind_to(ClassIndices(indices))  # known to be classes, though 0, 1, 0 looks one-hot


def _classes_of_labels(labels: Sequence[str | None] | None, names: Sequence[str]) -> list[int]:
    """Return the classes that labels name; in folder names an underscore may stand for a space.

    Raises:
        ValueError: for images without labels, or a label that is no class.
    """
    if labels is None:
        raise ValueError(f"target {LABEL!r} is the class of a dataset's label, and these images have none")
    found = []
    for label in labels:
        if label is None:
            raise ValueError(f"target {LABEL!r} is the class of the image's label, and it has none")
        known = {name.casefold() for name in names}
        text = label if label.casefold() in known else label.replace("_", " ")
        found.append(_class_index(text, names))
    return found


def _classes_of_objects(objects: ClassesOfImages | None, names: Sequence[str]) -> list[list[int]]:
    """Return the classes (N, K) of annotated objects; images with fewer repeat their first.

    Raises:
        ValueError: for images without objects of the model's classes.
    """
    if objects is None:
        raise ValueError(f"target {OBJECTS!r} is the classes of annotated objects, and these images have none")
    found = objects(names)
    if not all(found):
        raise ValueError(f"target {OBJECTS!r} is the classes of annotated objects, and no object is of a class")
    most = max(map(len, found))
    return [classes + classes[:1] * (most - len(classes)) for classes in found]


def class_count(output: object) -> int:
    """Return the number of classes in a model's output.

    Raises:
        ValueError: for an output that is not (N, classes).
    """
    if not isinstance(output, Tensor) or output.dim() > 2:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"the model must return class scores (N, classes), got {shape}")
    return output.shape[1] if output.dim() == 2 else 1


def _class_index(text: str, names: Sequence[str]) -> int:
    if re.fullmatch(r"\d+", text):
        if int(text) < len(names):
            return int(text)
        raise ValueError(f"target {text} must be a class index below {len(names)}")
    matches = [index for index, name in enumerate(names) if name.casefold() == text.casefold()]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ValueError(
            f"target {text!r} is the name of several classes: {', '.join(map(str, matches))}; give an index"
        )
    spelled = {name.casefold(): name for name in names}
    near = difflib.get_close_matches(text.casefold(), spelled, n=3)
    hint = f"; did you mean {', '.join(repr(spelled[name]) for name in near)}?" if near else ""
    raise ValueError(f"the model has no class named {text!r}{hint}")
