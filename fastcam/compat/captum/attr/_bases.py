"""What all methods have in common: the classes that people's own methods are made from."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastcam.compat.captum.attr._baselines import Baselines, baselines_of, check_shapes, filled
from fastcam.compat.captum.attr._calls import Call, Given, Target, arguments, as_tuple, row_sums

Layer = nn.Module | list[nn.Module]


class Attribution:
    """A method of attribution to the inputs of a forward function.

    Args:
        forward_func: a model, or any function of tensors whose first axis counts the examples.
    """

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        self.forward_func = forward_func

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
        """Is not there.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(f"attribute_future is not implemented for {type(self).__name__}")

    @classmethod
    def get_name(cls) -> str:
        """The name of the class, in words."""
        name = cls.__name__
        return name[0] + "".join(each if each.islower() else f" {each}" for each in name[1:])


class GradientAttribution(Attribution):
    """A method that differentiates the output."""

    def compute_convergence_delta(
        self,
        attributions: Given,
        start_point: Baselines,
        end_point: Given,
        target: Target = None,
        additional_forward_args: Any = None,
    ) -> Tensor:
        """(N,): the sum of the attributions, less the output's way from the start to the end.

        Args:
            attributions: of each input.
            start_point: the baselines.
            end_point: the inputs.
            target: as for ``attribute``.
            additional_forward_args: as for ``attribute``.

        Raises:
            AssertionError: where the numbers of rows differ.
        """
        ends, found = as_tuple(end_point), as_tuple(attributions, "attributions")
        starts = baselines_of(ends, start_point)
        check_shapes(ends, starts)
        for each, end in zip(found, ends, strict=False):
            if len(each) != len(end):
                raise AssertionError(f"attributions of {len(each)} examples do not belong to {len(end)} inputs")
        if isinstance(target, list | Tensor) and torch.as_tensor(target).numel() > 1 and len(target) != len(ends[0]):
            raise AssertionError(f"there must be one target for each of the {len(ends[0])} examples, got {len(target)}")
        call = Call(self.forward_func, ends, target, arguments(additional_forward_args))
        first, last = (row_sums((call.scores(each),)) for each in (filled(ends, starts), ends))
        return row_sums(found) - (last - first)


class PerturbationAttribution(Attribution):
    """A method that changes the inputs and looks at the output."""

    @property
    def multiplies_by_inputs(self) -> bool:
        """Always: what is removed is a share of the output."""
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
    """A method of attribution to what a layer takes or returns."""

    @staticmethod
    def interpolate(
        layer_attribution: Tensor, interpolate_dims: int | tuple[int, ...], interpolate_mode: str = "nearest"
    ) -> Tensor:
        """Attributions (N, C, *s) at another size, by :func:`torch.nn.functional.interpolate`.

        Args:
            layer_attribution: of a layer, with one to three spatial axes.
            interpolate_dims: the spatial size.
            interpolate_mode: "nearest", "bilinear" or another that torch knows.
        """
        return F.interpolate(layer_attribution, interpolate_dims, mode=interpolate_mode)
