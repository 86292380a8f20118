"""Occlusion: what happens to the score when a window of the image is hidden."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fastcam import ops
from fastcam.methods.baselines import baseline_images
from fastcam.methods.protocol import Block, Scorer
from fastcam.methods.refinement import refined
from fastcam.methods.registry import Outcome, method
from fastcam.ops.numerics import accumulation_dtype

Engine = Literal["auto", "incremental", "dense"]
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
    engine: Engine = "auto",
    refine: float | None = None,
) -> Outcome:
    """Occlusion: how much the score falls when a window sliding over the image hides what is there.

    Args:
        scorer: the model.
        window: side, sides, or a bool tensor for a window of any shape; None for a seventh of the image.
        stride: step, or steps along the axes; None for half the window. Windows begin at multiples of it; those that
            reach over the border are cut.
        baseline: what the window holds, see :func:`fastcam.methods.baselines.baseline_images`.
        seed: of a baseline of noise.
        engine: "dense" runs the whole model for every window; "incremental" computes only what a window can change, the
            same to rounding, or says why it cannot; "auto" does so where it saves enough.
        refine: None for every window. A share from 0 to 1 is an approximation: every second window along every axis is
            tried, then that share of the others, where these say that the score changes most; the rest is interpolated.

    Returns:
        (N, [K,] *S): of every pixel, the mean over the windows that hide it of y(image) - y(hidden), 0 where none does.
        As details ``grid`` (N, [K,] *g), the score with every window hidden (Zeiler and Fergus's figure d for a
        probability as target); for classifiers ``top_class`` (N, *g) (figure e) and ``probability`` (N, [K,] *g).
        With ``refine`` also ``measured`` (N, *g), whether a window was tried.
    """
    images = scorer.images
    size = tuple(images.shape[2:])
    shape, steps, grid = geometry(size, window, stride)
    start = baseline_images(images, baseline, seed)
    mask = window.to(images.device) if isinstance(window, Tensor) else None
    windows = windows_of(grid, steps, shape).to(images.device)

    def run(some: Tensor, which: range) -> dict[str, Tensor]:
        found = None if mask is not None else scorer.occluded_predictions(some, start, engine, which)
        if found is None:
            found = list(scorer.each(len(some), lambda block: scorer.predictions(hidden(some, block), block), which))
        return _gathered(found, which, len(some))

    def hidden(some: Tensor, block: Block) -> Tensor:
        which, here = block.place
        if mask is None:
            return ops.occlude(images[which], some[here], start[which].contiguous())
        covered = _placed(mask, some[here, 0], size)[None, :, None]
        return torch.where(covered, start[which].unsqueeze(1), images[which].unsqueeze(1))

    if mask is not None and engine == "incremental":
        raise ValueError('engine="incremental" cannot be used: the window must be a rectangle')
    if refine is None:
        found = run(windows, range(len(images)))
    else:
        found = _refined(grid, refine, scorer.scores, lambda some, index: run(windows[some], range(index, index + 1)))
    details = _on_grid(found, grid)
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


def windows_of(grid: Sequence[int], stride: Sequence[int], shape: Sequence[int]) -> Tensor:
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


def geometry(
    size: Sequence[int], window: Window = None, stride: int | Sequence[int] | None = None
) -> tuple[list[int], list[int], list[int]]:
    """The sides of the window, the steps and how many windows there are, along every axis of images of a size *S.

    Raises:
        ValueError: for windows that do not fit, and for what is no window or stride.
    """
    shape = _window_shape(window, size)
    steps = _per_axis("stride", [max(1, side // 2) for side in shape] if stride is None else stride, len(size))
    grid = [1 + -(-max(length - side, 0) // step) for length, side, step in zip(size, shape, steps, strict=True)]
    return shape, steps, grid


def _refined(
    grid: Sequence[int], refine: Any, scores: Tensor, run: Callable[[Tensor, int], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """What is found of all windows of every image, (N, M, ...) by name, measured at some."""
    if isinstance(refine, bool) or not isinstance(refine, int | float) or not 0 <= refine <= 1:
        raise ValueError(f"`refine` must be a share from 0 to 1, or None for every window; got {refine!r}")

    def of_one(index: int) -> dict[str, Tensor]:
        def some(places: Tensor) -> dict[str, Tensor]:
            return {name: each[0] for name, each in run(places, index).items()}

        return refined(grid, refine, scores[index], some)

    images = [of_one(index) for index in range(len(scores))]
    return {name: torch.stack([each[name] for each in images]) for name in images[0]}


def _gathered(found: Sequence[tuple[Block, dict[str, Tensor]]], images: range, count: int) -> dict[str, Tensor]:
    """What was found of all windows, (n, M, ...), by name."""
    gathered = {}
    for name, first in found[0][1].items():
        whole = gathered[name] = first.new_empty((len(images), count, *first.shape[2:]))
        for block, parts in found:
            rows = slice(block.images.start - images.start, block.images.stop - images.start)
            whole[rows, block.place[1]] = parts[name]
    return gathered


def _on_grid(found: dict[str, Tensor], grid: Sequence[int]) -> dict[str, Tensor]:
    """From (N, M, ...) to (N, ..., *g), by name; the scores are called "grid"."""
    return {
        "grid" if name == "scores" else name: each.movedim(1, -1).unflatten(-1, tuple(grid))
        for name, each in found.items()
    }
