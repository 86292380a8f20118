"""Boxes and their labels over pictures."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor, ImageDraw, ImageFont

from fastcam import render

_COLORS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#f032e6", "#9a6324")
_LIGHT = 150  # luma, of 255
_SMALLEST = 10  # height of the text, in pixels


def draw_boxes(
    picture: render.Bytes, boxes: npt.ArrayLike, texts: Sequence[str], colors: Sequence[str] | None = None
) -> render.Bytes:
    """Return a picture with boxes, and a text inside the upper edge of each.

    Args:
        picture: (H, W, 3), unchanged.
        boxes: (D, 4), left, top, right, bottom in pixels; what lies outside the picture is cut off.
        texts: one for each box, possibly empty.
        colors: names or #rrggbb, one for each box; None takes eight in turns.

    Raises:
        ValueError: for numbers of boxes, texts and colours that differ.
    """
    corners = np.asarray(boxes, np.float64).reshape(-1, 4)
    chosen = [_COLORS[number % len(_COLORS)] for number in range(len(corners))] if colors is None else list(colors)
    if not len(corners) == len(texts) == len(chosen):
        raise ValueError(f"{len(corners)} boxes, {len(texts)} texts and {len(chosen)} colours do not belong together")
    image = Image.fromarray(picture)
    draw, width = ImageDraw.Draw(image), max(2, round(max(image.size) / 300))
    font = ImageFont.load_default(size=max(_SMALLEST, round(max(image.size) / 45)))
    inside = corners.clip(0, [image.width - 1, image.height - 1] * 2)
    inside = np.concatenate([np.minimum(inside[:, :2], inside[:, 2:]), np.maximum(inside[:, :2], inside[:, 2:])], 1)
    for (left, top, right, bottom), text, color in reversed(list(zip(inside.tolist(), texts, chosen, strict=True))):
        draw.rectangle((left, top, right, bottom), outline=color, width=width)
        if text:
            place = draw.textbbox((left + 2 * width, top + width), text, font)
            draw.rectangle((left, top, place[2] + width, place[3] + width), fill=color)
            draw.text((left + 2 * width, top + width), text, _readable_on(color), font)
    return np.asarray(image)


def _readable_on(color: str) -> str:
    """Return black for light colours, white for dark ones."""
    red, green, blue = ImageColor.getrgb(color)[:3]
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > _LIGHT else "white"
