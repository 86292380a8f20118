"""Occlusion: changes of the score when a window of the image is replaced by a baseline."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fastcam import ops
from fastcam.devices import send
from fastcam.methods.baselines import Baseline, baseline_images
from fastcam.methods.protocol import Block, Scorer
from fastcam.methods.refinement import Predictions, refine_grid
from fastcam.methods.registry import Outcome, method
from fastcam.ops.numerics import accumulation_dtype

Engine = Literal["auto", "incremental", "dense"]  # as fastcam.incremental.Engine
Window = int | Sequence[int] | Tensor | None

_CONVOLUTIONS = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@method("occlusion", needs=("scorer",), returns="map", relu=False, cost="windows", paper="arXiv:1311.2901")
def occlusion(
    scorer: Scorer,
    *,
    window: Window = None,
    stride: int | Sequence[int] | None = None,
    baseline: Baseline = 0.0,
    seed: int = 0,
    engine: Engine = "auto",
    refine: float | None = None,
) -> Outcome:
    """Occlusion: mean drop of the score when a sliding window replaces part of the image by a baseline.

    Args:
        scorer: the model.
        window: side, sides, or a bool tensor for a window of any shape; None for a seventh of the image.
        stride: step, or one step per axis; None for half the window. Windows start at its multiples and are clipped at
            the border.
        baseline: content of the window, see :func:`fastcam.methods.baselines.baseline_images`.
        seed: seed of the baseline "noise".
        engine: "dense" runs the whole model for every window; "incremental" recomputes only what a window changes,
            equal up to rounding, or raises an error; "auto" does so where it saves enough.
        refine: None measures every window. A share from 0 to 1 is an approximation: every second window along every
            axis is measured, then that share of the others, where the score changes most; the rest is interpolated.

    Returns:
        (N, [K,] *S): for every pixel, the mean of y(image) - y(occluded) over the windows covering it, 0 if none does.
        Details: ``grid`` (N, [K,] *g), the score with each window occluded (Zeiler and Fergus's figure d for a
        probability as target); for classifiers ``top_class`` (N, *g) (figure e) and ``probability`` (N, [K,] *g).
        With ``refine`` also ``measured`` (N, *g), whether a window was measured.
    """
    images = scorer.images
    size = tuple(images.shape[2:])
    shape, steps, grid = window_geometry(size, window, stride)
    start = baseline_images(images, baseline, seed)
    mask = send(window, images.device) if isinstance(window, Tensor) else None
    windows = window_positions(grid, steps, shape)

    def measure(windows: Tensor, image: int | None = None) -> Predictions:
        """Predict for one image, or for all."""
        rows = None if image is None else range(image, image + 1)
        parts = None if mask is not None else scorer.occluded_predictions(windows, start, engine, rows)
        if parts is None:
            parts = list(
                scorer.each(len(windows), lambda block: scorer.predictions(occlude(windows, block), block), rows)
            )
        return _join(parts, image or 0, images.shape[0] if image is None else 1, len(windows))

    def occlude(windows: Tensor, block: Block) -> Tensor:
        rows, columns = block.place
        if mask is None:
            return ops.occlude(images[rows], send(windows[columns], images.device), start[rows].contiguous())
        covered = _place_mask(mask, windows[columns, 0], size)[None, :, None]
        return torch.where(covered, start[rows].unsqueeze(1), images[rows].unsqueeze(1))

    if mask is not None and engine == "incremental":
        raise ValueError('engine="incremental" cannot be used: the window must be a rectangle')
    if refine is None:
        predictions = measure(windows)
    else:
        predictions = _refine(grid, refine, scorer.scores, lambda places, index: measure(windows[places], index))
    details = _shape_as_grid(predictions, grid)
    drops = scorer.scores.reshape(*scorer.scores.shape, *[1] * len(grid)) - details["grid"]
    kernel = torch.ones(shape, dtype=torch.bool, device=images.device) if mask is None else mask
    return coverage_mean(drops, kernel, steps, size), details


def coverage_mean(values: Tensor, kernel: Tensor, stride: Sequence[int], size: Sequence[int]) -> Tensor:
    """Return (N, [K,] *S): for every pixel, the mean value (N, [K,] *g) of the windows that cover it, 0 if none does.

    Args:
        values: (N, [K,] *g), one per window.
        kernel: (*w) bool, the window's shape.
        stride: step between windows, per axis.
        size: spatial size *S.
    """
    axes = len(size)
    flat = values.to(accumulation_dtype(values.dtype)).reshape(-1, 1, *values.shape[-axes:])
    weight = kernel.to(flat)[None, None]
    transposed_convolution = _CONVOLUTIONS[axes]

    def add_windows(values: Tensor) -> Tensor:
        wide = transposed_convolution(values, weight, stride=tuple(stride))
        missing = [length - extent for length, extent in zip(size, wide.shape[2:], strict=True)]
        return F.pad(
            wide, [padding for margin in reversed(missing) for padding in (0, margin)]
        )  # negative margins crop

    count = add_windows(torch.ones_like(flat[:1]))
    mean = add_windows(flat) / count.clamp(min=1)
    return mean.reshape(*values.shape[:-axes], *size)


def _window_shape(window: Window, size: Sequence[int]) -> list[int]:
    if isinstance(window, Tensor):
        if window.dtype != torch.bool or window.dim() != len(size) or not window.any():
            raise ValueError(
                f"`window` as a tensor must be bool with {len(size)} axes and at least one True, "
                f"got {window.dtype} of shape {tuple(window.shape)}"
            )
        shape = list(window.shape)
    else:
        default = [-(-length // 7) for length in size]
        shape = _per_axis("window", default if window is None else window, len(size))
    if any(side > length for side, length in zip(shape, size, strict=True)):
        raise ValueError(f"`window` must fit into images of size {tuple(size)}, got {tuple(shape)}")
    return shape


def _per_axis(name: str, value: int | Sequence[int], axes: int) -> list[int]:
    values = list(value) if isinstance(value, Sequence) else [value] * axes
    if len(values) != axes or any(not isinstance(number, int) or number < 1 for number in values):
        raise ValueError(f"`{name}` must be a positive whole number or {axes} of them, got {value!r}")
    return values


def window_positions(grid: Sequence[int], stride: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Return (M, 2, axes) int64: start and size of every window, in row-major order."""
    axes = [torch.arange(count) * step for count, step in zip(grid, stride, strict=True)]
    starts = torch.cartesian_prod(*axes).reshape(-1, len(grid))
    return torch.stack([starts, torch.tensor(list(shape)).expand_as(starts)], 1)


