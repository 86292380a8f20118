"""The formulas of the ops in plain eager PyTorch; shapes as in ``fastcam.ops``."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastcam.ops import reference
from fastcam.ops.impute_neighbours import TOLERANCE


def grad_cam(a: Tensor, g: Tensor) -> Tensor:
    """Return the channels weighted by their mean gradients."""
    return (g.mean((2, 3), keepdim=True) * a).sum(1).relu()


def grad_cam_pp(a: Tensor, g: Tensor) -> Tensor:
    """Return the channels weighted by their positive gradients times alpha."""
    denominator = 2 * g.pow(2) + a.sum((2, 3), keepdim=True) * g.pow(3)
    alpha = g.pow(2) / torch.where(denominator != 0, denominator, torch.ones_like(denominator))
    return ((alpha * g.relu()).sum((2, 3), keepdim=True) * a).sum(1).relu()


def xgrad_cam(a: Tensor, g: Tensor) -> Tensor:
    """Return the channels weighted by their gradients' mean under the activations."""
    weights = (g * a).sum((2, 3), keepdim=True) / (a.sum((2, 3), keepdim=True) + 1e-7)
    return (weights * a).sum(1).relu()


def layer_cam(a: Tensor, g: Tensor) -> Tensor:
    """Return the elements weighted by their own positive gradients."""
    return (g.relu() * a).sum(1).relu()


def plane_moments(a: Tensor) -> Tensor:
    """Return mean, squared deviations, zeros, maximum and its place of every plane."""
    flat = a.flatten(2)
    variance, mean = torch.var_mean(flat.float(), 2, correction=0)
    maximum, place = flat.max(2)
    zeros = flat.shape[2] - flat.count_nonzero(2)
    return torch.stack([mean, variance * flat.shape[2], zeros, maximum.float(), place])


def upsample_normalize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps (N, h, w) at another size, scaled to [0, 1]."""
    out = F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    low, high = out.amin((1, 2), keepdim=True), out.amax((1, 2), keepdim=True)
    return (out - low) / (high - low)


def occlude(images: Tensor, windows: Tensor) -> Tensor:
    """Return copies of images, each with one window set to zero."""
    copies = images[:, None].repeat(1, len(windows), 1, 1, 1)
    for i, ((top, left), (height, width)) in enumerate(windows.tolist()):
        copies[:, i, :, top : top + height, left : left + width] = 0
    return copies


def mask_images(images: Tensor, maps: Tensor) -> Tensor:
    """Return copies of images under upsampled maps."""
    masks = F.interpolate(maps, size=images.shape[2:], mode="bilinear", align_corners=False)
    low, high = masks.amin((2, 3), keepdim=True), masks.amax((2, 3), keepdim=True)
    return ((masks - low) / (high - low))[:, :, None] * images[:, None]


def gather_patches(
    clean: Tensor, images: Tensor, patches: Tensor, origins: Tensor, windows: Tensor, size: tuple[int, int]
) -> Tensor:
    """Return windows with patches pasted in; patches lie in map and window, windows reach at most 8 beyond the map."""
    padded, (height, width), gathered = F.pad(clean, [8] * 4), size, []
    for patch, n, (y, x), (top, left) in zip(patches, images.tolist(), origins.tolist(), windows.tolist(), strict=True):
        window = padded[n, :, top + 8 : top + 8 + height, left + 8 : left + 8 + width].clone()
        window[:, y - top : y - top + patch.shape[1], x - left : x - left + patch.shape[2]] = patch
        gathered.append(window)
    return torch.stack(gathered)


def impute_neighbours(images: Tensor, missing: Tensor) -> Tensor:
    """Return images with missing pixels as the means of their neighbours, each channel's equations solved together."""
    return reference.impute_neighbours(images, missing, TOLERANCE)


def resize_crop(pixels: Tensor, places: Sequence[int], size: tuple[int, int]) -> Tensor:
    """Return crops of photographs, resized one by one; GPUs resize fractions alone, which differ by a step."""
    crops, first, (height, width) = [], 0, size
    for index in range(0, len(places), 6):
        lines, columns, down, across, top, left = places[index : index + 6]
        planes = pixels[first : first + 3 * lines * columns].view(1, 3, lines, columns)
        whole = planes if pixels.device.type == "cpu" else planes.float()
        resized = F.interpolate(whole, (down, across), mode="bilinear", antialias=True)
        crop = resized[0, :, top : top + height, left : left + width].permute(1, 2, 0)
        crops.append(crop if whole is planes else crop.round().clamp(0, 255).byte())
        first += planes.numel()
    return torch.stack(crops)


def overlay(images: Tensor, maps: Tensor, colors: Tensor, alpha: float) -> Tensor:
    """Return the colours of maps blended over images."""
    overlay_colors = colors[(maps.nan_to_num(0).clamp(0, 1) * 255 + 0.5).long()].float()
    blended = (images + alpha * (overlay_colors - images) + 0.5).byte()
    return torch.where(maps.isnan()[..., None], images, blended)
