"""The candidate boxes of detectors, read from what they return."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fastcam.model.elements import ModelOutput
from fastcam.targets.binding import describe_value

# Detectors of Hugging Face whose classes exclude each other, and whose last class is that there is no object.
_WITH_NO_OBJECT = ("Detr", "Yolos", "TableTransformer")
_COORDINATES = 4


@dataclass(frozen=True)
class Candidates:
    """The D candidate boxes of one image.

    Attributes:
        boxes: (D, 4), x1, y1, x2, y2, in pixels of the input or as shares of its width and height; without a graph.
        confidences: (D, C), from 0 to 1, of every class; of a detector that tells one class of each box (D, 1).
        scores: (D, C), what is explained: the logits where there are any, else the confidences.
        labels: (D,) of a detector that tells one class of each box; None where the columns are the classes.
        objectness: (D,), from 0 to 1.
        are_final: whether the detector has left out what overlaps already.
        are_shares: whether boxes are shares of the image.
        masks: (D, h, w), from 0 to 1, of detectors that segment what they find; None otherwise.
        keypoints: (D, J), the scores of a detection's keypoints; None of other detectors.
    """

    boxes: Tensor
    confidences: Tensor
    scores: Tensor
    labels: Tensor | None
    objectness: Tensor
    are_final: bool
    are_shares: bool = False
    masks: Tensor | None = None
    keypoints: Tensor | None = None

    def best(self) -> tuple[Tensor, Tensor]:
        """Return the highest confidence (D,) of every box, and its class (D,)."""
        confidences = (self.confidences * self.objectness.unsqueeze(1)).detach()
        if self.labels is not None:
            return confidences[:, 0], self.labels
        if not len(confidences):
            return confidences.new_zeros(0), torch.zeros(0, dtype=torch.int64, device=confidences.device)
        values, classes = confidences.max(1)
        return values, classes

    def of_class(self, label: int, values: Tensor) -> Tensor:
        """Return entries (D,) of (D, C) values for a class; -inf for boxes of another class."""
        if self.labels is None:
            if not 0 <= label < values.shape[1]:
                raise ValueError(f"the detector has classes 0 to {values.shape[1] - 1}, got {label}")
            return values[:, label]
        return values[:, 0].where(self.labels == label, -torch.inf)


def read_candidates(output: ModelOutput, count: int) -> list[Candidates]:
    """Return the candidates of each of N images.

    Known are:

    - torchvision's: a list of dicts with ``boxes``, ``labels`` and ``scores``, perhaps ``masks`` and
      ``keypoints_scores``;
    - Hugging Face's: ``logits`` and ``pred_boxes``, perhaps ``pred_masks``; of segmenters by queries
      ``class_queries_logits`` and ``masks_queries_logits``, with boxes around the masks;
    - YOLO-NAS' boxes and scores, in evaluation mode;
    - ultralytics' (N, 4 + C, D), or with an objectness (N, D, 5 + C), alone or first in a tuple, boxes as middle and
      size.

    Args:
        output: of the detector.
        count: N.

    Raises:
        TypeError: for another output.
    """
    if isinstance(output, Sequence) and output and all(isinstance(each, Mapping) for each in output):
        return [_of_dict(each) for each in output]
    if all(isinstance(getattr(output, name, None), Tensor) for name in ("logits", "pred_boxes")):
        return _of_queries(output)
    if all(
        isinstance(getattr(output, name, None), Tensor) for name in ("class_queries_logits", "masks_queries_logits")
    ):
        return _of_mask_queries(output)
    tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    if len(tensors) > 1 and _are_boxes_and_scores(tensors[0], tensors[1], count):
        return [_of_dense(boxes, scores) for boxes, scores in zip(tensors[0], tensors[1], strict=True)]
    if tensors and tensors[0].dim() == 3 and len(tensors[0]) == count and min(tensors[0].shape[1:]) > _COORDINATES:
        return _of_rows(tensors[0])
    raise TypeError(
        "detections are read from a list of dicts with `boxes`, `labels` and `scores`, an output with `logits` and "
        f"`pred_boxes`, boxes and scores, or a tensor (N, 4 + classes, boxes); got {describe_value(output)}"
    )


def _of_dict(found: Mapping[str, Tensor]) -> Candidates:
    for name in ("boxes", "labels", "scores"):
        if name not in found:
            raise TypeError(f"a dict of detections must have {name!r}, got {', '.join(map(repr, found))}")
    scores = found["scores"].unsqueeze(1)
    ones = torch.ones_like(found["scores"])
    masks = found["masks"].flatten(0, -3) if "masks" in found else None  # (D, 1, H, W)
    return Candidates(
        found["boxes"].detach(),
        scores,
        scores,
        found["labels"],
        ones,
        are_final=True,
        masks=masks,
        keypoints=found.get("keypoints_scores"),
    )


def _of_queries(output: Any) -> list[Candidates]:
    """Return the queries of Hugging Face's detectors; boxes are shares of the image."""
    logits, boxes = output.logits, _corners(output.pred_boxes.detach())
    if type(output).__name__.startswith(_WITH_NO_OBJECT):
        confidences, logits = logits.softmax(-1)[..., :-1], logits[..., :-1]
    else:
        confidences = logits.sigmoid()
    masks = getattr(output, "pred_masks", None)
    return _of_each_query(boxes, confidences, logits, None if masks is None else masks.sigmoid())


