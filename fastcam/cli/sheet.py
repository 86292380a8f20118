"""Contact sheets: one row per photograph and explained class, the overlays beside the photograph."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from fastcam import render
from fastcam.classifiers.preprocessing import write_png
from fastcam.cli.outputs import shortened

SIDE = 224  # of a cell, in pixels


def title(name: str, label: str, probability: float) -> str:
    """Return the title of a row."""
    return f"{shortened(name)}\n{shortened(label)}\n{probability:.0%}"


@dataclass
class Sheet:
    """The rows of a contact sheet, as small pictures.

    Attributes:
        columns: titles of the columns.
    """

    columns: list[str]
    _rows: list[list[render.Bytes]] = field(default_factory=list)
    _titles: list[str] = field(default_factory=list)

    def add(self, name: str, label: str, probability: float, pictures: list[render.Bytes]) -> None:
        """Add a row of pictures, one per column."""
        self._rows.append([_cell(picture) for picture in pictures])
        self._titles.append(title(name, label, probability))

    def write(self, file: Path) -> None:
        """Write the rows added so far; nothing without a row."""
        if self._rows:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_png(render.contact_sheet(self._rows, self._titles, self.columns), file)


def _cell(picture: render.Bytes) -> render.Bytes:
    """Return a picture that fills a white square as far as its shape allows."""
    height, width = picture.shape[:2]
    scale = SIDE / max(height, width)
    small = Image.fromarray(picture).resize(
        (max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.LANCZOS
    )
    cell = Image.new("RGB", (SIDE, SIDE), "white")
    cell.paste(small, ((SIDE - small.width) // 2, (SIDE - small.height) // 2))
    return np.asarray(cell)
