"""One call of a forward function: its inputs, its additional arguments, and the target that selects its scores."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from fastcam.compat.captum.attr._progress import progress_reporter
from fastcam.graph.relu_rules import ReluRule, cuts_at_zero, relu_rule
from fastcam.model import capture
from fastcam.model.batching import Batches, BatchSize
from fastcam.model.gradients import gradients
from fastcam.model.inputs import Inputs, in_fast_layout

MIN_FAST_LAYOUT_ROWS = 8  # below that, conversion to channels_last costs more than it saves

Tensors: TypeAlias = Tensor | tuple[Tensor, ...]
TensorOrTuple = TypeVar("TensorOrTuple", Tensor, tuple[Tensor, ...])
Value = TypeVar("Value")
Target: TypeAlias = int | tuple[int, ...] | Tensor | list[tuple[int, ...]] | list[int] | None
Rectifiers = Literal["any", "modules"]


def as_tuple(tensors: Tensors, name: str = "inputs") -> tuple[Tensor, ...]:
    """Return a tuple of tensors, of one element for a single tensor.

    Raises:
        AssertionError: for anything else.
    """
    values = tensors if isinstance(tensors, tuple) else (tensors,)
    for value in values:
        if not isinstance(value, Tensor):
            raise AssertionError(f"`{name}` must be a tensor or a tuple of tensors, found {type(value).__name__}")
    return values


def format_like(template: TensorOrTuple, tensors: tuple[Tensor, ...]) -> TensorOrTuple:
    """Return the tensors as a tuple if the template is one, else the only tensor."""
    if isinstance(template, tuple):
        return tensors
    return tensors[0]


def arguments(additional: object) -> tuple[object, ...]:
    """Return the additional arguments of the forward function as a tuple."""
    if additional is None:
        return ()
    return additional if isinstance(additional, tuple) else (additional,)


def row_sums(tensors: tuple[Tensor, ...]) -> Tensor:
    """Return (N,), the sum over all values of each example in all tensors."""
    return torch.stack([tensor.reshape(len(tensor), -1).sum(1) for tensor in tensors]).sum(0)


def take_rows(value: Value, rows: Tensor, count: int) -> Value:
    """Return the rows (M,) of a tensor or list with one row for each of ``count`` examples; anything else unchanged."""
    if isinstance(value, Tensor) and value.dim() > 0 and len(value) == count:
        return value[rows.to(value.device)]  # type: ignore[return-value]
    if isinstance(value, list) and len(value) == count:
        return [value[row] for row in rows.tolist()]  # type: ignore[return-value]
    return value


def take_targets(target: Target, rows: Tensor, count: int) -> Target:
    """Return the targets of the rows; a tensor of one element is one target for all examples."""
    return target if isinstance(target, Tensor) and target.numel() == 1 else take_rows(target, rows, count)


class _Function(nn.Module):
    """A function wrapped as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: object) -> Any:
        """Return the function's result."""
        return self.function(*args)


