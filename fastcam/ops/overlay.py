"""Colours of maps blended over images, on the device of the tensors."""

import torch
from torch import Tensor

from fastcam.ops._register import call, check_tensor, register, shape_text


def overlay(images: Tensor, maps: Tensor, colors: Tensor, alpha: float = 0.5) -> Tensor:
    """Blend a colour per value of the maps over the images: image + alpha * (color - image), rounded.

    For tensors on any device, with exactly the result of :func:`fastcam.render.overlay`.

    Args:
        images: (..., H, W, 3) uint8.
        maps: (..., H, W) in [0, 1], read as float32; values outside are clamped, and the image stays unchanged
            where a map is NaN.
        colors: (256, 3) uint8, from the colour of 0 to that of 1.
        alpha: share of the colour, 0 to 1.

    Returns:
        (..., H, W, 3) uint8, contiguous. It carries no gradient.

    Raises:
        TypeError: for dtypes that do not fit.
        ValueError: for shapes or devices that do not fit, or alpha outside [0, 1].
    """
    check_tensor("maps", maps)
    _check_bytes("images", images, maps)
    _check_bytes("colors", colors, maps)
    if tuple(images.shape) != (*maps.shape, 3):
        raise ValueError(
            f"`images` must have shape {(*maps.shape, 3)} for maps {shape_text(maps)}, got {shape_text(images)}"
        )
    if tuple(colors.shape) != (256, 3):
        raise ValueError(f"`colors` must have shape (256, 3), got {shape_text(colors)}")
    if not isinstance(alpha, int | float):
        raise TypeError(f"`alpha` must be a number, got {type(alpha).__name__}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"`alpha` must lie in [0, 1], got {alpha}")
    return call("overlay", images, maps, colors, alpha)


def _check_bytes(name: str, value: Tensor, maps: Tensor) -> None:
    if not isinstance(value, Tensor) or value.dtype != torch.uint8:
        raise TypeError(f"`{name}` must be a uint8 tensor, got {getattr(value, 'dtype', type(value).__name__)}")
    if value.device != maps.device:
        raise ValueError(f"`{name}` must be on the device of `maps`, {maps.device}, got {value.device}")


def _fake(images: Tensor, maps: Tensor, colors: Tensor, alpha: float) -> Tensor:
    return images.new_empty(images.shape)


register("overlay", _fake)
