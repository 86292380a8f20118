"""Overlays of maps on images."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastcam import render

__all__ = ["overlay_mask"]


def overlay_mask(
    img: Image.Image, mask: Image.Image, colormap: Any = "jet", alpha: float = 0.7, *, exact_peer: bool = False
) -> Image.Image:
    """Blend an image over the colours of a mask, which is squared before the colour map is applied.

    Args:
        img: the image, greyscale or with three bands.
        mask: in [0, 1] (mode "F"), or uint8 (mode "L"); resized to the image.
        colormap: a matplotlib colour map or its name; without matplotlib only "jet".
        alpha: weight of the image, in [0, 1).
        exact_peer: squares of uint8 values wrap around at 256, as in torch-cam.

    Returns:
        An RGB image of the size of ``img``.

    Raises:
        TypeError: if either is not a PIL image.
        ValueError: for another ``alpha``, other bands, or an unknown colour map.
    """
    if not isinstance(img, Image.Image) or not isinstance(mask, Image.Image):
        raise TypeError(f"`img` and `mask` must be PIL images, got {type(img).__name__} and {type(mask).__name__}")
    if not isinstance(alpha, float) or not 0 <= alpha < 1:
        raise ValueError(f"`alpha` must be a float in [0, 1), got {alpha!r}")
    if len(img.getbands()) not in (1, 3):
        raise ValueError(f"`img` must be grey or have three bands, got {img.mode}")
    values = np.asarray(mask.resize(img.size, resample=Image.Resampling.BICUBIC))
    if values.dtype == np.uint8 and not exact_peer:
        values = values.astype(np.float32) / 255
    return Image.blend(Image.fromarray(_colors(colormap, values**2)), img.convert("RGB"), alpha)


def _colors(colormap: Any, values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Return (H, W, 3) uint8."""
    try:
        from matplotlib import colormaps
    except ImportError:
        table = render.colors(colormap)
        scaled = values if values.dtype == np.uint8 else np.clip(values * 256, 0, 255)
        return table[np.nan_to_num(scaled).astype(np.uint8)]
    if isinstance(colormap, str) and colormap not in colormaps:
        raise ValueError(f"`colormap` must be a name known to matplotlib, got {colormap!r}")
    return np.ascontiguousarray(colormaps.get_cmap(colormap)(values, bytes=True)[..., :3])
