"""One call of a forward function: what is explained, what else it takes, and which of its outputs counts."""

import contextlib
from collections.abc import Callable, Collection, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastcam.graph.relu_rules import ReluRule, cuts_at_zero, relu_rule
from fastcam.model import capture
from fastcam.model.batching import Batches, BatchSize
from fastcam.model.progress import Progress

_MANY = 8  # pictures from which the other layout saves more than it costs

Given = Tensor | tuple[Tensor, ...]
Target = int | tuple[int, ...] | Tensor | list[tuple[int, ...]] | list[int] | None


def as_tuple(given: Given, name: str = "inputs") -> tuple[Tensor, ...]:
    """A tuple of tensors, of one where one is given alone.

    Raises:
        AssertionError: for anything else.
    """
    found = given if isinstance(given, tuple) else (given,)
    for each in found:
        if not isinstance(each, Tensor):
            raise AssertionError(f"`{name}` must be a tensor or a tuple of tensors, found {type(each).__name__}")
    return found


def like(given: Any, found: tuple[Tensor, ...]) -> Any:
    """What was found as it was given: a tuple, or one tensor alone."""
    return found if isinstance(given, tuple) else found[0]


def arguments(additional: Any) -> tuple[Any, ...]:
    """Additional arguments of the forward function as a tuple."""
    if additional is None:
        return ()
    return additional if isinstance(additional, tuple) else (additional,)


def row_sums(tensors: tuple[Tensor, ...]) -> Tensor:
    """(N,): of every example, the sum over all that the tensors hold of it."""
    return torch.stack([each.reshape(len(each), -1).sum(1) for each in tensors]).sum(0)


