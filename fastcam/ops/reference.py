"""The ops in plain PyTorch: the definition every kernel must match, and the fallback without a kernel.

Half and bfloat16 are accumulated and returned in float32, as in the kernels: rounding would be the largest
error of a map.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastcam.ops.numerics import (
    accumulation_dtype,
    are_element_weights,
    flatten_pair,
    is_channels_last,
    is_constant,
    map_shape,
    rectify,
)
from fastcam.ops.reference_imputation import solution_of

MOMENTS = 5  # numbers of every plane


def _reduce(activations: Tensor, weights: Tensor, shape: Sequence[int], relu: bool) -> Tensor:
    """Sum over the channels of flat activations (..., C, P) times weights (..., C) or (..., C, P)."""
    if weights.dim() < activations.dim():
        weights = weights.unsqueeze(-1)
    maps = (weights * activations).sum(-2).reshape(shape)
    return rectify(maps) if relu else maps


def weighted_channel_sum(activations: Tensor, weights: Tensor, relu: bool = False) -> Tensor:
    """The sum over c of weights_c A_c; see :func:`fastcam.ops.weighted_channel_sum`."""
    if are_element_weights(activations, weights):
        flat, flat_weights = flatten_pair(activations, weights)
        return _reduce(flat, flat_weights, map_shape(activations, weights), relu)
    dtype = accumulation_dtype(activations.dtype)
    flat = activations.to(dtype).flatten(2)
    if weights.dim() == 2:
        return _reduce(flat, weights.to(dtype), [len(activations), *activations.shape[2:]], relu)
    maps = (weights.to(dtype) @ flat).reshape(*weights.shape[:2], *activations.shape[2:])
    return rectify(maps) if relu else maps


def channel_mean(activations: Tensor) -> Tensor:
    """Mean of A over the positions; see :func:`fastcam.ops.channel_mean`."""
    return activations.to(accumulation_dtype(activations.dtype)).flatten(2).mean(-1)


def plane_moments(activations: Tensor) -> Tensor:
    """Mean, squared deviations, zeros, maximum and its place; see :func:`fastcam.ops.plane_moments`."""
    planes = activations.to(accumulation_dtype(activations.dtype)).flatten(2)
    mean = planes.mean(-1)
    squares = (planes - mean[..., None]).square().sum(-1)
    # Written into numbers: sums of truth values are ten times slower.
    zeros = torch.eq(planes, 0, out=torch.empty_like(planes)).sum(-1)
    maximum, place = planes.masked_fill(planes.isnan(), -torch.inf).max(-1)
    return torch.stack([mean, squares, zeros, maximum, place.to(mean)])


def grad_cam(activations: Tensor, gradients: Tensor, relu: bool = True) -> Tensor:
    """Weights mean_p G; see :func:`fastcam.ops.grad_cam`."""
    a, g = flatten_pair(activations, gradients)
    return _reduce(a, g.mean(-1), map_shape(activations, gradients), relu)


def grad_cam_pp_terms(gradients: Tensor, activation_sum: Tensor) -> Tensor:
    """The terms alpha * ReLU(G) of Grad-CAM++, eq. 19, for flat gradients (..., C, P) and sums (..., C, 1).

    alpha = G^2 / (2 G^2 + S G^3); for G > 0 the product is G / (2 + S G), without squares that could underflow.
    """
    denominator = 2 + activation_sum * gradients
    terms = gradients / torch.where(denominator == 0, 1, denominator)
    return torch.where((gradients <= 0) | (denominator == 0), gradients * 0, terms)  # -inf becomes NaN, not 0


def grad_cam_pp(activations: Tensor, gradients: Tensor, relu: bool = True) -> Tensor:
    """Weights sum_p alpha ReLU(G); see :func:`fastcam.ops.grad_cam_pp`."""
    a, g = flatten_pair(activations, gradients)
    weights = grad_cam_pp_terms(g, a.sum(-1, keepdim=True)).sum(-1)
    return _reduce(a, weights, map_shape(activations, gradients), relu)


def xgrad_cam(activations: Tensor, gradients: Tensor, eps: float = 1e-7, relu: bool = True) -> Tensor:
    """Weights sum_p G A / (sum_p A + eps); see :func:`fastcam.ops.xgrad_cam`."""
    a, g = flatten_pair(activations, gradients)
    weights = (g * a).sum(-1) / (a.sum(-1) + eps)
    return _reduce(a, weights, map_shape(activations, gradients), relu)


def layer_cam(activations: Tensor, gradients: Tensor, relu: bool = True) -> Tensor:
    """Element weights ReLU(G); see :func:`fastcam.ops.layer_cam`."""
    a, g = flatten_pair(activations, gradients)
    return _reduce(a, rectify(g), map_shape(activations, gradients), relu)


def upsample_normalize(maps: Tensor, size: Sequence[int], normalize: bool = True) -> Tensor:
    """Bilinear resampling of (..., h, w), then min-max per map; see :func:`fastcam.ops.upsample_normalize`."""
    dtype = accumulation_dtype(maps.dtype)
    source = maps.reshape(-1, 1, *maps.shape[-2:]).to(dtype)
    if source.numel() == 0:
        return maps.new_empty([*maps.shape[:-2], *size])
    out = F.interpolate(source, size=tuple(size), mode="bilinear", align_corners=False)
    if normalize:
        low, high = out.amin((2, 3), keepdim=True), out.amax((2, 3), keepdim=True)
        constant = is_constant(low, high)
        scaled = ((out - low) / torch.where(constant, 1, high - low)).clamp(0, 1)
        finite = source.flatten(1).isfinite().all(1)[:, None, None, None]
        out = torch.where(finite, torch.where(constant, 0, scaled), torch.nan)
    return out.reshape([*maps.shape[:-2], *size]).to(maps.dtype)


def upsample_normalize_into(maps: Tensor, normalize: bool, out: Tensor) -> None:
    """Write the result of :func:`upsample_normalize` into ``out`` (..., H, W)."""
    out.copy_(upsample_normalize(maps, out.shape[-2:], normalize))


def new_copies(images: Tensor, count: int) -> Tensor:
    """Return uninitialised (N, count, C, *S) in the memory layout of ``images``."""
    shape = [images.shape[0], count, *images.shape[1:]]
    if not is_channels_last(images):
        return images.new_empty(shape)
    return images.new_empty([*shape[:2], *shape[3:], shape[2]]).movedim(-1, 2)


def impute_neighbours(images: Tensor, missing: Tensor, tolerance: float) -> Tensor:
    """Images with the missing pixels as the means of their neighbours; see :func:`fastcam.ops.impute_neighbours`."""
    filled = solution_of(images.to(accumulation_dtype(images.dtype)), missing, tolerance)
    out = new_copies(images, 1).squeeze(1)
    return torch.where(missing.unsqueeze(1), filled.to(images.dtype), images, out=out) if images.numel() else out


def window_mask(windows: Tensor, size: Sequence[int]) -> Tensor:
    """Return (M, *S) bool: the positions that each window (M, 2, axes) of starts and sizes covers."""
    mask = torch.ones((len(windows), *size), dtype=torch.bool, device=windows.device)
    for axis, length in enumerate(size):
        index = torch.arange(length, device=windows.device)
        start, extent = windows[:, 0, axis, None], windows[:, 1, axis, None].clamp(min=0)
        # Neither sum overflows: the first adds opposite signs, the second two numbers of at most `length`.
        stop = torch.where(start < 0, start + extent, start.clamp(max=length) + extent.clamp(max=length))
        inside = (index >= start) & (index < stop)
        mask &= inside.reshape(-1, *([1] * axis), length, *([1] * (len(size) - axis - 1)))
    return mask


def full_baseline(images: Tensor, baseline: Tensor) -> Tensor:
    """Reshape the baseline (), (C,), (C, *S) or (N, C, *S) to broadcast against (N, C, *S)."""
    if baseline.dim() == 1:
        return baseline.reshape(1, -1, *([1] * (images.dim() - 2)))
    return baseline


def occlude(images: Tensor, windows: Tensor, baseline: Tensor) -> Tensor:
    """Copies with one window each replaced by the baseline; see :func:`fastcam.ops.occlude`."""
    mask = window_mask(windows, images.shape[2:])[None, :, None]
    filling = full_baseline(images, baseline).expand(images.shape)
    copies = torch.where(mask, filling.unsqueeze(1), images.unsqueeze(1))
    return new_copies(images, len(windows)).copy_(copies)


def mask_images(images: Tensor, maps: Tensor, normalize: bool = True) -> Tensor:
    """Copies times one upsampled map each; see :func:`fastcam.ops.mask_images`."""
    wide = maps.to(accumulation_dtype(images.dtype))  # masks are not rounded before the product
    if 0 in images.shape:
        return new_copies(images, maps.shape[1])
    return masked_copies(images, upsample_normalize(wide, images.shape[2:], normalize))


def masked_copies(images: Tensor, masks: Tensor) -> Tensor:
    """Multiply images (N, C, *S) by masks (N, K, *S) in the accumulation dtype, to (N, K, C, *S)."""
    products = images.to(masks.dtype).unsqueeze(1) * masks.unsqueeze(2)
    return new_copies(images, masks.shape[1]).copy_(products)


def _coordinates(starts: Tensor, length: int, limit: int) -> Tensor:
    """Return (M, length): consecutive coordinates from each start, along an axis [0, limit).

    A start so far outside that no coordinate lies in the axis is clamped first, so that the sum does not overflow.
    """
    return starts.clamp(-length, limit)[:, None] + torch.arange(length, device=starts.device)


def _positions(images: Tensor, rows: Tensor, columns: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return positions (M, height, width) in flattened maps (N, *size), and a mask of those inside."""
    height, width = size
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    return (images[:, None, None] * height + rows[:, :, None]) * width + columns[:, None, :], inside


