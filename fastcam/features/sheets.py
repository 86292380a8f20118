"""Sheets of neighbours: each query, and beside it the images that the network finds most alike."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fastcam.render import Bytes

_TEXT = 12  # height of a caption, in pixels


def neighbour_sheet(
    queries: Sequence[tuple[str, Bytes]], neighbours: Sequence[Sequence[tuple[str, Bytes]]]
) -> Image.Image:
    """Draw a row for each query: its picture, then those of its neighbours; all squares of one size.

    Args:
        queries: the caption and the picture (side, side, 3) of each.
        neighbours: of each query the same, the nearest first.
    """
    rows = []
    for query, near in zip(queries, neighbours, strict=True):
        side = len(query[1])
        between = np.full((side + 2 * _TEXT, side // 4, 3), 255, np.uint8)
        cells = [_captioned(picture, caption) for caption, picture in (query, *near)]
        rows.append(np.concatenate([cells[0], between, *cells[1:]], 1))
    return Image.fromarray(np.concatenate(rows))


def _captioned(picture: Bytes, text: str) -> Bytes:
    """Return a picture with a margin, above a line of text that is cut where it does not fit."""
    side, margin = len(picture), 4
    cell = Image.new("RGB", (side + 2 * margin, side + 2 * _TEXT), "white")
    cell.paste(Image.fromarray(picture), (margin, 0))
    font = ImageFont.load_default(size=_TEXT)
    while font.getlength(text) > side and len(text) > 4:
        text = text.removesuffix("...")[:-1] + "..."
    ImageDraw.Draw(cell).text((margin + side / 2, side + _TEXT), text, "black", font, anchor="mm")
    return np.asarray(cell)
