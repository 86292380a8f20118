"""Backgrounds of overlays: tensors, arrays and PIL images as 8-bit colour pictures."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from fastcam import render

DrawableImages = Tensor | npt.NDArray[np.generic] | Image.Image | Sequence[Image.Image]

_ROUNDING = 1e-3


def scaled(images: Tensor, axes: int) -> Tensor:
    """Scale each of (N, C, *S), with that many axes in S, to [0, 1] by its extremes; constant images become zeros."""
    values = images.detach().float().cpu()
    over = tuple(range(1, axes + 2))
    low, high = values.amin(over, keepdim=True), values.amax(over, keepdim=True)
    return torch.nan_to_num((values - low) / (high - low))


def in_unit_range(values: Tensor) -> Tensor:
    """Return uint8 values divided by 255, and others as they are, which must lie in [0, 1].

    Raises:
        ValueError: for values outside, beyond rounding.
    """
    if values.dtype == torch.uint8:
        return values.cpu() / 255
    values = values.detach().float().cpu()
    if not ((values >= -_ROUNDING) & (values <= 1 + _ROUNDING) | values.isnan()).all():
        present = values[~values.isnan()]
        low, high = present.min().item(), present.max().item()
        cause = (
            "normalised images are not pictures, pass them from before the normalisation"
            if low < -_ROUNDING
            else "pass 8-bit values as uint8, or divide them by 255"
        )
        raise ValueError(
            f"`images` must be uint8, or floats in [0, 1], got values from {low:.4g} to {high:.4g}: {cause}"
        )
    return values


def own_pictures(images: Tensor) -> render.Bytes:
    """Return the model's input (N, C, H, W), each image scaled to [0, 1], as (N, H, W, 3)."""
    _check_colours(images)
    return _as_bytes(scaled(images, 2))


def given_pictures(images: DrawableImages) -> render.Bytes | list[render.Bytes]:
    """Return the pictures (N, H, W, 3), or a list of (H, W, 3) for PIL images of several sizes.

    Raises:
        TypeError, ValueError: for what is no picture, and for values outside [0, 1].
    """
    if isinstance(images, Tensor):
        _check_colours(images)
        return _as_bytes(in_unit_range(images))
    if isinstance(images, np.ndarray):
        return _array_pictures(images)
    pictures = [images] if isinstance(images, Image.Image) else images
    if not isinstance(pictures, list | tuple) or not all(isinstance(picture, Image.Image) for picture in pictures):
        raise TypeError(f"`images` must be a tensor, an array or a list of PIL images, got {type(images).__name__}")
    arrays = [_pil_picture(picture) for picture in pictures]
    return np.stack(arrays) if len({array.shape for array in arrays}) == 1 else arrays


def _check_colours(images: Tensor) -> None:
    if images.dim() != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"`images` must have shape (N, 3, H, W) or (N, 1, H, W) to be drawn, "
            f"got {tuple(images.shape)}; pass images="
        )


def _as_bytes(pixels: Tensor) -> render.Bytes:
    return render.to_uint8(pixels.expand(-1, 3, -1, -1).movedim(1, -1).contiguous().numpy())


def _array_pictures(images: npt.NDArray[np.generic]) -> render.Bytes:
    if images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"`images` must be an array of shape (N, H, W, 3), got {images.shape}")
    if images.dtype == np.uint8:
        return images.astype(np.uint8, copy=False)
    return render.to_uint8(in_unit_range(torch.from_numpy(images.astype(np.float32))).numpy())


def _pil_picture(picture: Image.Image) -> render.Bytes:
    if picture.mode[0] in "IF":  # 16 and 32 bits a pixel: the conversion would clip
        values = np.asarray(picture)
        low, high = values.min(), values.max()
        if low < 0 or high > 255:
            raise ValueError(
                f"`images` must be PIL images of 8 bits, got mode {picture.mode!r} with values from {low} to {high}: "
                "scale them to 8 bits"
            )
    return np.asarray(picture.convert("RGB"))