class _Function(nn.Module):
    """A function where a module is expected."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *given: Any) -> Any:
        """Whatever the function returns."""
        return self.function(*given)


class Call:
    """A forward function with its arguments and its target, and copies of these row by row.

    Args:
        forward_func: a model, or any function of tensors.
        inputs: what is explained; the first axis counts the examples.
        target: which outputs count, see :meth:`chosen`.
        additional_forward_args: what else the function takes, behind the inputs; of tensors with as many rows as there
            are examples, every copy gets its example's row.

    Attributes:
        inputs: as a tuple.
        count: N, the number of examples.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        inputs: Given,
        target: Target = None,
        additional_forward_args: Any = None,
    ) -> None:
        self.model = forward_func if isinstance(forward_func, nn.Module) else _Function(forward_func)
        self.inputs = as_tuple(inputs)
        self.count = len(self.inputs[0])
        self.others = arguments(additional_forward_args)
        self.target = target
        self._layout_is_free = True  # as far as is known

    def batches(self, size: BatchSize = "auto", progress: bool = False) -> Batches:
        """How the work for many copies is cut: to a size that fits, or to the caller's."""
        return Batches(size, self.inputs[0].device, Progress(progress))

    def output(self, inputs: tuple[Tensor, ...], rows: Tensor | None = None, *, with_graph: bool = False) -> Any:
        """What the function returns for copies of the examples that ``rows`` (M,) names; None for each once."""
        others = self.others if rows is None else tuple(self._of_rows(each, rows) for each in self.others)
        fast = tuple(_fast(each) for each in inputs) if rows is not None and self._layout_is_free else inputs
        try:
            return capture.forward(self.model, (*fast, *others), from_start=with_graph).output
        except RuntimeError as error:
            if fast is inputs or "view size is not compatible" not in str(error):
                raise
            self._layout_is_free = False
        return capture.forward(self.model, (*inputs, *others), from_start=with_graph).output

    def scores(self, inputs: tuple[Tensor, ...], rows: Tensor | None = None, *, with_graph: bool = False) -> Tensor:
        """What counts of the output, (M, ...) or whatever the function returns."""
        return self.chosen(self.output(inputs, rows, with_graph=with_graph), rows)

    def chosen(self, output: Any, rows: Tensor | None = None) -> Tensor:
        """The part of an output (M, ...) that the target names.

        An int takes a column, a tuple the element at these places behind the first axis; a list of these, or a 1-D
        tensor, has one for each example; None takes the output as it is.

        Raises:
            AssertionError: where that does not fit.
        """
        if not isinstance(output, Tensor):
            output = _number(output)
        target = self.target if rows is None else self._of_rows(self.target, rows)
        if isinstance(target, Tensor):
            if target.numel() == 1 and not target.is_floating_point():
                target = int(target)
            elif target.dim() != 1 or len(target) != len(output):
                raise AssertionError(
                    f"a tensor as target must hold one class for each of the {len(output)} rows of the output, "
                    f"got shape {tuple(target.shape)}"
                )
            else:
                return _columns(output, target)
        if target is None:
            return output
        if isinstance(target, int | tuple):
            places = (target,) if isinstance(target, int) else target
            if len(places) >= output.dim():
                raise AssertionError(
                    f"target {target!r} must name places behind the first axis of the output, whose shape is "
                    f"{tuple(output.shape)}"
                )
            return output[(slice(None), *places)]
        if not isinstance(target, list):
            raise AssertionError(
                f"a target must be an int, a tuple of them, a tensor, a list or None, got {type(target).__name__}"
            )
        if len(target) != len(output):
            raise AssertionError(f"a list as target must have one for each of the {len(output)} rows, got {target!r}")
        if isinstance(target[0], int):
            return _columns(output, torch.tensor(target))
        if isinstance(target[0], tuple):
            return torch.stack([output[(row, *place)] for row, place in enumerate(target)])
        raise AssertionError(f"targets in a list must be ints or tuples of them, got {type(target[0]).__name__}")

    def gradients(
        self,
        inputs: tuple[Tensor, ...],
        rows: Tensor | None = None,
        rule: ReluRule | None = None,
        rectifiers: Literal["any", "modules"] = "any",
    ) -> tuple[Tensor, ...]:
        """Gradients of every copy's score with respect to each of the inputs.

        Args:
            inputs: copies, (M, ...) each.
            rows: of which examples; None for each once.
            rule: for the rectifiers, None for their derivative.
            rectifiers: which ones follow the rule: all that cut at zero, or those of ``nn.ReLU`` modules alone.
        """
        leaves = self.leaves(inputs)
        rows = torch.arange(self.count) if rows is None else rows
        with recording(), self.ruled(rule, rectifiers) as following:
            scores = self.scores(leaves, rows, with_graph=True)
            check_scores(scores)
            with following(scores):
                return tuple(each.contiguous() for each in torch.autograd.grad(torch.unbind(scores), leaves))

    @staticmethod
    def leaves(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The inputs as tensors to differentiate with respect to; what was given stays as it is.

        Raises:
            RuntimeError: for tensors of whole numbers.
        """
        for index, each in enumerate(inputs):
            if not each.is_floating_point():
                raise RuntimeError(
                    f"input {index} must hold floating point numbers to have a gradient, got {each.dtype}; what is not "
                    "to be explained belongs into additional_forward_args"
                )
        with torch.inference_mode(False):
            usable = (each.clone() if each.is_inference() else each.detach() for each in inputs)
            return tuple(each.requires_grad_() for each in usable)

    @contextlib.contextmanager
    def ruled(
        self, rule: ReluRule | None, rectifiers: Literal["any", "modules"] = "any"
    ) -> Iterator[Callable[[Tensor], contextlib.AbstractContextManager[None]]]:
        """Around a forward pass: gives what a backward pass from its scores is to be within, to follow the rule."""
        nodes: list[Any] = []
        with contextlib.ExitStack() as stack:
            if rectifiers == "modules":
                for module in self.model.modules():
                    if isinstance(module, nn.ReLU):
                        handle = module.register_forward_hook(
                            lambda module, given, output: nodes.append(output.grad_fn)
                        )
                        stack.callback(handle.remove)
            yield lambda scores: _followed(scores, rule, nodes if rectifiers == "modules" else None)

    def _of_rows(self, given: Any, rows: Tensor) -> Any:
        """What every copy gets: of one a row its example's, of anything else the same."""
        if isinstance(given, Tensor) and given.dim() > 0 and len(given) == self.count and given.numel() > 1:
            return given[rows.to(given.device)]
        return [given[row] for row in rows.tolist()] if isinstance(given, list) and len(given) == self.count else given


def _followed(
    scores: Tensor, rule: ReluRule | None, nodes: Collection[Any] | None
) -> contextlib.AbstractContextManager[None]:
    if rule is None:
        return contextlib.nullcontext()
    return relu_rule(scores, rule, cuts_at_zero if nodes is None else lambda node: node in nodes)


@contextlib.contextmanager
def recording() -> Iterator[None]:
    """With a graph, whatever the caller's grad mode is."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def check_scores(scores: Tensor) -> None:
    """Refuses more than one score for an example.

    Raises:
        AssertionError: with a sentence.
    """
    if scores.dim() == 0 or scores[0].numel() != 1:
        raise AssertionError(
            f"every example must have one score to be explained, got scores of shape {tuple(scores.shape)}: pass "
            "target= to name the one that counts"
        )


def _columns(output: Tensor, classes: Tensor) -> Tensor:
    if output.dim() != 2:
        raise AssertionError(f"one class for each row needs an output (N, classes), got {tuple(output.shape)}")
    return output.gather(1, classes.to(output.device).reshape(-1, 1)).squeeze(1)


def _number(output: Any) -> Tensor:
    """A number as a tensor: float64 or int64."""
    if not isinstance(output, int | float):
        raise AssertionError(f"forward_func must return a tensor or a number, got {type(output).__name__}")
    return torch.tensor(output, dtype=torch.float64 if isinstance(output, float) else torch.int64)


def _fast(tensor: Tensor) -> Tensor:
    """Many pictures with their channels side by side: convolutions on a processor like it better."""
    if tensor.dim() != 4 or len(tensor) < _MANY or tensor.device.type != "cpu" or not tensor.is_floating_point():
        return tensor
    return tensor.contiguous(memory_format=torch.channels_last)
