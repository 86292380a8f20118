"""A model as :func:`fastcam.prepare` leaves it: of its own class still, with faster weights, and a report."""

import contextlib
import functools
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from fastcam.model import capture
from fastcam.model.inputs import Inputs
from fastcam.preparation.agreement import Difference
from fastcam.preparation.batch_norm import Folded
from fastcam.preparation.compiled_parts import Parts


@dataclass(frozen=True)
class Step:
    """One step of the preparation.

    Attributes:
        name: what it is.
        done: whether the prepared model has it.
        detail: what was done, or why it was refused.
        gain: how many times faster a forward pass of the example became by it; None where that was not measured.
        difference: from the untouched model, after all steps so far and this one; None where it was not measured.
    """

    name: str
    done: bool
    detail: str
    gain: float | None = None
    difference: Difference | None = None


@dataclass(frozen=True)
class Report:
    """What preparing a model did.

    Attributes:
        steps: in their order.
        gain: how many times faster a forward pass of the example is than that of the untouched model.
        difference: from the untouched model, on the example.
        batch_size: the number of images at a time that is fastest here.
    """

    steps: tuple[Step, ...]
    gain: float
    difference: Difference
    batch_size: int

    def __str__(self) -> str:
        """Two lines a step, and two for all of them."""
        whole = Step("in all", True, f"fastest with {self.batch_size} images at a time", self.gain, self.difference)
        return "\n".join(_lines(each) for each in (*self.steps, whole))


def _lines(step: Step) -> str:
    measured = [] if step.gain is None else [f"{step.gain:.2f} times faster"]
    measured += [] if step.difference is None else [str(step.difference)]
    first = f"{step.name:<15}{'' if step.done else 'refused: '}{step.detail}"
    return first if not measured else f"{first}\n{'':15}{', '.join(measured)}"


