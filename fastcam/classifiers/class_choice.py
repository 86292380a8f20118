"""Classes to explain as people write them: indices, names, "top3"."""

import difflib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from fastcam.classifiers.models import Classifier
from fastcam.targets import Bound, Logit, Score


@dataclass(frozen=True)
class Asked:
    """What to explain of every image: class indices, class names and the highest few, as the user wrote them."""

    texts: tuple[str, ...]

    @cached_property
    def is_highest(self) -> bool:
        """Whether it is the highest class alone."""
        return not self.texts or (len(self.texts) == 1 and self.texts[0].lower() in ("top", "top1"))

    def target(self, classifier: Classifier, score: type[Logit] = Logit) -> Score:
        """What the engine is to explain of a classifier; the highest few are looked up in the pass that explains."""
        return score() if self.is_highest else _Named(self, classifier, score)

    def indices(self, output: Tensor, names: Sequence[str]) -> list[list[int]]:
        """(N, K) class indices for the model's output (N, classes).

        Raises:
            ValueError: for a class that the model does not have.
        """
        order = output.detach().argsort(1, descending=True)
        columns: list[list[list[int]]] = []
        for text in self.texts or ("top1",):
            top = re.fullmatch(r"top(\d*)", text.lower())
            if top and text not in names:
                count = int(top[1] or 1)
                if not 1 <= count <= output.shape[1]:
                    raise ValueError(f"target {text!r} must ask for 1 to {output.shape[1]} classes of this model")
                columns.append(order[:, :count].tolist())
            else:
                columns.append([[_class_index(text, names)]] * len(output))
        return [list(itertools.chain(*rows)) for rows in zip(*columns, strict=True)]


class _Named(Score):
    """The classes asked for, found in the output of the images as they are."""

    def __init__(self, asked: Asked, classifier: Classifier, score: type[Logit]) -> None:
        self.asked, self.classifier, self.score = asked, classifier, score

    def bind(self, output: Any, count: int) -> Bound:
        """Finds the classes of every image."""
        names = self.classifier.class_names(class_count(output))
        return self.score(self.asked.indices(output, names)).bind(output, count)


def class_count(output: Any) -> int:
    """The number of classes that a model's output has scores of.

    Raises:
        ValueError: where it is no (N, classes).
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
