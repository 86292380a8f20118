"""Localisation: whether a map marks the objects, as annotations have them. No model is run.

An image without an object has no value (NaN); a map that shows nothing is a miss.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastcam.evaluate.case import Case
from fastcam.evaluate.registry import Outcome, measure
from fastcam.foreground import Scale, above, component_boxes, intersection_over_union

THRESHOLDS = tuple(index / 100 for index in range(100))


@measure(
    "pointing_game",
    needs=("masks",),
    formula="1 if the highest position is less than the tolerance from an object, else 0",
    paper="arXiv:1608.00507",
)
def pointing_game(case: Case, *, tolerance: float = 15) -> Outcome:
    """Whether the highest position of the map lies on an object, or near it.

    Args:
        case: the maps and objects.
        tolerance: in pixels of the map; 0 counts positions on the object alone. Of several highest positions all must
            hit.
    """
    if not tolerance >= 0:
        raise ValueError(f"`tolerance` must be a number of pixels from 0 on, got {tolerance!r}")
    near = case.objects if tolerance == 0 else _near(case.objects, tolerance)
    flat = case.maps.masked_fill(~case.is_counted, -1).flatten(1)
    is_highest = flat == flat.amax(1, keepdim=True)
    hits = (near.flatten(1) | ~is_highest).all(1) & ~case.is_constant
    return _where_object(case, hits.float())


@measure(
    "energy_pointing_game",
    needs=("masks",),
    formula="sum of the map on objects / sum of the map, scaled to [0, 1]",
    paper="arXiv:1910.01279",
)
def energy_pointing_game(case: Case) -> Outcome:
    """Share of the map's sum that lies on objects."""
    inside, whole = _sum(case.maps * case.objects), _sum(case.maps * case.is_counted)
    return _where_object(case, inside / whole.where(whole > 0, 1))


@measure(
    "rank_accuracy",
    needs=("masks",),
    formula="share of the |S| highest positions that lie on the objects S",
    paper="arXiv:2003.07258",
)
def rank_accuracy(case: Case) -> Outcome:
    """Share of the highest positions, as many as the objects have, that lie on the objects."""
    low = torch.where(case.is_counted, case.ranks, case.positions).flatten(1)
    order = low.argsort(1).argsort(1)  # ranks among the positions that count
    objects = case.objects.flatten(1)
    count = objects.sum(1, keepdim=True)
    found = (objects & (order < count)).sum(1).double() / count[:, 0].clamp(min=1)
    return _where_object(case, found.masked_fill(case.is_constant, 0))


@measure(
    "mask_iou",
    needs=("masks",),
    formula="|M and S| / |M or S|, for M = map > threshold of its maximum (or range) and the objects S",
    paper="arXiv:1512.04150",
)
def mask_iou(case: Case, *, threshold: float = 0.2, scale: Scale = "maximum") -> Outcome:
    """Intersection over union of what the map marks with the objects.

    Args:
        case: the maps and objects.
        threshold: above which the map marks: CAM takes 0.2, Grad-CAM 0.15.
        scale: of what the threshold is a share: the "maximum" of the map before scaling, or its "range".
    """
    marked = above(case.raw, threshold, scale, len(case.size)) & case.is_counted
    return _where_object(case, _sum(marked & case.objects) / _sum(marked | case.objects).clamp(min=1))


@measure(
    "box_iou",
    needs=("boxes",),
    formula="highest IoU of the box around the largest part of map > threshold of its maximum with an object's box",
    paper="arXiv:1512.04150",
)
def box_iou(case: Case, *, threshold: float = 0.2, scale: Scale = "maximum", largest_only: bool = True) -> Outcome:
    """Intersection over union of the map's box with the best fitting box of an object.

    Args:
        case: the maps and boxes.
        threshold: as for ``mask_iou``.
        scale: as for ``mask_iou``.
        largest_only: take the box around the largest connected part; else the best of all parts.
    """
    return _best_ious(case, [threshold], scale, largest_only)[:, 0]


@measure(
    "localisation_accuracy",
    needs=("boxes",),
    formula="1 if box_iou >= iou, else 0: the known-class localisation accuracy of ILSVRC, 1 - error",
    paper="arXiv:1512.04150",
)
def localisation_accuracy(
    case: Case,
    *,
    threshold: float = 0.2,
    scale: Scale = "maximum",
    largest_only: bool = True,
    iou: float = 0.5,
) -> Outcome:
    """Whether the map's box fits that of an object; the arguments are those of ``box_iou``, and the least IoU."""
    ious = _best_ious(case, [threshold], scale, largest_only)[:, 0]
    return torch.where(ious.isnan(), ious, (ious >= iou).to(ious))


def _pool_box_accuracy(details: dict[str, Tensor]) -> Tensor:
    """Return the mean over IoUs of the highest share of hits that one threshold reaches for all images."""
    shares = [hits[~hits.isnan().any(1)].double().mean(0).amax() for hits in details.values()]
    return torch.stack(shares).mean()


