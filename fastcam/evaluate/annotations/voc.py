"""Annotations in the XML of Pascal VOC, which ILSVRC has too: a file an image."""

from pathlib import Path
from xml.etree import ElementTree

from fastcam.evaluate.annotations.regions import Annotation, Region, Size, check_box

MAX_BYTES = 2**22


def read(file: Path, image_id: str, one_based: bool = True) -> Annotation:
    """Return the objects of one file.

    Args:
        file: the XML.
        image_id: of the image.
        one_based: whether pixels are counted from 1, and the last one is inside the box, as in Pascal VOC; else boxes
            are taken as they are, the end exclusive.

    Raises:
        ValueError: for a file that is no such annotation.
    """
    text = file.read_bytes()
    if len(text) > MAX_BYTES or b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise ValueError("it is too large, or defines entities, which annotations have no need of")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"it is no XML: {error}") from None
    size = _size(root)
    return Annotation(image_id, tuple(_region(each, size, one_based) for each in root.findall("object")), size)


def _size(root: ElementTree.Element) -> Size | None:
    width, height = root.findtext("size/width"), root.findtext("size/height")
    if width is None or height is None or int(width) <= 0 or int(height) <= 0:
        return None
    return int(height), int(width)


def _region(element: ElementTree.Element, size: Size | None, one_based: bool) -> Region:
    edges = [element.findtext(f"bndbox/{name}") for name in ("xmin", "ymin", "xmax", "ymax")]
    if any(edge is None for edge in edges):
        raise ValueError("an object has no bndbox with xmin, ymin, xmax and ymax")
    left, top, right, bottom = (float(edge or "") for edge in edges)
    shift = 1 if one_based else 0
    box = check_box((left - shift, top - shift, right, bottom), size)
    return Region(element.findtext("name") or "", box, None, (element.findtext("difficult") or "0").strip() == "1")
