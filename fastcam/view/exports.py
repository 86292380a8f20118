"""The chosen rows as files: a table, a page in one file, a sheet of pictures."""

import csv
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from fastcam import render
from fastcam.dataset.table import Row
from fastcam.pictures.boxes import draw_boxes
from fastcam.pictures.captions import captioned
from fastcam.pictures.page import Page
from fastcam.view.pictures import MapValues, Photographs
from fastcam.view.table import Table

SIDE = 224  # of a picture on a sheet, the longer one
COLUMNS = 8  # of a sheet
Rows = Sequence[Row]


def as_csv(table: Table, rows: Rows) -> str:
    """Return rows as CSV, with a heading."""
    text = io.StringIO()
    writer = csv.writer(text)
    names = [name for name in (rows[0] if rows else {}) if name not in ("place", "store")]
    writer.writerow(["folder", *names])
    for row in rows:
        writer.writerow([table.names[row["store"]], *(_harmless(row[name]) for name in names)])
    return text.getvalue()


def as_page(
    table: Table, rows: Rows, maps: MapValues, photographs: Photographs, colormap: str, column: str | None
) -> str:
    """Return the maps of rows as a page in one file, those of one image side by side, with the numbers of a column."""
    groups: dict[tuple[int, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["store"], row["image_id"]), []).append(row)
    made = Page(", ".join(table.names), colormap)
    for (_, image_id), same in groups.items():
        found = [(title(row, column), maps.values(row["place"])) for row in same]
        photograph = photographs.pixels(same[0]["place"])
        made.add(image_id, photograph, [(name, values) for name, values in found if values is not None])
    return made.html()


def as_sheet(
    rows: Rows, maps: MapValues, photographs: Photographs, colormap: str, opacity: float, column: str | None
) -> bytes:
    """Return the maps of rows over their photographs, with what they are and the numbers of a column, as one PNG."""
    cells = []
    for row in rows:
        photograph = Image.fromarray(photographs.pixels(row["place"]))
        scale = SIDE / max(photograph.size)
        size = (max(1, round(photograph.width * scale)), max(1, round(photograph.height * scale)))
        picture = photograph.resize(size, Image.Resampling.LANCZOS)
        drawn, values = np.asarray(picture), maps.scaled(row["place"])
        if values is not None:
            resized = Image.fromarray(values).resize(picture.size, Image.Resampling.BILINEAR)
            drawn = render.overlay(drawn[None], np.asarray(resized)[None], colormap, opacity)[0]
        if row["box"] is not None:
            drawn = draw_boxes(drawn, np.array([row["box"]]) * [*picture.size, *picture.size], [""], ["white"])
        cells.append(captioned(drawn, f"{title(row, column)}, {row['image_id']}", colormap))
    buffer = io.BytesIO()
    sheet = render.grid(cells, COLUMNS, gap=8) if cells else np.full((1, 1, 3), 255, np.uint8)
    Image.fromarray(sheet).save(buffer, "PNG")
    return buffer.getvalue()


def title(row: Row, column: str | None) -> str:
    """Return what a map is called beside its photograph: with the number of a column, or with its score."""
    label = row["target_name"] or ("" if row["target"] is None else f"class {row['target']}")
    number = "" if row["detection"] is None else f"detection {row['detection']}"
    score = "" if row["score"] is None else f"{row['score']:.3g}"
    if column is not None and row[column] is not None:
        score = f"{column.replace('_', ' ')} {row[column]:.3g}"
    return ", ".join(part for part in (row["method"], label, number, score) if part) or row["status"]


def _harmless(value: object) -> object:
    """Return a cell that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
