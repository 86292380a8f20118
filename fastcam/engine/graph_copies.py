"""Blocks of copies that one recorded graph serves: what methods of many copies ask the model, again and again."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor

from fastcam import targets
from fastcam.devices import all_rows
from fastcam.engine.graph_keys import SCORES, CallKey, form_of_indices, is_close, layouts_of, tensors_of, with_tensors
from fastcam.model.elements import ModelOutput
from fastcam.model.inputs import Inputs
from fastcam.targets.binding import Bound
from fastcam.targets.class_indices import ClassIndices

Results = dict[str, Tensor]
Work = Callable[[Inputs, Bound, Tensor], Results]  # of copies, their target, and the image of each that it is bound to


@dataclass(frozen=True)
class CopiesCall:
    """One block of copies.

    Attributes:
        key: which other blocks one graph serves.
        inputs: M copies, and the model's other arguments for them.
        tensors: the copies, and the tensors among the other arguments.
        bound: the target of the images.
        rows: (M,), the image of every copy.
        score: the target without its classes.
        work: from copies and their target to tensors (M, ...) by name.
    """

    key: CallKey
    inputs: Inputs
    tensors: list[Tensor]
    bound: Bound
    rows: Tensor
    score: targets.Logit
    work: Work

    @classmethod
    def of(
        cls, inputs: Inputs, bound: Bound, rows: Tensor, name: str, settings: tuple[Hashable, ...], work: Work
    ) -> "CopiesCall | None":
        """Return the call; None for a score that more than classes define, or arguments of unknown kind.

        Args:
            inputs: the model's arguments for the copies.
            bound: the target of the images.
            rows: (M,), the image of every copy.
            name: of the work, for reports.
            settings: what else the work depends on.
            work: from copies and their target to tensors (M, ...) by name.
        """
        layouts = layouts_of(inputs)
        if bound.indices is None or bound.score is None or type(bound.score) not in SCORES or layouts is None:
            return None
        form = form_of_indices(tuple(bound.indices.values.shape))
        key = CallKey(name, tuple(inputs.images.shape), form, (*layouts, type(bound.score).__name__, settings))
        return cls(key, inputs, tensors_of(inputs), bound, rows, bound.score, work)

    def run(self) -> Results:
        """Do the work without a graph."""
        return self.work(self.inputs, self.bound, self.rows)

    def run_on(self, tensors: Sequence[Tensor], indices: ClassIndices | None) -> Results:
        """Do the work on tensors and classes of the copies that stay in place."""
        assert indices is not None
        return self.work(with_tensors(self.inputs, tensors), self.score.bind_to(indices), all_rows(len(self.rows)))

    def output_of(self, result: Results) -> ModelOutput:
        """Return nothing: the classes are known to be some."""

    def indices(self, output: ModelOutput) -> ClassIndices:
        """Return the classes of every copy."""
        assert self.bound.indices is not None
        return self.bound.indices.take(self.rows)

    def take_apart(self, result: Results) -> object:
        """Return the result, a tree of tensors."""
        return result

    def put_together(self, taken: object, indices: ClassIndices | None) -> Results:
        """Return the result."""
        return cast("Results", taken)

    def agree(self, replayed: Results, expected: Results) -> bool:
        """Whether numbers with and without a graph are the same; gradients, in units of the largest.

        The highest class is left out: of two that are nearly equal either may be it.
        """

        def scaled(name: str, values: Tensor) -> Tensor:
            largest = expected[name].abs().amax().nan_to_num()
            return values / largest.clamp(min=1e-30) if name.endswith("_gradients") else values

        numbers = [name for name, values in expected.items() if values.is_floating_point()]
        return all(is_close(scaled(name, replayed[name]), scaled(name, expected[name])) for name in numbers)