class Call:
    """A forward function with its arguments and its target, all of which can be repeated row by row.

    Args:
        forward_func: a model, or any function of tensors.
        inputs: the explained tensors; the first axis counts the examples.
        target: selects the scores, see :meth:`select`.
        additional_forward_args: arguments after the inputs; every copy of an example gets the example's row of tensors
            with one row per example.

    Attributes:
        inputs: as a tuple.
        count: N, the number of examples.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        inputs: Tensors,
        target: Target = None,
        additional_forward_args: object = None,
    ) -> None:
        self.model = forward_func if isinstance(forward_func, nn.Module) else _Function(forward_func)
        self.inputs = as_tuple(inputs)
        self.count = len(self.inputs[0])
        self.additional = additional_forward_args
        self.others = arguments(additional_forward_args)
        self.target = target
        self._accepts_fast_layout = True  # until a run shows otherwise

    def batches(self, size: BatchSize | None = None, progress: bool = False) -> Batches:
        """Return batches of the caller's size; None for one that suits the device."""
        return Batches("auto" if size is None else size, self.inputs[0].device, progress_reporter(progress))

    def options(self, rows: Tensor | None = None) -> tuple[Target, object]:
        """Return the target and the additional arguments for copies of the examples; None: as they were given."""
        if rows is None:
            return self.target, self.additional
        return take_targets(self.target, rows, self.count), self._others(rows) or None

    def _others(self, rows: Tensor) -> tuple[object, ...]:
        return tuple(take_rows(value, rows, self.count) for value in self.others)

    def output(self, inputs: tuple[Tensor, ...], rows: Tensor | None = None, *, with_graph: bool = False) -> Any:
        """Return the function's output for copies of the examples ``rows`` (M,); None for each example once."""
        others = self.others if rows is None else self._others(rows)
        runs = 0

        def run(arguments: Inputs) -> Any:
            nonlocal runs
            runs += 1
            return capture.forward(self.model, arguments.arguments, from_start=with_graph).output

        call_inputs = Inputs(inputs[0], (*inputs[1:], *others))
        if rows is None or len(inputs[0]) < MIN_FAST_LAYOUT_ROWS or not self._accepts_fast_layout:
            return run(call_inputs)
        output = in_fast_layout(run, call_inputs)
        self._accepts_fast_layout = runs == 1  # a second run: the first one failed
        return output

    def scores(self, inputs: tuple[Tensor, ...], rows: Tensor | None = None) -> Tensor:
        """Return the selected part of the output, (M, ...) or of any shape the function returns."""
        return self.select(self.output(inputs, rows), rows)

    def select(self, output: Any, rows: Tensor | None = None) -> Tensor:
        """Return the part of an output (M, ...) that the target names.

        An int selects a column, a tuple the element at that index after the first axis; a list of these, or a 1-D
        tensor, has one for each example; None selects the whole output.

        Raises:
            AssertionError: for a target that does not fit the output.
        """
        if not isinstance(output, Tensor):
            output = _as_tensor(output)
        target = self.target if rows is None else take_targets(self.target, rows, self.count)
        if isinstance(target, Tensor) and target.numel() == 1 and not target.is_floating_point():
            target = int(target)
        if target is None:
            return output
        if isinstance(target, int | tuple):
            index = (target,) if isinstance(target, int) else target
            if len(index) >= output.dim():
                raise AssertionError(
                    f"target {target!r} must name places behind the first axis of the output, whose shape is "
                    f"{tuple(output.shape)}"
                )
            return output[(slice(None), *index)]
        return _select_per_row(output, target)

    def single_scores(self, output: Any, rows: Tensor | None = None) -> Tensor:
        """Return the selected part of an output, with one element per row.

        Raises:
            AssertionError: for more than one score per row.
        """
        scores = self.select(output, rows)
        if scores.dim() == 0 or scores[0].numel() != 1:
            raise AssertionError(
                f"every example must have one score to be explained, got scores of shape {tuple(scores.shape)}: pass "
                "target= to name the one that counts"
            )
        return scores

    def gradients(
        self,
        inputs: tuple[Tensor, ...],
        rows: Tensor | None = None,
        rule: ReluRule | None = None,
        rectifiers: Rectifiers = "any",
    ) -> tuple[Tensor, ...]:
        """Return the gradients of every copy's score with respect to each of the inputs.

        Args:
            inputs: copies, (M, ...) each.
            rows: the examples of the copies; None for each once.
            rule: backward rule of the rectifiers, None for their derivative.
            rectifiers: apply the rule to all functions that cut at zero, or to ``nn.ReLU`` modules only.
        """
        leaves = self.leaves(inputs)
        rows = torch.arange(self.count) if rows is None else rows
        with recording(), self.relu_rule(rule, rectifiers) as in_backward:
            scores = self.single_scores(self.output(leaves, rows, with_graph=True), rows)
            with in_backward(scores):
                return self.leaf_gradients(scores, leaves)

    @staticmethod
    def leaf_gradients(scores: Tensor, leaves: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the gradients of the scores with respect to the inputs, contiguous."""
        names = [f"input {index}" for index in range(len(leaves))]
        return tuple(gradient.contiguous() for gradient in gradients(scores.flatten(), leaves, names))

    @staticmethod
    def leaves(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the inputs as leaf tensors that require gradients; the inputs themselves are not changed.

        Raises:
            RuntimeError: for tensors of integers.
        """
        for index, tensor in enumerate(inputs):
            if not tensor.is_floating_point():
                raise RuntimeError(
                    f"input {index} must hold floating point numbers to have a gradient, got {tensor.dtype}; what is "
                    "not to be explained belongs into additional_forward_args"
                )
        with torch.inference_mode(False):
            usable = (tensor.clone() if tensor.is_inference() else tensor.detach() for tensor in inputs)
            return tuple(tensor.requires_grad_() for tensor in usable)

    @contextlib.contextmanager
    def relu_rule(
        self, rule: ReluRule | None, rectifiers: Rectifiers = "any"
    ) -> Iterator[Callable[[Tensor], contextlib.AbstractContextManager[None]]]:
        """Yield, around a forward pass, a function from its scores to the context for a backward pass with the rule."""
        nodes: list[Node | None] = []

        def in_backward(scores: Tensor) -> contextlib.AbstractContextManager[None]:
            if rule is None:
                return contextlib.nullcontext()
            return relu_rule(scores, rule, cuts_at_zero if rectifiers == "any" else lambda node: node in nodes)

        with contextlib.ExitStack() as stack:
            for module in self.model.modules() if rectifiers == "modules" else ():
                if isinstance(module, nn.ReLU):
                    handle = module.register_forward_hook(lambda module, args, output: nodes.append(output.grad_fn))
                    stack.callback(handle.remove)
            yield in_backward


@contextlib.contextmanager
def recording() -> Iterator[None]:
    """Record an autograd graph, whatever the caller's grad mode is."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def _select_per_row(output: Tensor, target: Tensor | list[tuple[int, ...]] | list[int]) -> Tensor:
    """Return the part of an output that a target with one element per row names."""
    if isinstance(target, Tensor):
        if target.dim() != 1 or len(target) != len(output):
            raise AssertionError(
                f"a tensor as target must hold one class for each of the {len(output)} rows of the output, "
                f"got shape {tuple(target.shape)}"
            )
        return _columns(output, target)
    if not isinstance(target, list):
        raise AssertionError(
            f"a target must be an int, a tuple of them, a tensor, a list or None, got {type(target).__name__}"
        )
    if len(target) != len(output):
        raise AssertionError(f"a list as target must have one for each of the {len(output)} rows, got {target!r}")
    if isinstance(target[0], int):
        return _columns(output, torch.tensor(target))
    if isinstance(target[0], tuple):
        return torch.stack([output[(row, *index)] for row, index in enumerate(target)])
    raise AssertionError(f"targets in a list must be ints or tuples of them, got {type(target[0]).__name__}")


def _columns(output: Tensor, classes: Tensor) -> Tensor:
    if output.dim() != 2:
        raise AssertionError(f"one class for each row needs an output (N, classes), got {tuple(output.shape)}")
    return output.gather(1, classes.to(output.device).reshape(-1, 1)).squeeze(1)


def _as_tensor(output: object) -> Tensor:
    """Return a number as a float64 or int64 tensor."""
    if not isinstance(output, int | float):
        raise AssertionError(f"forward_func must return a tensor or a number, got {type(output).__name__}")
    return torch.tensor(output, dtype=torch.float64 if isinstance(output, float) else torch.int64)