def _of_mask_queries(output: Any) -> list[Candidates]:
    """Return the queries of MaskFormer's kind; their boxes, shares of the image, lie around the masks."""
    masks, logits = output.masks_queries_logits.sigmoid(), output.class_queries_logits
    return _of_each_query(_around(masks.detach()), logits.softmax(-1)[..., :-1], logits[..., :-1], masks)


def _of_each_query(boxes: Tensor, confidences: Tensor, logits: Tensor, masks: Tensor | None) -> list[Candidates]:
    return [
        Candidates(
            boxes[row],
            confidences[row],
            logits[row],
            None,
            torch.ones_like(logits[row, :, 0]),
            are_final=False,
            are_shares=True,
            masks=None if masks is None else masks[row],
        )
        for row in range(len(boxes))
    ]


def _around(masks: Tensor) -> Tensor:
    """Return the boxes (..., 4), as shares of the image, around masks (..., h, w) above 0.5; 0 without any."""
    inside = masks > 0.5
    edges = []
    for axis in (-2, -1):
        seen = inside.any(axis)  # along the columns, then along the rows
        places = torch.arange(seen.shape[-1], device=masks.device)
        first = places.where(seen, seen.shape[-1]).amin(-1)
        last = (places + 1).where(seen, 0).amax(-1)
        edges.append((first.where(last > 0, 0) / seen.shape[-1], last / seen.shape[-1]))
    (left, right), (top, bottom) = edges
    return torch.stack([left, top, right, bottom], -1).to(masks.dtype)


def _are_boxes_and_scores(boxes: Tensor, scores: Tensor, count: int) -> bool:
    same = boxes.dim() == scores.dim() == 3 and boxes.shape[:2] == scores.shape[:2] and len(boxes) == count
    return same and boxes.shape[2] == _COORDINATES


def _of_dense(boxes: Tensor, scores: Tensor) -> Candidates:
    return Candidates(boxes.detach(), scores, scores, None, torch.ones_like(scores[:, 0]), are_final=False)


def _of_rows(output: Tensor) -> list[Candidates]:
    """Return candidates whose rows, or columns, hold middle, size, perhaps the objectness, and the classes."""
    if output.shape[1] < output.shape[2]:
        rows = output.transpose(1, 2)
        found = [(_corners(each[:, :4].detach()), each[:, 4:], torch.ones_like(each[:, 0])) for each in rows]
    else:
        found = [(_corners(each[:, :4].detach()), each[:, 5:], each[:, 4]) for each in output]
    return [Candidates(boxes, scores, scores, None, objectness, are_final=False) for boxes, scores, objectness in found]


def _corners(boxes: Tensor) -> Tensor:
    middle, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([middle - size / 2, middle + size / 2], -1)


def zero_of(scores: Tensor) -> Tensor:
    """Return zeros that are functions of the image still, with a gradient of zero; NaN where a score is.

    Detectors of what texts name fill up their scores with -inf.
    """
    return scores.masked_fill(scores.isinf(), 0) * 0


def suppressed(boxes: Tensor, order: Tensor, labels: Tensor, overlap: float, most: int) -> list[int]:
    """Return the first so many boxes, in order, that overlap no more than that with an earlier one of their class."""
    left: list[int] = []
    for place in order.tolist():
        if len(left) == most:
            break
        earlier = [kept for kept in left if labels[kept] == labels[place]]
        if not earlier or bool((overlaps(boxes[earlier], boxes[place : place + 1]) <= overlap).all()):
            left.append(place)
    return left


def overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the intersections over unions (D, E) of boxes (D, 4) and (E, 4); 0 for boxes without area."""
    corner = torch.minimum(boxes[:, None, 2:], others[None, :, 2:]) - torch.maximum(
        boxes[:, None, :2], others[None, :, :2]
    )
    shared = corner.clamp(min=0).prod(-1)
    areas = [(each[:, 2:] - each[:, :2]).clamp(min=0).prod(1) for each in (boxes, others)]
    union = areas[0][:, None] + areas[1][None] - shared
    return shared / union.where(union > 0, 1)
