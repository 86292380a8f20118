"""What a map marks, as masks and boxes."""

from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# What a threshold is a share of: the map's maximum, as in the papers of CAM and Grad-CAM, or its range.
Scale: TypeAlias = Literal["maximum", "range"]
Mask: TypeAlias = npt.NDArray[np.bool_]
_TOUCHING = np.ones((3, 3), np.int8)  # diagonal neighbours belong together


def above(maps: Tensor, threshold: float, scale: Scale, axes: int) -> Tensor:
    """Return where maps are above a share of their maximum or range; nowhere in a constant or negative map.

    Args:
        maps: (..., *S), not scaled.
        threshold: the share, in [0, 1).
        scale: of what.
        axes: in S.

    Raises:
        ValueError: for another share or scale.
    """
    if not 0 <= threshold < 1 or scale not in get_args(Scale):
        raise ValueError(
            f"`threshold` must lie in [0, 1) and `scale` be one of {', '.join(get_args(Scale))}, "
            f"got {threshold!r} and {scale!r}"
        )
    flat = maps.flatten(-axes)
    low, high = (each[(..., *[None] * axes)] for each in (flat.amin(-1), flat.amax(-1)))
    limit = threshold * high if scale == "maximum" else low + threshold * (high - low)
    return (maps > limit) & (high > low) & ((high > 0) | (scale == "range"))


def component_boxes(mask: Mask, largest_only: bool) -> Tensor:
    """Return the boxes (M, 4) around the connected parts of a mask (H, W).

    Args:
        mask: whose pixels belong together where they touch, at corners too.
        largest_only: return the box of the part with most pixels alone, the first of equal ones.

    Returns:
        Left, top, right, bottom in pixels, the end exclusive, float64; the parts with more pixels first.

    Raises:
        ImportError: without SciPy.
    """
    try:
        from scipy import ndimage
    except ImportError:
        raise ImportError('boxes of maps need SciPy: pip install "fastcam[evaluate]"') from None
    labels, count = ndimage.label(mask, _TOUCHING)
    if not count:
        return torch.empty(0, 4, dtype=torch.float64)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    order = np.argsort(-sizes, kind="stable")[: 1 if largest_only else count]
    places = ndimage.find_objects(labels)
    return torch.tensor(
        [
            [float(edge) for edge in (columns.start, rows.start, columns.stop, rows.stop)]
            for rows, columns in (places[index] for index in order)
        ],
        dtype=torch.float64,
    )


def intersection_over_union(boxes: Tensor, others: Tensor) -> Tensor:
    """Return (M, L), the shares of common area of boxes (M, 4) and (L, 4)."""
    start = torch.maximum(boxes[:, None, :2], others[:, :2])
    stop = torch.minimum(boxes[:, None, 2:], others[:, 2:])
    common = (stop - start).clamp(min=0).prod(-1)
    areas = [(each[:, 2:] - each[:, :2]).prod(-1) for each in (boxes, others)]
    return common / (areas[0][:, None] + areas[1] - common)
