"""The objects of an image as masks and boxes, one for every map."""

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from fastcam.explanation import Explanation

Boxes: TypeAlias = Sequence[Tensor] | Sequence[Sequence[Tensor]]


def masks_of_rows(masks: Tensor | None, boxes: Boxes | None, explanation: Explanation) -> Tensor:
    """Return masks (R, *S) bool from masks (N, [K,] *S), or else from filled boxes.

    Raises:
        TypeError, ValueError: if neither is given, or the shapes do not fit the explanation.
    """
    shape, size = tuple(explanation.scores.shape), explanation.size
    if masks is None:
        if boxes is None:
            raise ValueError("this measure compares maps with objects: pass `masks` (N, *S) bool, or `boxes`")
        return torch.stack([fill(each, size) for each in check_boxes(boxes, shape)]).to(explanation.native.device)
    if not isinstance(masks, Tensor) or masks.dtype != torch.bool:
        kind = masks.dtype if isinstance(masks, Tensor) else type(masks).__name__
        raise TypeError(f"masks must be a bool tensor (N, *S), got {kind}")
    if tuple(masks.shape) not in ((shape[0], *size), (*shape, *size)):
        raise ValueError(f"masks must have shape {(shape[0], *size)}, one for each image, got {tuple(masks.shape)}")
    return (_expand(masks, shape) if masks.dim() == 1 + len(size) else masks.flatten(0, len(shape) - 1)).to(
        explanation.native.device
    )


def boxes_of_rows(masks: Tensor | None, boxes: Boxes | None, explanation: Explanation) -> list[Tensor]:
    """Return for every map the boxes (M, 4) of the objects; of a mask the box around it, none for an empty one."""
    if boxes is not None:
        return check_boxes(boxes, tuple(explanation.scores.shape))
    return [box_around(mask) for mask in masks_of_rows(masks, None, explanation).cpu()]


def check_boxes(boxes: Boxes, shape: tuple[int, ...]) -> list[Tensor]:
    """Return boxes (M, 4) float64 on the CPU for every image and target, R of them.

    Args:
        boxes: for every image a tensor (M, 4), or one for each of its K targets.
        shape: (N,) or (N, K).

    Raises:
        TypeError, ValueError: for anything else, or a box that ends before it begins.
    """
    if isinstance(boxes, Tensor) and boxes.dim() == 2:
        boxes = [each[None] for each in boxes]
    if len(boxes) != shape[0]:
        raise ValueError(f"`boxes` must hold a tensor (M, 4) for each of {shape[0]} images, got {len(boxes)}")
    targets = 1 if len(shape) == 1 else shape[1]
    by_row = [each for of_image in boxes for each in _by_target(of_image, targets)]
    tensors = [torch.as_tensor(each).double().cpu().reshape(-1, 4) for each in by_row]
    for each in tensors:
        if not each.isfinite().all() or (each[:, 2:] <= each[:, :2]).any():
            raise ValueError(
                f"a box is left, top, right, bottom with left < right and top < bottom, got {each.tolist()}"
            )
    return tensors


def _by_target(boxes: Tensor | Sequence[Tensor], targets: int) -> Sequence[Tensor]:
    """Return the boxes of one image for each target.

    Raises:
        ValueError: for another number of targets.
    """
    if isinstance(boxes, Tensor) or not all(isinstance(each, Tensor) for each in boxes):
        return [torch.as_tensor(boxes)] * targets
    if len(boxes) != targets:
        raise ValueError(f"`boxes` must hold a tensor (M, 4) for each of {targets} targets, got {len(boxes)}")
    return boxes


def fill(boxes: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return (H, W) bool, the pixels whose centre lies in any of the boxes (M, 4).

    Raises:
        ValueError: for maps without two axes.
    """
    if len(size) != 2:
        raise ValueError(f"boxes are for maps of two axes, got {size}; pass masks")
    rows, columns = (torch.arange(length) + 0.5 for length in size)
    inside = torch.zeros(size, dtype=torch.bool)
    for left, top, right, bottom in boxes.tolist():
        inside |= ((rows >= top) & (rows < bottom))[:, None] & ((columns >= left) & (columns < right))
    return inside


def box_around(mask: Tensor) -> Tensor:
    """Return the box (1, 4) around the pixels of a mask (H, W), (0, 4) around none."""
    rows, columns = (mask.any(axis).nonzero()[:, 0] for axis in (1, 0))
    if not len(rows):
        return torch.empty(0, 4, dtype=torch.float64)
    ends = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    return torch.tensor([[float(end) for end in ends]], dtype=torch.float64)


def _expand(masks: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return masks (N, *S) for every target: (R, *S)."""
    return masks if len(shape) == 1 else masks.repeat_interleave(shape[1], 0)
