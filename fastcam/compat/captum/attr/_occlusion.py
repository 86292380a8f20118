"""What happens to the output when a window slides over the inputs."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastcam import ops
from fastcam.compat.captum.attr._ablation import Falls, FeatureAblation
from fastcam.compat.captum.attr._baselines import Baselines, baselines_of, check_shapes, filled
from fastcam.compat.captum.attr._calls import Call, Given, Target, like
from fastcam.methods.occlusion import coverage_mean
from fastcam.model.batching import Block

Sizes = tuple[int, ...]


class Occlusion(FeatureAblation):
    """How far the output falls when a window sliding over the input hides what is there (arXiv:1311.2901).

    Args:
        forward_func: a model, or any function of tensors; it may return a row an example, or something for all of them.
    """

    def attribute(  # type: ignore[override]  # as the tool's
        self,
        inputs: Given,
        sliding_window_shapes: Sizes | tuple[Sizes, ...],
        strides: int | Sizes | tuple[int | Sizes, ...] | None = None,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
    ) -> Any:
        """Of every value the mean fall over the windows that hide it, shaped as the inputs.

        With k outputs an example, (N * k, ...).

        Args:
            inputs: a tensor, or a tuple of them.
            sliding_window_shapes: sides of the window along all axes behind the first, or a tuple of these for a tuple
                of inputs.
            strides: step, or steps along the axes, or a tuple of these; None for 1. Windows over the border are cut.
            baselines: what the window holds: a number or a tensor for each input, None for 0.
            target: which output counts.
            additional_forward_args: what else the forward function takes.
            perturbations_per_eval: windows at a time; 1 for as many as suit the device.
            show_progress: show a bar on standard error.

        Raises:
            AssertionError: for windows that do not fit.
        """
        call = Call(self.forward_func, inputs, target, additional_forward_args)
        starts = baselines_of(call.inputs, baselines)
        check_shapes(call.inputs, starts)
        shapes = _for_each(inputs, sliding_window_shapes, "sliding_window_shapes")
        steps = _for_each(inputs, 1 if strides is None else strides, "strides", strides is None)
        sliding = [
            _Sliding(*each) for each in zip(call.inputs, shapes, steps, filled(call.inputs, starts), strict=True)
        ]
        falls = Falls(call, perturbations_per_eval, show_progress)
        found = []
        for index, each in enumerate(sliding):

            def copies(block: Block, index: int = index, each: _Sliding = each) -> tuple[Tensor, ...]:
                rows = block.rows
                return tuple(
                    each.hidden(block) if position == index else whole[rows.to(whole.device)]
                    for position, whole in enumerate(call.inputs)
                )

            found.append(each.spread(falls.of(each.count, copies)))
        return like(inputs, tuple(found))


def _for_each(inputs: Given, given: Any, name: str, alike: bool = False) -> tuple[Any, ...]:
    """One for each input."""
    if not isinstance(inputs, tuple):
        return (given,)
    found = (given,) * len(inputs) if alike else given
    if not isinstance(found, tuple) or len(found) != len(inputs):
        raise AssertionError(f"`{name}` must be a tuple with one for each of the {len(inputs)} inputs, got {given!r}")
    return found


class _Sliding:
    """A window that slides over one input.

    Args:
        inputs: (N, *S).
        shape: the window's sides along S.
        stride: its step, or steps along S.
        start: what it holds, (N, *S).
    """

    def __init__(self, inputs: Tensor, shape: Sizes, stride: int | Sizes, start: Tensor) -> None:
        self.size = tuple(inputs.shape[1:])
        self.shape = tuple(shape)
        self.stride = (stride,) * len(self.shape) if isinstance(stride, int) else tuple(stride)
        self._check()
        self.grid = [
            1 + -(-(full - side) // step) for full, side, step in zip(self.size, self.shape, self.stride, strict=True)
        ]
        self.count = math.prod(self.grid)
        self.inputs, self.start = inputs, start
        # A window as deep as the input has channels leaves the kernel, and the sums, one axis less.
        self.is_deep = len(self.size) > 1 and self.shape[0] == self.size[0]
        self.axes = slice(1, None) if self.is_deep else slice(None)
        self.windows = self._windows(inputs.device)

    def _check(self) -> None:
        if len(self.shape) != len(self.size) or len(self.stride) != len(self.size):
            raise AssertionError(
                f"windows and strides must have one size for each axis of {self.size}, "
                f"got {self.shape} and {self.stride}"
            )
        if any(side > full for side, full in zip(self.shape, self.size, strict=True)):
            raise AssertionError(f"a window must fit into {self.size}, got {self.shape}")
        for full, side, step in zip(self.size, self.shape, self.stride, strict=True):
            if full != side and step > side:
                raise AssertionError(f"strides must not leave values out: {self.stride} is more than {self.shape}")

    def _windows(self, device: torch.device) -> Tensor:
        """(M, 2, axes) int64: start and size of every window, row by row."""
        axes = [torch.arange(count) * step for count, step in zip(self.grid, self.stride, strict=True)][self.axes]
        starts = torch.cartesian_prod(*axes).reshape(self.count, -1)
        return torch.stack([starts, torch.tensor(self.shape[self.axes]).expand_as(starts)], 1).to(device)

    def hidden(self, block: Block) -> Tensor:
        """(n * m, *S): the block's copies."""
        which, here = block.place
        images, start = self.inputs[which], self.start[which]
        if not self.is_deep:
            images, start = images.unsqueeze(1), start.unsqueeze(1)
        if images.is_floating_point() and images.dim() <= 5:
            found = ops.occlude(images.detach(), self.windows[here], start.contiguous())
        else:
            covered = self._covered(self.windows[here])[None, :, None]
            found = torch.where(covered, start.unsqueeze(1), images.unsqueeze(1))
        return found.reshape(-1, *self.size)

    def _covered(self, windows: Tensor) -> Tensor:
        """(m, *S) bool, of the axes that the window moves along."""
        size = self.size[self.axes]
        found = torch.ones((len(windows), *size), dtype=torch.bool, device=windows.device)
        for axis, full in enumerate(size):
            places = torch.arange(full, device=windows.device)
            first, side = windows[:, 0, axis, None], windows[:, 1, axis, None]
            inside = (places >= first) & (places < first + side)
            found &= inside.reshape(-1, *[full if each == axis else 1 for each in range(len(size))])
        return found

    def spread(self, falls: Tensor) -> Tensor:
        """(N * k, *S): of every value the mean over its windows, from (N, M, *k)."""
        values = falls.flatten(2).movedim(1, -1).flatten(0, 1) if falls.dim() > 2 else falls
        grid, shape, stride, size = ([*each][self.axes] for each in (self.grid, self.shape, self.stride, self.size))
        maps = _mean(values.reshape(-1, *grid), shape, stride, size)
        return maps.unsqueeze(1).expand(-1, *self.size).contiguous() if self.is_deep else maps


def _mean(values: Tensor, shape: Sequence[int], stride: Sequence[int], size: Sequence[int]) -> Tensor:
    """The mean over windows (n, *g), (n, *S): along all axes at once, or along the first after the others."""
    if len(size) <= 3:
        kernel = torch.ones(tuple(shape), dtype=torch.bool, device=values.device)
        return coverage_mean(values, kernel, stride, size).to(values.dtype)
    # Windows are boxes, so that a mean over them is one mean after the other.
    rest = _mean(values.flatten(0, 1), shape[1:], stride[1:], size[1:]).unflatten(0, values.shape[:2])
    lines = rest.flatten(2).movedim(1, -1).flatten(0, 1)  # (n * rest, g)
    whole = _mean(lines, shape[:1], stride[:1], size[:1])
    return whole.unflatten(0, (len(values), -1)).movedim(-1, 1).reshape(len(values), *size)
