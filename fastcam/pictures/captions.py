"""A line of text and a colour scale below a picture."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fastcam import render

_SMALLEST, _LARGEST = 9, 48  # heights of the text, in pixels


def captioned(picture: render.Bytes, text: str, colormap: str) -> render.Bytes:
    """Return a picture (H, W, 3) above a text and the colours from 0 to 1, made smaller to fit the width.

    Args:
        picture: unchanged.
        text: one line; cut where it does not fit in small letters.
        colormap: see :func:`fastcam.render.colors`.
    """
    height, width = picture.shape[:2]
    size = min(_LARGEST, max(12, min(height, width) // 16))
    margin = size // 2
    line, font = _fit(text, size, width - 2 * margin)
    strip = Image.new("RGB", (width, 3 * size + margin), "white")
    draw = ImageDraw.Draw(strip)
    draw.text((margin, size), line, "black", font, anchor="lm")
    number = ImageFont.load_default(size=size)
    start, end = margin + size, width - margin - size
    draw.text((margin, 2.5 * size), "0", "black", number, anchor="lm")
    draw.text((width - margin, 2.5 * size), "1", "black", number, anchor="rm")
    if end > start:
        steps = np.linspace(0, 255, end - start).round().astype(int)
        scale = np.broadcast_to(render.colors(colormap)[steps], (size, end - start, 3))
        strip.paste(Image.fromarray(np.ascontiguousarray(scale)), (start, 2 * size))
    return np.concatenate([picture, np.asarray(strip)])


def _fit(text: str, size: int, width: int) -> tuple[str, ImageFont.ImageFont | ImageFont.FreeTypeFont]:
    """Return the text, and a font in which it is at most that wide."""
    font = ImageFont.load_default(size=size)
    while font.getlength(text) > width and size > _SMALLEST:
        size -= 1
        font = ImageFont.load_default(size=size)
    while font.getlength(text) > width and len(text) > 4:
        text = text.removesuffix("...")[:-1] + "..."
    return text, font
