"""Occluded copies of images."""

import torch
from torch import Tensor

from fastcam.ops import reference
from fastcam.ops._register import Context, call, check_same, check_tensor, register, shape_text


def occlude(images: Tensor, windows: Tensor, baseline: Tensor | float = 0.0) -> Tensor:
    """Copy every image once per window, with that window replaced by the baseline, in one write.

    Args:
        images: (N, C, *S) with one to three spatial axes.
        windows: (M, 2, axes) int64: start and size along every spatial axis. Windows are clipped to the image.
        baseline: a number, or a tensor (), (C,) for a colour, (C, *S) for an image, (N, C, *S) for one per image.

    Returns:
        (N, M, C, *S), in the dtype and memory layout of ``images``.

    Raises:
        TypeError: for dtypes that do not fit.
        ValueError: for shapes or devices that do not fit.
    """
    check_tensor("images", images)
    axes = images.dim() - 2
    if axes not in (1, 2, 3):
        raise ValueError(f"`images` must have shape (N, C, ...) with 1 to 3 spatial axes, got {shape_text(images)}")
    _check_windows(windows, axes, images)
    if not isinstance(baseline, Tensor):
        if not isinstance(baseline, int | float):
            raise TypeError(f"`baseline` must be a number or a tensor, got {type(baseline).__name__}")
        baseline = torch.as_tensor(baseline, dtype=images.dtype, device=images.device)
    check_same("baseline", baseline, images, "images")
    _check_baseline(baseline, images)
    return call("occlude", images, windows, baseline)


def _check_windows(windows: Tensor, axes: int, images: Tensor) -> None:
    if not isinstance(windows, Tensor) or windows.dtype != torch.int64:
        raise TypeError(f"`windows` must be an int64 tensor, got {getattr(windows, 'dtype', type(windows).__name__)}")
    if windows.dim() != 3 or tuple(windows.shape[1:]) != (2, axes):
        raise ValueError(
            f"`windows` must have shape (M, 2, {axes}), start and size along every spatial axis, "
            f"got {shape_text(windows)}"
        )
    if windows.device != images.device:
        raise ValueError(f"`windows` must be on the device of `images`, {images.device}, got {windows.device}")


def _check_baseline(baseline: Tensor, images: Tensor) -> None:
    shape = tuple(reference.full_baseline(images, baseline).shape)
    fits = baseline.dim() in (0, 1, images.dim() - 1, images.dim())
    padded = (1,) * (images.dim() - len(shape)) + shape
    if not fits or any(size not in (1, full) for size, full in zip(padded, images.shape, strict=False)):
        raise ValueError(
            f"`baseline` must be a number or have shape (C,), (C, ...) or (N, C, ...) for images {shape_text(images)}, "
            f"got {shape_text(baseline)}"
        )


def _fake(images: Tensor, windows: Tensor, baseline: Tensor) -> Tensor:
    return reference.new_copies(images, windows.shape[0])


class _Context(Context):
    image_shape: torch.Size
    baseline_shape: torch.Size


def _setup(ctx: _Context, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    images, windows, baseline = inputs
    ctx.save_for_backward(windows)
    ctx.image_shape, ctx.baseline_shape = images.shape, baseline.shape


def _backward(ctx: _Context, grad: Tensor) -> tuple[Tensor, None, Tensor]:
    (windows,) = ctx.saved_tensors
    mask = reference.window_mask(windows, ctx.image_shape[2:])[None, :, None]
    hidden = torch.where(mask, grad, 0).sum(1)  # (N, C, *S)
    if len(ctx.baseline_shape) == 1:
        spatial = list(range(2, hidden.dim()))
        return torch.where(mask, 0, grad).sum(1), None, hidden.sum([0, *spatial]).sum_to_size(ctx.baseline_shape)
    return torch.where(mask, 0, grad).sum(1), None, hidden.sum_to_size(ctx.baseline_shape)


register("occlude", _fake, _setup, _backward)
