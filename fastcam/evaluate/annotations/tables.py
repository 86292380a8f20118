"""Annotations as a table, CSV or Parquet: a row a box."""

import csv
import math
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from fastcam.dataset.table import Row
from fastcam.evaluate.annotations.regions import Annotation, Region, Size, check_box

COLUMNS = ("image_id", "left", "top", "right", "bottom")


def read(file: Path) -> dict[str, Annotation]:
    """Return the annotations by image id; an image with a broken row has a reason.

    The columns are image_id, left, top, right, bottom, in pixels of the image, the end exclusive; further label,
    difficult (1 or 0), width and height (of the image), if they are there.

    Raises:
        ValueError: for a file without these columns.
    """
    rows = list(_rows(file))
    missing = [name for name in COLUMNS if rows and name not in rows[0]]
    if missing or not rows:
        what = f"has no column {', '.join(missing)}" if missing else "has no rows"
        raise ValueError(f"{str(file)!r} {what}: a table of boxes has {', '.join(COLUMNS)}")
    by_image: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_image[str(row["image_id"])].append(row)
    return {image_id: _annotation(image_id, each) for image_id, each in by_image.items()}


def _rows(file: Path) -> Iterable[Row]:
    try:
        if file.suffix == ".parquet":
            import pyarrow.parquet as pq

            yield from pq.read_table(file).to_pylist()
        else:
            with file.open(newline="") as text:
                yield from csv.DictReader(text)
    except (ValueError, csv.Error) as error:  # Arrow's are ValueErrors too
        raise ValueError(f"{str(file)!r} cannot be read as a table: {error}") from None


def _annotation(image_id: str, rows: Iterable[Row]) -> Annotation:
    try:
        regions = []
        size: Size | None = None
        for row in rows:
            size = _size(row) or size
            edges = [_number(row[name], name) for name in COLUMNS[1:]]
            is_difficult = str(row.get("difficult") or "").strip().lower() in ("1", "true")
            regions.append(Region(str(row.get("label") or ""), check_box(edges, size), None, is_difficult))
        return Annotation(image_id, tuple(regions), size)
    except ValueError as error:
        return Annotation(image_id, (), None, f"the annotation cannot be read: {error}")


def _size(row: Row) -> Size | None:
    if not row.get("width") or not row.get("height"):
        return None
    return int(_number(row["height"], "height")), int(_number(row["width"], "width"))


def _number(value: object, name: str) -> float:
    try:
        number = float(str(value))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} must be a number, got {value!r}")
    return number
