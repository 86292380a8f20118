"""Occlusion: what happens to the score when a window of the image is hidden."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastcam import ops
from fastcam.methods.baselines import baseline_images
from fastcam.methods.protocol import Block, Outcome, Scorer
from fastcam.ops.reference import accumulation_dtype
from fastcam.registry import method

Window = int | Sequence[int] | Tensor | None

_CONVOLUTIONS = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@method("occlusion", needs=("scorer",), returns="map", relu=False, cost="windows", paper="arXiv:1311.2901")
def occlusion(
    scorer: Scorer,
    *,
    window: Window = None,
    stride: int | Sequence[int] | None = None,
    baseline: Any = 0.0,
    seed: int = 0,
) -> Outcome:
    """Occlusion: how much the score falls when a window sliding over the image hides what is there.

    Args:
        scorer: the model.
        window: side, sides, or a bool tensor for a window of any shape; None for a seventh of the image.
        stride: step, or steps along the axes; None for half the window. Windows begin at multiples of it; those that
            reach over the border are cut.
        baseline: what the window holds, see :func:`fastcam.methods.baselines.baseline_images`.
        seed: of a baseline of noise.

    Returns:
        (N, [K,] *S): of every pixel, the mean over the windows that hide it of y(image) - y(hidden), 0 where none does.
        As details ``grid`` (N, [K,] *g), the score with every window hidden (Zeiler and Fergus's figure d for a
        probability as target); for classifiers ``top_class`` (N, *g) (figure e) and ``probability`` (N, [K,] *g).
    """
    images = scorer.images
    size = tuple(images.shape[2:])
    shape = _window_shape(window, size)
    steps = _per_axis("stride", [max(1, side // 2) for side in shape] if stride is None else stride, len(size))
    grid = [1 + -(-max(length - side, 0) // step) for length, side, step in zip(size, shape, steps, strict=True)]
    start = baseline_images(images, baseline, seed)
    mask = window.to(images.device) if isinstance(window, Tensor) else None
    windows = _windows(grid, steps, shape).to(images.device)

    def hidden(block: Block) -> Tensor:
        which, here = block.place
        if mask is None:
            return ops.occlude(images[which], windows[here], start[which].contiguous())
        covered = _placed(mask, windows[here, 0], size)[None, :, None]
        return torch.where(covered, start[which].unsqueeze(1), images[which].unsqueeze(1))

    found = scorer.each(len(windows), lambda block: scorer.predictions(hidden(block), block))
    details = _on_grid(list(found), len(images), grid)
    falls = scorer.scores.reshape(*scorer.scores.shape, *[1] * len(grid)) - details["grid"]
    kernel = torch.ones(shape, dtype=torch.bool) if mask is None else mask
    return coverage_mean(falls, kernel, steps, size), details


def coverage_mean(values: Tensor, kernel: Tensor, stride: Sequence[int], size: Sequence[int]) -> Tensor:
    """Of every pixel, the mean of the values (N, [K,] *g) of the windows over it, (N, [K,] *S); 0 where none is.

    Args:
        values: one per window.
        kernel: (*w) bool, the window's shape.
        stride: between windows, along every axis.
        size: *S.
    """
    axes = len(size)
    flat = values.to(accumulation_dtype(values.dtype)).reshape(-1, 1, *values.shape[-axes:])
    weight = kernel.to(flat)[None, None]
    spread = _CONVOLUTIONS[axes]

    def laid_out(each: Tensor) -> Tensor:
        wide = spread(each, weight, stride=tuple(stride))
        missing = [length - extent for length, extent in zip(size, wide.shape[2:], strict=True)]
        return F.pad(wide, [margin for each in reversed(missing) for margin in (0, each)])  # negative ones cut

    count = laid_out(torch.ones_like(flat[:1]))
    mean = laid_out(flat) / count.clamp(min=1)
    return mean.reshape(*values.shape[:-axes], *size)


def _window_shape(window: Window, size: Sequence[int]) -> list[int]:
    if isinstance(window, Tensor):
        if window.dtype != torch.bool or window.dim() != len(size) or not window.any():
            raise ValueError(
                f"`window` as a tensor must be bool with {len(size)} axes and something to hide, "
                f"got {window.dtype} of shape {tuple(window.shape)}"
            )
        shape = list(window.shape)
    else:
        default = [-(-length // 7) for length in size]
        shape = _per_axis("window", default if window is None else window, len(size))
    if any(side > length for side, length in zip(shape, size, strict=True)):
        raise ValueError(f"`window` must fit into images of size {tuple(size)}, got {tuple(shape)}")
    return shape


def _per_axis(name: str, value: Any, axes: int) -> list[int]:
    values = list(value) if isinstance(value, Sequence) else [value] * axes
    if len(values) != axes or any(not isinstance(each, int) or each < 1 for each in values):
        raise ValueError(f"`{name}` must be a positive whole number or {axes} of them, got {value!r}")
    return values


def _windows(grid: Sequence[int], stride: Sequence[int], shape: Sequence[int]) -> Tensor:
    """(M, 2, axes) int64: start and size of every window, row by row."""
    axes = [torch.arange(count) * step for count, step in zip(grid, stride, strict=True)]
    starts = torch.cartesian_prod(*axes).reshape(-1, len(grid))
    return torch.stack([starts, torch.tensor(list(shape)).expand_as(starts)], 1)


def _placed(mask: Tensor, starts: Tensor, size: Sequence[int]) -> Tensor:
    """(m, *S) bool: the window's shape at every start (m, axes), cut at the border."""
    placed = torch.zeros((len(starts), *size), dtype=torch.bool, device=mask.device)
    for row, start in enumerate(starts.tolist()):
        inside = tuple(slice(begin, begin + side) for begin, side in zip(start, mask.shape, strict=True))
        target = placed[row][inside]
        target |= mask[tuple(slice(length) for length in target.shape)]
    return placed


def _on_grid(found: Sequence[tuple[Block, dict[str, Tensor]]], images: int, grid: Sequence[int]) -> dict[str, Tensor]:
    """What was found of all windows, (N, [K,] *g), by name; the scores are called "grid"."""
    details = {}
    for name in found[0][1]:
        first = found[0][1][name]
        whole = first.new_empty((images, len(_indices(grid)), *first.shape[2:]))
        for block, parts in found:
            whole[block.place] = parts[name]
        details["grid" if name == "scores" else name] = whole.movedim(1, -1).unflatten(-1, tuple(grid))
    return details


def _indices(grid: Sequence[int]) -> range:
    return range(int(torch.Size(grid).numel()))
