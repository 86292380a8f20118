"""Windows of activations with changed patches pasted in."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastcam.ops import numerics, reference
from fastcam.ops._register import Context, call, check_same, check_tensor, register, shape_text


def gather_patches(
    clean: Tensor,
    images: Tensor,
    patches: Tensor,
    origins: Tensor,
    windows: Tensor,
    size: Sequence[int],
    fill: float = 0.0,
) -> Tensor:
    """Gather the windows, padding included, that a layer reads of maps in which only a patch has changed.

    Each window is written once. Copy m of image ``images[m]`` differs from the clean activations inside its patch
    only. A convolution without padding over the gathered window equals that part of the convolution over the whole
    changed map; with the fill -inf the same holds for a max pooling.

    Args:
        clean: (N, C, H, W), the activations of the unchanged images.
        images: (M,) int64, the image of each patch, at least 0 and below N.
        patches: (M, C, h, w), the changed values, in the dtype of ``clean``.
        origins: (M, 2) int64, row and column of each patch's first element in the map. Elements outside
            the map are ignored.
        windows: (M, 2) int64, row and column of each window's first element in the map; it may reach outside.
        size: (height, width) of the windows.
        fill: the value outside the map.

    Returns:
        (M, C, height, width), in the dtype of ``clean``; channels_last where ``clean`` is, otherwise contiguous.

    Raises:
        TypeError: for dtypes that do not fit.
        ValueError: for shapes or devices that do not fit, or a fill beyond the range of the dtype.
        RuntimeError: for an image index out of range; an IndexError if the op runs as its PyTorch reference.
    """
    check_tensor("clean", clean)
    if clean.dim() != 4:
        raise ValueError(f"`clean` must have shape (N, C, H, W), got {shape_text(clean)}")
    check_tensor("patches", patches)
    if patches.dim() != 4 or patches.shape[1] != clean.shape[1]:
        raise ValueError(f"`patches` must have shape (M, {clean.shape[1]}, h, w), got {shape_text(patches)}")
    check_same("patches", patches, clean, "clean")
    count = patches.shape[0]
    _check_integers("images", images, (count,), clean)
    _check_integers("origins", origins, (count, 2), clean)
    _check_integers("windows", windows, (count, 2), clean)
    size = _check_size(size)
    _check_fill(fill, clean.dtype)
    return call("gather_patches", clean, images, patches, origins, windows, size, fill)


def _check_integers(name: str, value: Tensor, shape: tuple[int, ...], clean: Tensor) -> None:
    if not isinstance(value, Tensor) or value.dtype != torch.int64:
        raise TypeError(f"`{name}` must be an int64 tensor, got {getattr(value, 'dtype', type(value).__name__)}")
    if tuple(value.shape) != shape:
        raise ValueError(f"`{name}` must have shape {shape} for {shape[0]} patches, got {shape_text(value)}")
    if value.device != clean.device:
        raise ValueError(f"`{name}` must be on the device of `clean`, {clean.device}, got {value.device}")


def _check_size(size: Sequence[int]) -> list[int]:
    whole = isinstance(size, Sequence) and all(isinstance(length, int | torch.SymInt) for length in size)
    if not whole or len(size) != 2 or any(length < 1 for length in size):
        raise ValueError(f"`size` must be two positive whole numbers (height, width), got {size!r}")
    return list(size)


def _check_fill(fill: float, dtype: torch.dtype) -> None:
    if not isinstance(fill, int | float):
        raise TypeError(f"`fill` must be a number, got {type(fill).__name__}")
    if torch.finfo(dtype).max < abs(fill) < float("inf"):
        raise ValueError(f"`fill` must be infinite or within the range of {dtype}, got {fill}")


def _fake(
    clean: Tensor,
    images: Tensor,
    patches: Tensor,
    origins: Tensor,
    windows: Tensor,
    size: Sequence[int],
    fill: float = 0.0,
) -> Tensor:
    return reference.new_windows(clean, images.shape[0], size)


class _Context(Context):
    size: Sequence[int]
    clean_shape: torch.Size
    patch_shape: torch.Size


def _setup(
    ctx: _Context, inputs: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Sequence[int], float], output: Tensor
) -> None:
    clean, images, patches, origins, windows, ctx.size, _ = inputs
    ctx.save_for_backward(images, origins, windows)
    ctx.clean_shape, ctx.patch_shape = clean.shape, patches.shape


def _backward(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Add the gradient of every element to its source element."""
    images, origins, windows = ctx.saved_tensors
    index = reference.gather_index(images, origins, windows, ctx.size, ctx.clean_shape, ctx.patch_shape[2:])
    (count, channels, height, width), (copies, _, *patch_size) = ctx.clean_shape, ctx.patch_shape
    first, second = count * height * width, copies * patch_size[0] * patch_size[1]
    # Windows overlap: their gradients are summed in the accumulation dtype.
    values = reference.pixels(grad).to(numerics.accumulation_dtype(grad.dtype))
    total = values.new_zeros(first + second + 1, channels).index_add(0, index.flatten(), values).to(grad.dtype)
    grad_clean = total[:first].reshape(count, height, width, channels).movedim(-1, 1)
    grad_patches = total[first:-1].reshape(copies, *patch_size, channels).movedim(-1, 1)
    return grad_clean, None, grad_patches, None, None, None, None


register("gather_patches", _fake, _setup, _backward)
