"""Photographs of any sizes to crops of one size, on the device of the pixels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastcam.ops._register import call, register, shape_text

PLACE = 6  # numbers of each photograph
COLORS = 3


def resize_crop(pixels: Tensor, places: Sequence[int], size: tuple[int, int], cubic: bool = False) -> Tensor:
    """Resize photographs with antialiasing, each to a size of its own, and cut a crop of the same size out of each.

    The bytes are those of ``torch.nn.functional.interpolate(..., antialias=True)`` of uint8 on the CPU, on every
    device that has a kernel: weights are whole numbers of 16 bits, and lines are rounded to bytes before columns are
    summed.

    Args:
        pixels: (B,) uint8, N photographs (3, h, w) one after the other.
        places: 6 numbers of each photograph: its height and width, those after resizing, and the row and column there
            where the crop begins.
        size: (height, width) of the crops.
        cubic: bicubic interpolation (a = -1/2) in place of bilinear.

    Returns:
        (N, height, width, 3) uint8, contiguous.

    Raises:
        TypeError: for pixels that are not uint8.
        ValueError: for photographs without pixels or that ``pixels`` does not hold, and crops that reach beyond them.
    """
    if not isinstance(pixels, Tensor) or pixels.dtype != torch.uint8:
        raise TypeError(f"`pixels` must be a uint8 tensor, got {getattr(pixels, 'dtype', type(pixels).__name__)}")
    places, (height, width) = [int(number) for number in places], size
    if len(places) % PLACE:
        raise ValueError(f"`places` must have {PLACE} numbers of each photograph, got {len(places)}")
    if height < 1 or width < 1:
        raise ValueError(f"`size` must be two positive numbers, got {(height, width)}")
    for index in range(0, len(places), PLACE):
        _check_place(index // PLACE, places[index : index + PLACE], (height, width))
    total = sum(COLORS * places[index] * places[index + 1] for index in range(0, len(places), PLACE))
    if tuple(pixels.shape) != (total,):
        raise ValueError(f"`pixels` must have shape {(total,)} for these photographs, got {shape_text(pixels)}")
    return call("resize_crop", pixels, places, [height, width], cubic)


def _check_place(index: int, place: Sequence[int], size: tuple[int, int]) -> None:
    height, width, lines, columns, top, left = place
    if min(height, width, lines, columns) < 1:
        raise ValueError(
            f"photograph {index} must have pixels, also when resized, got {height} x {width} to {lines} x {columns}"
        )
    if top < 0 or left < 0 or top + size[0] > lines or left + size[1] > columns:
        raise ValueError(
            f"the crop of photograph {index}, {size[0]} x {size[1]} from ({top}, {left}), reaches beyond its "
            f"{lines} x {columns}"
        )


def _fake(pixels: Tensor, places: Sequence[int], size: Sequence[int], cubic: bool) -> Tensor:
    return pixels.new_empty((len(places) // PLACE, *size, COLORS))


register("resize_crop", _fake)