def gather_index(
    images: Tensor,
    origins: Tensor,
    windows: Tensor,
    size: Sequence[int],
    clean_shape: Sequence[int],
    patch_size: Sequence[int],
) -> Tensor:
    """Return the source (M, height, width) of each element of the windows, as an index into one list of pixels.

    The list holds the N H W pixels of the clean maps, then the M h w pixels of the patches, then one of the fill value.
    """
    count, _, height, width = clean_shape
    valid = torch.arange(count, device=images.device).index_select(0, images)  # raises for an index out of range
    rows, columns = _coordinates(windows[:, 0], size[0], height), _coordinates(windows[:, 1], size[1], width)
    clean, in_map = _positions(valid, rows, columns, (height, width))
    # Origins are clamped too; a patch outside the map stays outside.
    top, left = origins[:, 0].clamp(-patch_size[0], height), origins[:, 1].clamp(-patch_size[1], width)
    copies = torch.arange(len(images), device=images.device)
    changed, in_patch = _positions(copies, rows - top[:, None], columns - left[:, None], patch_size)
    start, end = count * height * width, count * height * width + len(images) * patch_size[0] * patch_size[1]
    return torch.where(in_map, torch.where(in_patch, start + changed, clean), end)


def pixels(maps: Tensor) -> Tensor:
    """Flatten (N, C, H, W) to the list (N H W, C) of its pixels."""
    return maps.movedim(1, -1).flatten(0, 2)


