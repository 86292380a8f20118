"""Annotations as pictures: a PNG an image."""

import functools
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from fastcam.evaluate.annotations.regions import Annotation, Mask, Region, Size, check_size

VOID = 255  # in segmentations: neither object nor background


def read(file: Path, image_id: str) -> Annotation:
    """Return the objects of one mask.

    A palette picture is a segmentation as in Pascal VOC: 0 is background, 255 is ignored, and other values are classes,
    whose label is the number. A grey, or black and white one has one object, everywhere but at 0.

    Raises:
        ValueError: for a file that is no such picture.
    """
    try:
        with Image.open(file) as picture:
            mode, values = picture.mode, np.array(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"this mask cannot be read: {error}") from None
    if mode not in ("1", "L", "P"):
        raise ValueError(f"a mask must be a grey or palette picture, got one of mode {mode}")
    size = values.shape[0], values.shape[1]
    if mode != "P":
        objects = values > 0
        whole = Region("", None, functools.partial(check_size, objects))
        return Annotation(image_id, (whole,) if objects.any() else (), size)
    labels = [int(value) for value in np.unique(values) if value not in (0, VOID)]
    void = functools.partial(_where, values, VOID) if (values == VOID).any() else None
    regions = tuple(Region(str(value), None, functools.partial(_where, values, value)) for value in labels)
    return Annotation(image_id, regions, size, void=void)


def _where(values: npt.NDArray[np.uint8], value: int, size: Size) -> Mask:
    return check_size(values == value, size)
