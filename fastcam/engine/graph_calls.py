"""Calls of an explainer that one recorded graph serves: whole explanations of one pass."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TypeGuard, cast

import numpy as np
from torch import Tensor

from fastcam import targets
from fastcam.engine.assembly import Explanations
from fastcam.engine.graph_keys import SCORES, CallKey, form_of_indices, is_close, layouts_of, tensors_of, with_tensors
from fastcam.explanation import Explanation
from fastcam.model.elements import ModelOutput
from fastcam.model.inputs import Inputs
from fastcam.targets.binding import Bound
from fastcam.targets.class_indices import Classes, ClassIndices, class_indices

Explain = Callable[[Inputs, targets.Target], Explanations]


@dataclass(frozen=True)
class ExplanationCall:
    """One call of an explainer.

    Attributes:
        key: which other calls one graph serves.
        tensors: the images, and the tensors among the model's other arguments.
        score: the target without its classes.
        classes: the target's class indices; None where it has none.
        explain: from inputs and a target to their explanations.
    """

    key: CallKey
    inputs: Inputs
    target: targets.Target
    tensors: list[Tensor]
    score: targets.Logit
    classes: Classes | None
    explain: Explain

    @classmethod
    def of(cls, inputs: Inputs, target: targets.Target, explain: Explain) -> "ExplanationCall | None":
        """Return the call; None for a target that is a function of its own, or arguments of unknown kind."""
        score = target if isinstance(target, targets.Logit) and type(target) in SCORES else targets.Logit()
        classes = score.classes if score is target else target
        if isinstance(classes, targets.Score) or not _are_classes(classes):
            return None
        name, layouts = _form(classes), layouts_of(inputs)
        if name is None or layouts is None:
            return None
        key = CallKey("explanation", tuple(inputs.images.shape), name, (*layouts, type(score).__name__))
        return cls(key, inputs, target, tensors_of(inputs), score, classes if "indices" in name else None, explain)

    def run(self) -> Explanations:
        """Explain without a graph."""
        return self.explain(self.inputs, self.target)

    def run_on(self, tensors: Sequence[Tensor], indices: ClassIndices | None) -> Explanations:
        """Explain tensors and classes that stay in place."""
        target = self.target if indices is None else _StaticClasses(self.score, indices)
        return self.explain(with_tensors(self.inputs, tensors), target)

    def output_of(self, result: Explanations) -> ModelOutput:
        """Return the model's output, which has the number of classes."""
        return _singles(result)[0].output

    def indices(self, output: ModelOutput) -> ClassIndices | None:
        """Return the class indices for an output (N, classes); None for a target without any."""
        return None if self.classes is None else class_indices(output, self.classes, len(self.inputs))

    def take_apart(self, result: Explanations) -> object:
        """Return explanations with their maps as a tree of tensors."""
        singles = {None: result} if isinstance(result, Explanation) else result
        return {
            key: ({each.name: getattr(single, each.name) for each in fields(single)}, single.maps)
            for key, single in singles.items()
        }

    def put_together(self, taken: object, indices: ClassIndices | None) -> Explanations:
        """Return explanations of these images, and of these classes, from such a tree."""
        own: dict[str, object] = {"images": self.inputs.images.detach()}
        if indices is None or indices.is_unknown is None:  # in tensors that stay in place some may be
            own["is_unknown"] = None
        result = {}
        for key, (values, maps) in cast("dict[object, tuple[dict[str, object], Tensor]]", taken).items():
            result[key] = Explanation(**{**values, **own})  # type: ignore[arg-type]
            result[key].__dict__["maps"] = maps
        return cast("Explanations", result.get(None, result))

    def agree(self, replayed: Explanations, expected: Explanations) -> bool:
        """Whether explanations with and without a graph are the same."""
        pairs = zip(_singles(replayed), _singles(expected), strict=True)
        return all(is_close(one.maps, other.maps) and is_close(one.scores, other.scores) for one, other in pairs)


class _StaticClasses(targets.Logit):
    """The score of class indices in tensors that stay in place, which every replay reads."""

    def __init__(self, score: targets.Logit, indices: ClassIndices) -> None:
        super().__init__()
        self.score, self.indices = score, indices

    def bind(self, output: ModelOutput, count: int) -> Bound:
        return self.score.bind_to(self.indices)


def _singles(result: Explanations) -> list[Explanation]:
    return [result] if isinstance(result, Explanation) else list(result.values())


def _are_classes(target: targets.Target) -> TypeGuard[Classes | None]:
    return not callable(target) and not (isinstance(target, list | tuple) and any(map(callable, target)))


def _form(classes: Classes | None) -> str | None:
    """Return the form of class indices, one for all images as one for each; None for what is none."""
    if classes is None or isinstance(classes, str):
        return classes or "highest"
    try:
        return form_of_indices(tuple(classes.shape) if isinstance(classes, Tensor) else np.shape(classes))
    except ValueError:  # lists of several lengths
        return None