def _place_mask(mask: Tensor, starts: Tensor, size: Sequence[int]) -> Tensor:
    """Return (m, *S) bool: the mask at every start (m, axes), clipped at the border."""
    masks = torch.zeros((len(starts), *size), dtype=torch.bool, device=mask.device)
    for row, start in enumerate(starts.tolist()):
        inside = tuple(slice(begin, begin + side) for begin, side in zip(start, mask.shape, strict=True))
        target = masks[row][inside]
        target |= mask[tuple(slice(length) for length in target.shape)]
    return masks


def window_geometry(
    size: Sequence[int], window: Window = None, stride: int | Sequence[int] | None = None
) -> tuple[list[int], list[int], list[int]]:
    """Return the sides of the window, the steps and the numbers of windows, per axis of images of size *S.

    Raises:
        ValueError: for an invalid window or stride.
    """
    shape = _window_shape(window, size)
    steps = _per_axis("stride", [max(1, side // 2) for side in shape] if stride is None else stride, len(size))
    grid = [1 + -(-max(length - side, 0) // step) for length, side, step in zip(size, shape, steps, strict=True)]
    return shape, steps, grid


def _refine(
    grid: Sequence[int], refine: float, scores: Tensor, measure: Callable[[Tensor, int], Predictions]
) -> Predictions:
    """Return predictions (N, M, ...) for all windows of every image by name, measured for some of them."""
    if isinstance(refine, bool) or not isinstance(refine, int | float) or not 0 <= refine <= 1:
        raise ValueError(f"`refine` must be a share from 0 to 1, or None for every window; got {refine!r}")

    def refine_image(index: int) -> Predictions:
        def measure_places(places: Tensor) -> Predictions:
            return {name: values[0] for name, values in measure(places, index).items()}

        return refine_grid(grid, refine, scores[index], measure_places)

    images = [refine_image(index) for index in range(len(scores))]
    return {name: torch.stack([predictions[name] for predictions in images]) for name in images[0]}


def _join(parts: Sequence[tuple[Block, Predictions]], start: int, images: int, count: int) -> Predictions:
    """Join the predictions of blocks, whose images begin at ``start``, to (images, M, ...) by name."""
    joined = {}
    for name, first in parts[0][1].items():
        whole = joined[name] = first.new_empty((images, count, *first.shape[2:]))
        for block, predictions in parts:
            rows, columns = block.place
            whole[rows.start - start : rows.stop - start, columns] = predictions[name]
    return joined


def _shape_as_grid(predictions: Predictions, grid: Sequence[int]) -> Predictions:
    """Reshape (N, M, ...) to (N, ..., *g) by name; "scores" are renamed to "grid"."""
    return {
        "grid" if name == "scores" else name: values.movedim(1, -1).unflatten(-1, tuple(grid))
        for name, values in predictions.items()
    }
