"""Annotations in the JSON of COCO: one file for all images."""

import functools
import itertools
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fastcam.dataset.records import JsonObject
from fastcam.evaluate.annotations.regions import Annotation, Mask, Region, Size, check_box, check_size


def read(file: Path) -> dict[str, Annotation]:
    """Return the annotations of all images by file name; a broken one has a reason.

    Raises:
        ValueError: for a file that is no COCO JSON of instances.
    """
    try:
        content = json.loads(file.read_bytes())
        images = {image["id"]: image for image in content["images"]}
        names = {category["id"]: str(category["name"]) for category in content.get("categories", [])}
        objects: defaultdict[object, list[JsonObject]] = defaultdict(list)
        for each in content["annotations"]:
            objects[each["image_id"]].append(each)
        return {str(image["file_name"]): _annotation(image, objects[key], names) for key, image in images.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise ValueError(f"{str(file)!r} is no COCO JSON with images, annotations and categories ({what})") from None


def _annotation(image: JsonObject, objects: Sequence[JsonObject], names: Mapping[object, str]) -> Annotation:
    name, size = str(image["file_name"]), None
    if image.get("height") and image.get("width"):
        size = int(image["height"]), int(image["width"])
    try:
        return Annotation(name, tuple(_region(each, size, names) for each in objects), size)
    except (ValueError, KeyError, TypeError) as error:
        return Annotation(name, (), size, f"the annotation cannot be read: {error}")


def _region(each: JsonObject, size: Size | None, names: Mapping[object, str]) -> Region:
    category = each.get("category_id")
    label = names.get(category, "" if category is None else str(category))
    box = None
    if each.get("bbox"):
        left, top, width, height = (float(edge) for edge in each["bbox"])
        box = check_box((left, top, left + width, top + height), size)
    shape = each.get("segmentation")
    draw = functools.partial(_draw, shape) if shape else None
    if box is None and draw is None:
        raise ValueError("an object has neither bbox nor segmentation")
    return Region(label, box, draw, bool(each.get("iscrowd")))


def _draw(shape: Any, size: Size) -> Mask:
    """Return the mask of polygons, or of a run-length encoding."""
    if isinstance(shape, list):
        union = np.zeros(size, np.bool_)
        for polygon in shape:
            union |= _fill(np.asarray(polygon, np.float64).reshape(-1, 2), size)
        return union
    height, width = (int(side) for side in shape["size"])
    counts = shape["counts"]
    runs = np.asarray(decode_counts(counts) if isinstance(counts, str) else counts, np.int64)
    if runs.sum() != height * width or (runs < 0).any():
        raise ValueError(f"the runs of a mask hold {runs.sum()} pixels in place of {height} x {width}")
    values = np.arange(len(runs)) % 2 == 1
    return check_size(np.repeat(values, runs).reshape(width, height).T, size)


def _fill(corners: npt.NDArray[np.float64], size: Size) -> Mask:
    """Return the pixels whose centre is inside a polygon (P, 2), by the even-odd rule.

    So a polygon around a box has the pixels of the box; Pillow's have those of the outline too.
    """
    height, width = size
    crossed = np.zeros((height, width + 1), np.bool_)  # where a row enters the polygon, or leaves it
    for (x, y), (next_x, next_y) in itertools.pairwise([*corners, corners[0]]):
        low, high = np.clip(np.ceil(np.sort([y, next_y]) - 0.5), 0, height).astype(int)
        rows = np.arange(low, high)
        if len(rows):
            places = x + (rows + 0.5 - y) * (next_x - x) / (next_y - y)
            crossed[rows, np.clip(np.ceil(places - 0.5), 0, width).astype(int)] ^= True
    inside: Mask = np.logical_xor.accumulate(crossed, axis=1)[:, :width]
    return inside


def decode_counts(text: str) -> npt.NDArray[np.int64]:
    """Return the run lengths of COCO's compressed form.

    Each number is written in digits of 5 bits, the lowest first, plus 48 as a letter; 32 says that more follow, and the
    highest bit of the last digit is the sign. From the fourth on, numbers are differences from the one two before.
    """
    runs: list[int] = []
    value, shift = 0, 0
    for letter in text:
        digit = ord(letter) - 48
        value |= (digit & 31) << shift
        shift += 5
        if not digit & 32:
            if digit & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value, shift = 0, 0
    return np.array(runs, np.int64)
