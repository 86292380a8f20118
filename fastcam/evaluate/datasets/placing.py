"""Annotations at the place where the model sees the image: in pixels of its input."""

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fastcam.classifiers.preprocessing import Preprocessing
from fastcam.evaluate.annotations import Annotation, Region
from fastcam.evaluate.objects import box_around

Crop = tuple[float, float, float, float]  # left, top, right, bottom of the input in pixels of the photograph


@dataclass(frozen=True)
class Objects:
    """The objects of one image, in pixels of the model's input.

    Attributes:
        mask: (H, W) bool.
        ignored: (H, W) bool, neither object nor background: void, and objects that are difficult.
        boxes: (M, 4) float64 of the others, which may reach beyond the input: the model need not see all of an object.
        reason: why there is no object.
        other_classes: labels in the image whose objects are background here.
    """

    mask: Tensor
    ignored: Tensor
    boxes: Tensor
    reason: str = ""
    other_classes: int = 0


def place(
    annotation: Annotation,
    photograph: tuple[int, int] | None,
    preprocessing: Preprocessing,
    size: tuple[int, int],
    labels: Collection[str] | None = None,
) -> Objects:
    """Return the objects of an image as the model sees it.

    Args:
        annotation: in pixels of the photograph.
        photograph: its (height, width); None for samples that are the model's input already.
        preprocessing: that made the input from the photograph.
        size: (height, width) of the input.
        labels: of the objects that count; None for all. Others are background.
    """
    nothing = torch.zeros(size, dtype=torch.bool)
    none = Objects(nothing, nothing, torch.empty(0, 4, dtype=torch.float64), annotation.reason or "no object")
    if not annotation.regions:
        return none
    if labels is not None:
        chosen = tuple(region for region in annotation.regions if region.label in labels)
        if not chosen:
            return replace(none, reason="no object of the class")
        annotation = replace(annotation, regions=chosen)
    whole = photograph or size
    if annotation.size not in (None, whole):
        theirs = f"{annotation.size[1]} x {annotation.size[0]}" if annotation.size else ""
        return Objects(
            *(none.mask, none.ignored, none.boxes),
            f"the annotation is of an image of {theirs} pixels, this one has {whole[1]} x {whole[0]}",
        )
    crop = (0.0, 0.0, float(size[1]), float(size[0]))
    if photograph is not None:
        crop = preprocessing.box((photograph[1], photograph[0]))
    objects = [region for region in annotation.regions if not region.is_difficult]
    try:
        seen = _seen(annotation.mask(whole, objects), crop, size)
        ignored = (
            _seen(annotation.mask(whole) if annotation.void is None else annotation.void(whole), crop, size) & ~seen
        )
        if annotation.void is not None:
            ignored |= _seen(annotation.mask(whole), crop, size) & ~seen
        boxes = [box for region in objects for box in _boxes(region, whole)]
    except ValueError as error:
        return Objects(none.mask, none.ignored, none.boxes, str(error))
    reason = "" if seen.any() else "no object" if not objects else "no object in what the model sees"
    return Objects(seen, ignored, _scaled(boxes, crop, size), reason)


def _seen(mask: np.ndarray, crop: Crop, size: tuple[int, int]) -> Tensor:
    """Return what a mask of the photograph has at the centres of the input's pixels; nothing outside of it."""
    left, top, right, bottom = crop
    rows = np.floor(top + (np.arange(size[0]) + 0.5) * (bottom - top) / size[0]).astype(int)
    columns = np.floor(left + (np.arange(size[1]) + 0.5) * (right - left) / size[1]).astype(int)
    inside = ((rows >= 0) & (rows < mask.shape[0]))[:, None] & ((columns >= 0) & (columns < mask.shape[1]))
    rows, columns = rows.clip(0, mask.shape[0] - 1), columns.clip(0, mask.shape[1] - 1)
    return torch.from_numpy(mask[rows[:, None], columns] & inside)


def _boxes(region: Region, size: tuple[int, int]) -> list[list[float]]:
    if region.box is not None:
        return [list(region.box)]
    found: list[list[float]] = box_around(torch.from_numpy(region.mask(size))).tolist()
    return found


def _scaled(boxes: list[list[float]], crop: Crop, size: tuple[int, int]) -> Tensor:
    """Return boxes of the photograph in pixels of the input."""
    left, top, right, bottom = crop
    start = torch.tensor([left, top, left, top], dtype=torch.float64)
    scale = torch.tensor([size[1] / (right - left), size[0] / (bottom - top)], dtype=torch.float64).repeat(2)
    return (torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4) - start) * scale