def gather_patches(
    clean: Tensor,
    images: Tensor,
    patches: Tensor,
    origins: Tensor,
    windows: Tensor,
    size: Sequence[int],
    fill: float = 0.0,
) -> Tensor:
    """Windows of activations with patches pasted in; see :func:`fastcam.ops.gather_patches`."""
    index = gather_index(images, origins, windows, size, clean.shape, patches.shape[2:])
    table = torch.cat([pixels(clean), pixels(patches), clean.new_full((1, clean.shape[1]), fill)])
    gathered = table.index_select(0, index.flatten()).unflatten(0, index.shape).movedim(-1, 1)
    return new_windows(clean, len(images), size).copy_(gathered)


def new_windows(clean: Tensor, count: int, size: Sequence[int]) -> Tensor:
    """Return uninitialised (count, C, *size) in the memory layout of ``clean``."""
    if not is_channels_last(clean):
        return clean.new_empty([count, clean.shape[1], *size])
    return clean.new_empty([count, *size, clean.shape[1]]).movedim(-1, 1)


def resize_crop(pixels: Tensor, places: Sequence[int], size: Sequence[int], cubic: bool = False) -> Tensor:
    """Crops of resized photographs; see :func:`fastcam.ops.resize_crop`. Only processors resize bytes in torch."""
    photographs, first, (height, width) = pixels.cpu(), 0, size
    crops = photographs.new_empty((len(places) // 6, height, width, 3))
    for index, crop in enumerate(crops):
        lines, columns, *resized, top, left = places[6 * index : 6 * index + 6]
        planes = photographs.narrow(0, first, 3 * lines * columns).view(1, 3, lines, columns)
        whole = F.interpolate(planes, resized, mode="bicubic" if cubic else "bilinear", antialias=True)[0]
        crop.copy_(whole.narrow(1, top, height).narrow(2, left, width).permute(1, 2, 0))
        first += planes.numel()
    return crops.to(pixels.device)


def overlay(images: Tensor, maps: Tensor, colors: Tensor, alpha: float) -> Tensor:
    """Colours of the maps blended over the images; see :func:`fastcam.ops.overlay`.

    Float64 holds the product of a float32 and a byte exactly, so all devices return the same bits.
    """
    values = maps.to(torch.float32).double()
    shades = (values.nan_to_num(0.0).clamp(0, 1) * 255 + 0.5).to(torch.uint8)
    shaded = colors[shades.long()].double()
    share = images.new_full((), alpha, dtype=torch.float32).double()
    blended = (images + share * (shaded - images) + 0.5).to(torch.uint8)
    return torch.where(values.isnan().unsqueeze(-1), images, blended).contiguous()