@dataclass(frozen=True)
class Form:
    """How a prepared model computes.

    Attributes:
        fold: whether batch norms are folded into convolutions.
        dtype: of weights and images; None leaves them.
        autocast: the dtype of products, where weights and images keep theirs.
        channels_last: whether the channels of an image lie side by side in memory.
    """

    fold: bool = False
    dtype: torch.dtype | None = None
    autocast: torch.dtype | None = None
    channels_last: bool = False

    @property
    def is_half(self) -> bool:
        """Whether anything is computed in half precision."""
        return self.dtype is not None or self.autocast is not None

    def layout(self, tensor: Tensor) -> Tensor:
        """The tensor in the form's memory layout."""
        if not self.channels_last or tensor.dim() not in (4, 5):
            return tensor
        kind = torch.channels_last if tensor.dim() == 4 else torch.channels_last_3d
        return tensor.contiguous(memory_format=kind)

    def arguments(self, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """What a model of this form is given for its arguments."""
        return tree_map_only(Tensor, self._argument, arguments)

    def _argument(self, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        found = self.layout(tensor if self.dtype is None else tensor.to(self.dtype))
        return found.clone() if found.is_inference() and not torch.is_inference_mode_enabled() else found

    def products(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        """The context a model of this form runs in."""
        return contextlib.nullcontext() if self.autocast is None else torch.autocast(device.type, self.autocast)


class Prepared(capture.Divided):
    """A faster copy of a model, accepted wherever a model is; what :func:`fastcam.prepare` returns.

    It is also an instance of the model's own class, with the same names for its layers.
    """

    batch_size: int | None
    _form: Form
    _folded: Folded
    _parts: Parts | None
    _report: Report
    _example: tuple[Any, ...]
    _names: weakref.WeakKeyDictionary[nn.Module, str]

    @staticmethod
    def of(copied: nn.Module, model: nn.Module, form: Form, folded: Folded, inputs: Inputs) -> "Prepared":
        """A copy of a model, its weights changed as the form says, as a prepared model."""
        kind = type(copied)
        prepared: Any = copied
        prepared.__class__ = type(f"Prepared{kind.__name__}", (Prepared, kind), {"__doc__": kind.__doc__})
        prepared._form, prepared._folded, prepared._parts, prepared.batch_size = form, folded, None, None
        prepared._example = _signature(inputs.arguments)
        prepared._names = weakref.WeakKeyDictionary({module: name for name, module in model.named_modules()})
        return prepared

    def report(self) -> Report:
        """What was done, what was refused and why, the measured gain, and the difference from the untouched model."""
        return self._report

    def forward(self, *arguments: Any, **options: Any) -> Any:
        """The model's output, in the precision of its first argument."""
        parts = None if options or torch.is_grad_enabled() else self._fitting(arguments)
        if parts is not None and not self._is_watched():
            with torch.inference_mode(False), torch.no_grad():
                return _as_given(parts(self._form.arguments(arguments)), arguments)
        given = (*arguments, *options.values())
        named = dict(zip(options, self._form.arguments(tuple(options.values())), strict=True))
        with self._form.products(_first_floating(given).device):
            return _as_given(super().forward(*self._form.arguments(arguments), **named), given)

    def divided(self, arguments: tuple[Any, ...], layer: str, with_graph: bool) -> tuple[Tensor, Any] | None:
        """What the layer returned and the output, by the compiled parts; None where they do not fit."""
        parts = self._fitting(arguments)
        if parts is None or parts.layer != layer or self._is_watched():
            return None
        with torch.inference_mode(False), torch.no_grad():
            activation, *others = parts.in_front(self._form.arguments(arguments))
            activation = activation.clone()  # the compiled code may use its memory again
            with torch.set_grad_enabled(with_graph):
                start = activation.requires_grad_(with_graph).clone()
                return activation, _as_given(parts.behind([start, *others], with_graph), arguments)

    def train(self, mode: bool = True) -> "Prepared":
        """Refuses to leave evaluation mode.

        Raises:
            RuntimeError: for training mode.
        """
        if mode:
            raise RuntimeError("a prepared model stays in evaluation mode; train the one it was made from")
        return super().train(mode)

    def __getstate__(self) -> Any:
        """What a copy has: all but the compiled code, which would be compiled anew."""
        return {**super().__getstate__(), "_parts": None}

    def name_of(self, module: nn.Module) -> str | None:
        """The name that a module of the untouched model has in both."""
        return self._names.get(module)

    def check_layer(self, name: str) -> None:
        """Refuses a layer that does not return any more what it did.

        Raises:
            ValueError: where a batch norm was folded into it.
        """
        if name in self._folded.changed:
            raise ValueError(
                f"layer {name!r} returns something else since the batch norm behind it was folded into it: "
                f"prepare the model with target_layer={name!r}"
            )

    def check_biases(self) -> None:
        """Refuses to be asked for every bias where several became one.

        Raises:
            ValueError: where batch norms were folded into convolutions that have a bias themselves.
        """
        if self._folded.biased:
            raise ValueError(
                f"the biases of {self._folded.biased[0]!r} and of its batch norm are one in the prepared model: "
                "full_grad, which looks at each, needs the model it was made from"
            )

    def _fitting(self, arguments: tuple[Any, ...]) -> Parts | None:
        """The compiled parts, if they were made for such arguments."""
        if self._parts is None or _signature(arguments) != self._example:
            return None
        return self._parts if len(tree_leaves(arguments)[0]) in self._parts.sizes else None

    def _is_watched(self) -> bool:
        """Whether anybody listens to modules or functions that compiled code does not have."""
        modes = torch._C._len_torch_function_stack() + torch._C._len_torch_dispatch_stack()
        return bool(modes) or any(each._forward_hooks or each._forward_pre_hooks for each in self._inner)

    @functools.cached_property
    def _inner(self) -> list[nn.Module]:
        return [each for each in capture.all_modules(self) if each is not self]


def _signature(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """What compiled code depends on: everything of the arguments but the number of images."""
    return tuple(
        (each.shape[1:], each.dtype, each.device) if isinstance(each, Tensor) else repr(each)
        for each in tree_leaves(arguments)
    )


def _as_given(found: Any, arguments: tuple[Any, ...]) -> Any:
    """The output with its floating tensors in the precision of the first floating argument."""
    dtype = _first_floating(arguments).dtype
    return tree_map_only(Tensor, lambda each: each.to(dtype) if each.is_floating_point() else each, found)


def _first_floating(arguments: tuple[Any, ...]) -> Tensor:
    """The images, wherever they stand in the arguments.

    Raises:
        TypeError: where there are none.
    """
    for each in tree_leaves(arguments):
        if isinstance(each, Tensor) and each.is_floating_point():
            return each
    raise TypeError("a prepared model needs a floating point tensor among its arguments, got none")