@measure(
    "max_box_accuracy",
    needs=("boxes",),
    formula="mean over IoUs of max over thresholds t of the share of images with an IoU that high of a box at t",
    pool=_pool_box_accuracy,
    paper="arXiv:2007.04178",
)
def max_box_accuracy(
    case: Case,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    scale: Scale = "range",
    largest_only: bool = False,
    ious: Sequence[float] = (0.3, 0.5, 0.7),
) -> Outcome:
    """MaxBoxAccV2: localisation at the best threshold of the whole dataset; the mean pools all images.

    ``largest_only=True, ious=[0.5]`` is the first version (arXiv:2001.07437).

    Args:
        case: the maps and boxes.
        thresholds: tried.
        scale: as for ``mask_iou``.
        largest_only: as for ``box_iou``.
        ious: an image is a hit from that IoU on.

    Returns:
        For every image the mean over ``ious`` of whether any threshold hits, which no dataset's number exceeds, and
        "hits at 0.5" (R, thresholds) and so on.
    """
    best = _best_ious(case, thresholds, scale, largest_only)
    hits = {f"hits at {iou:g}": torch.where(best.isnan(), best, (best >= iou).to(best)) for iou in ious}
    return torch.stack([each.amax(1) for each in hits.values()]).mean(0), hits


def _pool_precision(details: dict[str, Tensor]) -> Tensor:
    """Return the average precision of the pixels of all images together."""
    defined = ~details["objects"].isnan().any(1)
    objects, marked = (details[name][defined].double().sum(0) for name in ("objects", "marked"))
    return _average_precision(objects, marked)


@measure(
    "pixel_average_precision",
    needs=("masks",),
    formula="sum over thresholds t of precision(t) (recall(t) - recall(next t)), of the map scaled to [0, 1]",
    pool=_pool_precision,
    paper="arXiv:2001.07437",
)
def pixel_average_precision(case: Case, *, thresholds: int = 1000) -> Outcome:
    """PxAP: area under precision and recall of the pixels; the mean pools the pixels of all images.

    Args:
        case: the maps and objects.
        thresholds: number of equal steps of the map's values.

    Returns:
        The value of every image alone, and "objects" and "marked" (R, thresholds + 1), the numbers of pixels at or
        above each threshold that are of an object, and all of them.
    """
    bins = (case.maps.flatten(1) * thresholds).long().clamp(0, thresholds)
    counts = []
    for chosen in (case.objects, case.is_counted):
        histogram = torch.zeros(len(bins), thresholds + 1, dtype=torch.float64, device=bins.device)
        histogram.scatter_add_(1, bins, chosen.flatten(1).double())
        counts.append(_where_object(case, histogram.flip(1).cumsum(1).flip(1)))
    objects, marked = counts
    return _where_object(case, _average_precision(objects, marked)), {"objects": objects, "marked": marked}


def _average_precision(objects: Tensor, marked: Tensor) -> Tensor:
    """Return (...,) from the numbers (..., T) of pixels from each threshold on, of objects and of all."""
    recall = objects / objects[..., :1]
    precision = objects / marked.clamp(min=1)
    steps = recall - F.pad(recall[..., 1:], (0, 1))
    return (precision * steps).sum(-1)


def _best_ious(case: Case, thresholds: Sequence[float], scale: Scale, largest_only: bool) -> Tensor:
    """Return (R, thresholds), the best IoU of a box of the map with one of an object; NaN without an object."""
    if len(case.size) != 2:
        raise ValueError(f"boxes are for maps of two axes, got {case.size}")
    best = torch.full((len(case.maps), len(thresholds)), torch.nan, dtype=torch.float64)
    masks = [above(case.raw, threshold, scale, 2).cpu().numpy() for threshold in thresholds]
    for row, boxes in enumerate(case.batch.boxes or ()):
        for column, marked in enumerate(masks if len(boxes) else ()):
            found = component_boxes(marked[row], largest_only)
            best[row, column] = intersection_over_union(found, boxes).amax() if len(found) else 0
    return best.to(case.maps.device)


def _near(masks: Tensor, tolerance: float) -> Tensor:
    """Return (R, H, W) bool, positions less than so many pixels from a mask."""
    if masks.dim() != 3:
        raise ValueError(f"a tolerance is for maps of two axes, got {tuple(masks.shape[1:])}: pass tolerance=0")
    reach = int(tolerance)
    offsets = torch.arange(-reach, reach + 1, device=masks.device)
    disc = (offsets[:, None] ** 2 + offsets**2) < tolerance**2
    return F.conv2d(masks[:, None].float(), disc[None, None].float(), padding=reach)[:, 0] > 0.5


def _sum(values: Tensor) -> Tensor:
    return values.flatten(1).double().sum(1)


def _where_object(case: Case, values: Tensor) -> Tensor:
    """Return values (R, ...), NaN where there is no object."""
    return torch.where(case.has_object.reshape(-1, *[1] * (values.dim() - 1)), values, torch.nan)
