"""Base classes of all methods."""

import functools
from abc import ABC
from collections.abc import Callable
from types import FunctionType
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastcam.compat.captum.attr._baselines import Baseline, Baselines, expand_baselines, fitting_baselines
from fastcam.compat.captum.attr._calls import Call, Target, Tensors, arguments, as_tuple, row_sums

Layer: TypeAlias = nn.Module | list[nn.Module]
GradientFunction: TypeAlias = Callable[..., tuple[Tensor, ...]]


class Attribution(ABC):
    """A method of attribution to the inputs of a forward function.

    Args:
        forward_func: a model, or any function of tensors whose first axis counts the examples.
    """

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        self.forward_func = forward_func

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Give ``attribute`` the ``__wrapped__`` by which Captum's own classes call a method."""
        super().__init_subclass__(**kwargs)
        function = vars(cls).get("attribute")
        if isinstance(function, FunctionType) and not hasattr(function, "__wrapped__"):
            function.__wrapped__ = _copy_of(function)  # type: ignore[attr-defined]

    attribute: Callable[..., Any]
    compute_convergence_delta: Callable[..., Tensor]

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether attributions are shares of the output, and not slopes."""
        return False

    def has_convergence_delta(self) -> bool:
        """Whether ``attribute`` takes ``return_convergence_delta``."""
        return False

    def attribute_future(self) -> None:
        """Raise: this method of Captum is not implemented.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(f"attribute_future is not implemented for {type(self).__name__}")

    @classmethod
    def get_name(cls) -> str:
        """Return the name of the class, in words."""
        name = cls.__name__
        return name[0] + "".join(letter if letter.islower() else f" {letter}" for letter in name[1:])


def _copy_of(function: FunctionType) -> FunctionType:
    """Return another function of the same code; one that wrapped itself would have no signature."""
    parts = function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    copy = FunctionType(*parts)
    copy.__kwdefaults__ = function.__kwdefaults__
    functools.update_wrapper(copy, function)
    del vars(copy)["__wrapped__"]
    return copy


def compute_gradients(
    forward_fn: Callable[..., Any],
    inputs: Tensors,
    target_ind: Target = None,
    additional_forward_args: object = None,
) -> tuple[Tensor, ...]:
    """Return the gradients of every example's score with respect to each of the inputs.

    Args:
        forward_fn: a model, or any function of tensors.
        inputs: a tensor, or a tuple of them.
        target_ind: selects the score.
        additional_forward_args: further arguments of the forward function.
    """
    call = Call(forward_fn, inputs, target_ind, additional_forward_args)
    return call.gradients(call.inputs)


class GradientAttribution(Attribution):
    """A method that differentiates the output.

    Args:
        forward_func: a model, or any function of tensors.
    """

    replaceable_gradients = True

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        super().__init__(forward_func)
        self._gradient_func: GradientFunction = compute_gradients

    @property
    def gradient_func(self) -> GradientFunction:
        """The function that returns the gradients; another one of the same arguments may be assigned.

        Raises:
            AttributeError: on assignment, where the method takes its gradients in a pass of its own.
        """
        return self._gradient_func

    @gradient_func.setter
    def gradient_func(self, function: GradientFunction) -> None:
        if not self.replaceable_gradients:
            raise AttributeError(
                f"{type(self).__name__}.gradient_func must stay as it is, got {function!r}: the method takes its "
                "gradients at a layer or with its own backward rules, and would not call the function"
            )
        self._gradient_func = function

    def gradients_at(self, call: Call, inputs: tuple[Tensor, ...], rows: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the gradients at copies of the examples ``rows`` (M,), None for each once, by ``gradient_func``."""
        if self.gradient_func is compute_gradients:
            return call.gradients(inputs, rows)
        gradients = self.gradient_func(self.forward_func, call.leaves(inputs), *call.options(rows))
        gradients = (gradients,) if isinstance(gradients, Tensor) else gradients
        return tuple(gradient.detach() for gradient in gradients)

    def compute_convergence_delta(
        self,
        attributions: Tensors,
        start_point: Baselines,
        end_point: Tensors,
        target: Target = None,
        additional_forward_args: object = None,
    ) -> Tensor:
        """Return (N,), the sum of the attributions less the change of the output from the start to the end.

        Args:
            attributions: of each input.
            start_point: the baselines.
            end_point: the inputs.
            target: as for ``attribute``.
            additional_forward_args: as for ``attribute``.

        Raises:
            AssertionError: where the numbers of rows differ.
        """
        ends, values = as_tuple(end_point), as_tuple(attributions, "attributions")
        starts = fitting_baselines(ends, start_point)
        for value, end in zip(values, ends, strict=False):
            if len(value) != len(end):
                raise AssertionError(f"attributions of {len(value)} examples do not belong to {len(end)} inputs")
        if isinstance(target, list | Tensor) and torch.as_tensor(target).numel() > 1 and len(target) != len(ends[0]):
            raise AssertionError(f"there must be one target for each of the {len(ends[0])} examples, got {len(target)}")
        call = Call(self.forward_func, ends, target, arguments(additional_forward_args))
        first, last = (row_sums((call.scores(point),)) for point in (expand_baselines(ends, starts), ends))
        return row_sums(values) - (last - first)


class PathAttribution(GradientAttribution):
    """A method that averages gradients between baselines and inputs.

    Args:
        forward_func: a model, or any function of tensors.
        multiply_by_inputs: False for the mean gradients, not multiplied by the differences.
    """

    def __init__(self, forward_func: Callable[..., Tensor], multiply_by_inputs: bool = True) -> None:
        super().__init__(forward_func)
        self._multiply_by_inputs = multiply_by_inputs

    @property
    def multiplies_by_inputs(self) -> bool:
        """The constructor's ``multiply_by_inputs``."""
        return self._multiply_by_inputs

    def has_convergence_delta(self) -> bool:
        """Return True."""
        return True

    def _with_delta(
        self, call: Call, starts: tuple[Baseline, ...], values: tuple[Tensor, ...], formatted: Any, with_delta: bool
    ) -> Any:
        """Return the formatted attributions, with the convergence delta (N,) where it is asked for."""
        if not with_delta:
            return formatted
        return formatted, self.compute_convergence_delta(values, starts, call.inputs, call.target, call.others)


class PerturbationAttribution(Attribution):
    """A method that changes the inputs and compares the outputs."""

    @property
    def multiplies_by_inputs(self) -> bool:
        """True: attributions are shares of the output."""
        return True


class InternalAttribution(Attribution):
    """A method with a layer.

    Args:
        forward_func: a model, or any function that runs one.
        layer: the module, or a list of modules.
        device_ids: kept, and not used.
    """

    def __init__(self, forward_func: Callable[..., Any], layer: Layer, device_ids: list[int] | None = None) -> None:
        super().__init__(forward_func)
        self.layer = layer
        self.device_ids = device_ids


class LayerAttribution(InternalAttribution):
    """A method of attribution to the inputs or outputs of a layer."""

    @staticmethod
    def interpolate(
        layer_attribution: Tensor, interpolate_dims: int | tuple[int, ...], interpolate_mode: str = "nearest"
    ) -> Tensor:
        """Return attributions (N, C, *s) at another size, by :func:`torch.nn.functional.interpolate`.

        Args:
            layer_attribution: of a layer, with one to three spatial axes.
            interpolate_dims: the spatial size.
            interpolate_mode: "nearest", "bilinear" or another mode of torch.
        """
        return F.interpolate(layer_attribution, interpolate_dims, mode=interpolate_mode)
