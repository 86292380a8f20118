"""Maps at the size of the image: bilinear upsampling and min-max normalisation in one pass."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastcam.ops import numerics
from fastcam.ops._register import Context, call, check_same, check_tensor, register, shape_text


def upsample_normalize(maps: Tensor, size: Sequence[int], normalize: bool = True, out: Tensor | None = None) -> Tensor:
    """Resample maps linearly (align_corners=False), then scale each to [0, 1] by its minimum and maximum.

    A constant map becomes zeros; a map with a NaN or an infinity becomes NaN.

    Args:
        maps: (N, *s) or (N, K, *s) with as many spatial axes as ``size`` has numbers, 1 to 3.
        size: the new *S: (L,), (H, W) or (D, H, W).
        normalize: False returns the resampled values as they are.
        out: a contiguous tensor for the result, with the dtype and device of ``maps``; only without gradients.

    Returns:
        (N, *S) or (N, K, *S), of the dtype of ``maps``; ``out`` if it is not None.

    Raises:
        TypeError: for a dtype that is not floating, or an ``out`` of another dtype.
        ValueError: for shapes or devices that do not fit, and where gradients through ``out`` are required.
    """
    check_tensor("maps", maps)
    size = _check_size(size)
    axes = len(size)
    if maps.dim() not in (axes + 1, axes + 2) or 0 in maps.shape[-axes:]:
        raise ValueError(
            f"`maps` must have shape (N, ...) or (N, K, ...) with {axes} spatial axes of at least one position "
            f"for size {tuple(size)}, got {shape_text(maps)}"
        )
    if out is not None:
        _check_out(out, maps, size)
    if axes == 1:
        if out is None:
            return _resample(maps.unsqueeze(-2), [1, *size], normalize).squeeze(-2)
        call("upsample_normalize_into", maps.unsqueeze(-2), normalize, out.unsqueeze(-2))
        return out
    if axes == 3:
        wide = maps.to(numerics.accumulation_dtype(maps.dtype))  # no rounding between the two steps
        volumes = upsample_volumes(wide, size, normalize)
        return volumes.to(maps.dtype) if out is None else out.copy_(volumes)
    if out is None:
        return _resample(maps, size, normalize)
    call("upsample_normalize_into", maps, normalize, out)
    return out


def upsample_volumes(maps: Tensor, size: Sequence[int], normalize: bool) -> Tensor:
    """Resample three spatial axes: each slice, then along the depth with height and width as one axis."""
    slices = _resample(maps, size[1:], False).flatten(-2)
    out = _resample(slices, [size[0], size[1] * size[2]], normalize)
    return out.unflatten(-1, tuple(size[1:]))


def _resample(maps: Tensor, size: Sequence[int], normalize: bool) -> Tensor:
    """Call the op; where a size is a symbol, which the op would take for a number, with a result of that size."""
    is_symbolic = any(isinstance(length, torch.SymInt) for length in size)
    if not is_symbolic or (torch.is_grad_enabled() and maps.requires_grad):
        return call("upsample_normalize", maps, size, normalize)
    out = maps.new_empty((*maps.shape[:-2], *size))
    call("upsample_normalize_into", maps, normalize, out)
    return out


def _check_out(out: Tensor, maps: Tensor, size: Sequence[int]) -> None:
    check_tensor("out", out)
    shape = (*maps.shape[: -len(size)], *size)
    if tuple(out.shape) != shape or not out.is_contiguous():
        kind = "" if out.is_contiguous() else ", not contiguous"
        raise ValueError(f"`out` must be contiguous and have shape {shape}, got {shape_text(out)}{kind}")
    check_same("out", out, maps, "maps")
    if torch.is_grad_enabled() and (maps.requires_grad or out.requires_grad):
        raise ValueError("gradients do not flow through `out`: omit it, or detach `maps`")


def _check_size(size: Sequence[int]) -> list[int]:
    whole = isinstance(size, Sequence) and all(isinstance(length, int | torch.SymInt) for length in size)
    lengths = list(size) if whole else []
    if len(lengths) not in (1, 2, 3) or any(length < 1 for length in lengths):
        raise ValueError(f"`size` must be 1 to 3 positive whole numbers, got {size!r}")
    return lengths


def _fake(maps: Tensor, size: Sequence[int], normalize: bool = True) -> Tensor:
    return maps.new_empty([*maps.shape[:-2], *size])


class _Context(Context):
    size: Sequence[int]
    normalize: bool


def _setup(ctx: _Context, inputs: tuple[Tensor, Sequence[int], bool], output: Tensor) -> None:
    maps, ctx.size, ctx.normalize = inputs
    ctx.save_for_backward(maps)


def _backward(ctx: _Context, grad: Tensor) -> tuple[Tensor, None, None]:
    (maps,) = ctx.saved_tensors
    return gradient_of_maps(grad, maps, ctx.size, ctx.normalize), None, None


def gradient_of_maps(grad: Tensor, maps: Tensor, size: Sequence[int], normalize: bool) -> Tensor:
    """Return the gradient of maps (..., h, w) from the gradient of the resampled maps (..., *size)."""
    dtype = numerics.accumulation_dtype(maps.dtype)
    grad = grad.to(dtype)
    if normalize:
        grad = _through_min_max(grad, torch.ops.fastcam.upsample_normalize(maps.to(dtype), size, False))
    y, x = (_resampling(maps.shape[axis], size[axis], grad) for axis in (-2, -1))
    return (y.mT @ grad @ x).to(maps.dtype)


def _resampling(source: int, size: int, like: Tensor) -> Tensor:
    """Return the matrix (size, source) of linear resampling along one axis."""
    output = torch.arange(size, dtype=like.dtype, device=like.device)
    coordinate = ((output + 0.5) * (source / size) - 0.5).clamp(0, source - 1)
    distance = coordinate[:, None] - torch.arange(source, dtype=like.dtype, device=like.device)
    return (1 - distance.abs()).clamp(min=0)


def _through_min_max(grad: Tensor, values: Tensor) -> Tensor:
    """Return the gradient of (u - min) / (max - min) with respect to u; ties share the gradient of the extremes."""
    low, high = values.amin((-2, -1), keepdim=True), values.amax((-2, -1), keepdim=True)
    scale = torch.where(numerics.is_constant(low, high), 0, 1 / (high - low))
    scaled = (values - low) * scale
    lowest, highest = (values == low).to(grad.dtype), (values == high).to(grad.dtype)
    grad_low = (grad * (scaled - 1)).sum((-2, -1), keepdim=True) / lowest.sum((-2, -1), keepdim=True)
    grad_high = -(grad * scaled).sum((-2, -1), keepdim=True) / highest.sum((-2, -1), keepdim=True)
    return scale * (grad + lowest * grad_low + highest * grad_high)


def _fake_into(maps: Tensor, normalize: bool, out: Tensor) -> None:
    return None


register("upsample_normalize_into", _fake_into)
register("upsample_normalize", _fake, _setup, _backward)
