"""Rendering of maps with NumPy: colour maps, overlays, contact sheets."""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from fastcam._extension import CompiledRendering

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating[Any]]


@functools.cache
def colors(colormap: str) -> Bytes:
    """Return the 256 colours (256, 3) uint8 of a colour map: "jet", which is built in, or one of matplotlib.

    Raises:
        ValueError: for an unknown name.
    """
    if colormap == "jet":
        x = np.linspace(0, 1, 256)[:, None]
        return np.round(255 * np.clip(1.5 - np.abs(4 * x - np.array([3.0, 2.0, 1.0])), 0, 1)).astype(np.uint8)
    try:
        from matplotlib import colormaps
    except ImportError as error:
        raise ValueError(
            f"colormap {colormap!r} needs matplotlib (pip install fastcam[plot]); without it there is 'jet'"
        ) from error
    if colormap not in colormaps:
        raise ValueError(f"`colormap` must be 'jet' or a name known to matplotlib, got {colormap!r}")
    return np.round(255 * colormaps[colormap](np.linspace(0, 1, 256))[:, :3]).astype(np.uint8)


def _load_compiled() -> "CompiledRendering | None":
    """Return the compiled rendering, imported late: it needs torch, and checking a colour map does not."""
    from fastcam._extension import host

    return host()


def to_uint8(maps: Floats) -> Bytes:
    """Convert maps in [0, 1] to rounded uint8 values; NaN becomes 0."""
    compiled = _load_compiled()
    if compiled is not None:
        return compiled.to_uint8(maps)
    return np.round(255 * np.clip(np.nan_to_num(maps.astype(np.float32)), 0, 1)).astype(np.uint8)


def overlay(images: Bytes, maps: Floats, colormap: str = "jet", alpha: float = 0.5) -> Bytes:
    """Blend the colours of the maps over the images.

    Args:
        images: (..., H, W, 3) uint8.
        maps: (..., H, W) in [0, 1]; the image stays unchanged where a map is NaN.
        colormap: see :func:`colors`.
        alpha: share of the colour, 0 to 1.

    Raises:
        ValueError: for shapes that do not fit, or alpha outside [0, 1].
    """
    if images.shape != (*maps.shape, 3):
        raise ValueError(f"`images` must have shape {(*maps.shape, 3)} for maps {maps.shape}, got {images.shape}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"`alpha` must lie in [0, 1], got {alpha}")
    compiled = _load_compiled()
    if compiled is not None:
        return compiled.overlay(images, maps, colors(colormap), alpha)
    color = colors(colormap)[to_uint8(maps)]
    share = np.where(np.isnan(maps), 0, alpha)[..., None]
    return (images + share * (color.astype(np.float32) - images) + 0.5).astype(np.uint8)


def contact_sheet(rows: list[list[Bytes]], row_titles: list[str], column_titles: list[str]) -> Image.Image:
    """Draw a grid of (H, W, 3) images of equal size, with a title above each column and beside each row."""
    height, width = rows[0][0].shape[:2]
    text_size = max(12, height // 14)
    font = ImageFont.load_default(size=text_size)
    gap, top = 6, max(24, height // 8)
    left = max((int(font.getlength(line)) for title in row_titles for line in title.split("\n")), default=0) + 4 * gap
    sheet = Image.new("RGB", (left + (width + gap) * len(rows[0]), top + (height + gap) * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for j, title in enumerate(column_titles):
        draw.text((left + (width + gap) * j + width / 2, top / 2), title, "black", font, anchor="mm")
    for i, (row, title) in enumerate(zip(rows, row_titles, strict=True)):
        y = top + (height + gap) * i
        lines = title.split("\n")
        for k, line in enumerate(lines):  # the first line in black, the others in grey
            middle = y + height / 2 + (k - (len(lines) - 1) / 2) * 1.3 * text_size
            draw.text((left - 2 * gap, middle), line, "#666666" if k else "black", font, anchor="rm")
        for j, picture in enumerate(row):
            sheet.paste(Image.fromarray(picture), (left + (width + gap) * j, y))
    return sheet


def grid(pictures: Sequence[Bytes], columns: int, gap: int = 2) -> Bytes:
    """Arrange pictures (H, W, 3) row by row on white, rows as high as their highest, columns as wide as the widest."""
    columns = min(columns, len(pictures))
    rows = [pictures[start : start + columns] for start in range(0, len(pictures), columns)]
    heights = [max(len(picture) for picture in row) + gap for row in rows]
    width = max(picture.shape[1] for picture in pictures) + gap
    sheet = np.full((sum(heights) - gap, width * columns - gap, 3), 255, np.uint8)
    for i, row in enumerate(rows):
        top = sum(heights[:i])
        for j, picture in enumerate(row):
            sheet[top : top + len(picture), width * j : width * j + picture.shape[1]] = picture
    return sheet
