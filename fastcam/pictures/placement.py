"""Maps of a crop, at their place in the whole picture."""

import numpy as np
import numpy.typing as npt

from fastcam import render

Box = tuple[float, float, float, float]  # left, top, right, bottom


def place(maps: render.Floats, box: Box, size: tuple[int, int]) -> render.Floats:
    """Resize maps bilinearly to a box of a picture.

    Pixels whose centre lies in the box have the value there, so that a box of any fraction of a pixel is met.

    Args:
        maps: (..., H, W), of the crop.
        box: of the crop, in pixels of the picture; may reach beyond it.
        size: (height, width) of the picture.

    Returns:
        (..., height, width) float32, NaN outside the box.
    """
    left, top, right, bottom = box
    rows, vertical = _weights(top, bottom, size[0], maps.shape[-2])
    columns, horizontal = _weights(left, right, size[1], maps.shape[-1])
    placed = np.full((*maps.shape[:-2], *size), np.nan, np.float32)
    placed[..., rows, columns] = vertical @ maps.astype(np.float32) @ horizontal.T
    return placed


def _weights(start: float, stop: float, pixels: int, cells: int) -> tuple[slice, npt.NDArray[np.float32]]:
    """Return the pixels (P of them) with their centre in a range, and the weights (P, cells) of the cells in each."""
    first, end = max(0, int(np.ceil(start - 0.5))), min(pixels, int(np.ceil(stop - 0.5)))
    centres = (np.arange(first, end) + 0.5 - start) / (stop - start) * cells - 0.5
    distances = np.abs(np.clip(centres, 0, cells - 1)[:, None] - np.arange(cells))
    return slice(first, end), np.maximum(0, 1 - distances).astype(np.float32)
