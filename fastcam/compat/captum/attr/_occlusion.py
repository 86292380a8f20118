"""Changes of the output when a window slides over the inputs."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fastcam import ops
from fastcam.compat.captum.attr._ablation import FeatureAblation, OutputDrops
from fastcam.compat.captum.attr._baselines import Baselines, broadcast_baselines
from fastcam.compat.captum.attr._calls import Call, Target, TensorOrTuple, format_like
from fastcam.methods.occlusion import coverage_mean, window_positions
from fastcam.model.batching import Block

Sizes: TypeAlias = tuple[int, ...]


class Occlusion(FeatureAblation):
    """The drop of the output when a window sliding over the input hides part of it (arXiv:1311.2901).

    Args:
        forward_func: a model, or any function of tensors; its output may have one row per example or not.
    """

    def attribute(  # type: ignore[override]  # as in Captum
        self,
        inputs: TensorOrTuple,
        sliding_window_shapes: Sizes | tuple[Sizes, ...],
        strides: int | Sizes | tuple[int | Sizes, ...] | None = None,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: object = None,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
    ) -> TensorOrTuple:
        """Return every value's mean drop over the windows that hide it, shaped as the inputs.

        The result is (N * k, ...) for k outputs per example. ``sliding_window_shapes`` holds the sides of the window
        along all axes after the first, ``strides`` its step or steps along them, None for 1; for several inputs
        both are tuples of these, for one input they may be. Windows are cut at the border. The other arguments are
        those of :meth:`FeatureAblation.attribute`, for windows instead of features.

        Raises:
            AssertionError: for windows that do not fit.
        """
        call = Call(self.forward_func, inputs, target, additional_forward_args)
        starts = broadcast_baselines(call.inputs, baselines)
        shapes = _shapes(len(call.inputs), sliding_window_shapes)
        steps = _steps(len(call.inputs), strides)
        windows = list(map(_SlidingWindow, call.inputs, shapes, steps, starts))
        drops = OutputDrops(call, perturbations_per_eval, show_progress)

        def attributions(index: int, window: _SlidingWindow) -> Tensor:
            def copies(block: Block) -> tuple[Tensor, ...]:
                rows = block.rows
                return tuple(
                    window.hide(block) if position == index else tensor[rows.to(tensor.device)]
                    for position, tensor in enumerate(call.inputs)
                )

            return window.mean_over_windows(drops.of(window.count, copies))

        return format_like(inputs, tuple(itertools.starmap(attributions, enumerate(windows))))


def _shapes(inputs: int, shapes: Any) -> tuple[Sizes, ...]:
    """Return the windows' sides, one tuple for each input."""
    is_alone = inputs == 1 and isinstance(shapes, tuple | list) and all(isinstance(side, int) for side in shapes)
    each = (shapes,) if is_alone else shapes
    if not isinstance(each, tuple) or len(each) != inputs or not all(isinstance(one, tuple | list) for one in each):
        raise AssertionError(
            f"`sliding_window_shapes` must hold a tuple of sides for each input, {inputs} in number, got {shapes!r}"
        )
    return tuple(map(tuple, each))


def _steps(inputs: int, strides: Any) -> tuple[int | Sizes, ...]:
    """Return the windows' steps, one number or tuple for each input."""
    if strides is None:
        return (1,) * inputs
    each = (strides,) if inputs == 1 and not (isinstance(strides, tuple) and len(strides) == 1) else strides
    if not isinstance(each, tuple) or len(each) != inputs:
        raise AssertionError(f"`strides` must be a tuple of one for each input, {inputs} in number, got {strides!r}")
    return each


class _SlidingWindow:
    """A window that slides over one input.

    Args:
        inputs: (N, *S).
        shape: the window's sides along S.
        stride: its step, or steps along S.
        start: its values, (N, *S).
    """

    def __init__(self, inputs: Tensor, shape: Sizes, stride: int | Sizes, start: Tensor) -> None:
        self.features = self.size = tuple(inputs.shape[1:])
        self.shape = shape
        self.stride = (stride,) * len(shape) if isinstance(stride, int) else tuple(stride)
        self._check()
        if not self.size:  # one value per example
            self.size, self.shape, self.stride = (1,), (1,), (1,)
            inputs, start = inputs.unsqueeze(1), start.unsqueeze(1)
        self.grid = [
            1 + -(-(full - side) // step) for full, side, step in zip(self.size, self.shape, self.stride, strict=True)
        ]
        self.count = math.prod(self.grid)
        self.inputs, self.start = inputs, start
        # A window over all channels does not move along them: kernels and sums need one axis less.
        self.is_deep = len(self.size) > 1 and self.shape[0] == self.size[0]
        self.axes = slice(1, None) if self.is_deep else slice(None)
        axes = self.axes
        self.windows = window_positions(self.grid[axes], self.stride[axes], self.shape[axes]).to(inputs.device)

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

    def hide(self, block: Block) -> Tensor:
        """Return (n * m, *S), the block's copies with their windows hidden."""
        rows, variants = block.place
        images, start = self.inputs[rows], self.start[rows]
        if not self.is_deep:
            images, start = images.unsqueeze(1), start.unsqueeze(1)
        if images.is_floating_point() and images.dim() <= 5:
            copies = ops.occlude(images.detach(), self.windows[variants], start.contiguous())
        else:
            covered = self._covered(self.windows[variants])[None, :, None]
            copies = torch.where(covered, start.unsqueeze(1), images.unsqueeze(1))
        return copies.reshape(-1, *self.features)

    def _covered(self, windows: Tensor) -> Tensor:
        """Return (m, *S) bool, along the axes that the window moves along."""
        size = self.size[self.axes]
        covered = torch.ones((len(windows), *size), dtype=torch.bool, device=windows.device)
        for axis, full in enumerate(size):
            places = torch.arange(full, device=windows.device)
            first, side = windows[:, 0, axis, None], windows[:, 1, axis, None]
            inside = (places >= first) & (places < first + side)
            covered &= inside.reshape(-1, *[full if other == axis else 1 for other in range(len(size))])
        return covered

    def mean_over_windows(self, drops: Tensor) -> Tensor:
        """Return (N * k, *S), the mean over every value's windows, from (N, M, *k)."""
        drops = drops if drops.is_floating_point() else drops.to(torch.get_default_dtype())  # means are fractions
        values = drops.flatten(2).movedim(1, -1).flatten(0, 1) if drops.dim() > 2 else drops
        grid, shape, stride, size = ([*each][self.axes] for each in (self.grid, self.shape, self.stride, self.size))
        maps = _mean(values.reshape(-1, *grid), shape, stride, size)
        maps = maps.unsqueeze(1).expand(-1, *self.size).contiguous() if self.is_deep else maps
        return maps.reshape(-1, *self.features)


def _mean(values: Tensor, shape: Sequence[int], stride: Sequence[int], size: Sequence[int]) -> Tensor:
    """Return (n, *S), the mean over windows (n, *g): along all axes at once, or along the first after the others."""
    if len(size) <= 3:
        kernel = torch.ones(tuple(shape), dtype=torch.bool, device=values.device)
        return coverage_mean(values, kernel, stride, size).to(values.dtype)
    # Windows are boxes: the mean over them is separable.
    rest = _mean(values.flatten(0, 1), shape[1:], stride[1:], size[1:]).unflatten(0, values.shape[:2])
    lines = rest.flatten(2).movedim(1, -1).flatten(0, 1)  # (n * rest, g)
    whole = _mean(lines, shape[:1], stride[:1], size[:1])
    return whole.unflatten(0, (len(values), -1)).movedim(-1, 1).reshape(len(values), *size)
