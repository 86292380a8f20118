"""Large batches in groups of the size that is fastest: the groups, and one explanation from theirs."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from fastcam import targets
from fastcam.explanation import Explanation
from fastcam.model.inputs import Inputs

# More than so many photographs of 224 x 224 at a time leave a processor's caches: 8 take the least time an image.
_PHOTOGRAPHS, _PHOTOGRAPH = 8, 3 * 224 * 224


def usual_size(images: Tensor) -> int:
    """The number of images at a time that suits their device where nothing was measured."""
    count = len(images)
    if images.device.type != "cpu":
        return count
    return max(1, _PHOTOGRAPHS * _PHOTOGRAPH * count // images.numel())


def is_divisible(target: targets.Target, count: int) -> bool:
    """Whether a target says for each of so many images, without the others, what to explain."""
    if isinstance(target, list | tuple):
        return len(target) == count and not any(callable(each) for each in target)
    if isinstance(target, Tensor | np.ndarray):
        return target.ndim == 0 or len(target) == count
    return target is None or isinstance(target, int | str)


def part_of(inputs: Inputs, target: targets.Target, images: range) -> tuple[Inputs, targets.Target]:
    """Some of the images with their targets."""
    rows = torch.arange(images.start, images.stop)
    found = inputs.with_copies(inputs.images[images.start : images.stop], rows)
    has_rows = isinstance(target, list | tuple) or (isinstance(target, Tensor | np.ndarray) and target.ndim > 0)
    return found, target[images.start : images.stop] if has_rows else target


def is_joinable(output: Any, count: int) -> bool:
    """Whether every leaf of an output has a row per image."""
    return all(isinstance(each, Tensor) and each.dim() > 0 and len(each) == count for each in tree_leaves(output))


def joined(parts: Sequence[Any], images: Tensor) -> Any:
    """One explanation, or dict of them, from those of the groups in order.

    Args:
        parts: what the groups gave, all alike.
        images: (N, C, *S), all.
    """
    first = parts[0]
    if isinstance(first, dict):
        return {key: joined([each[key] for each in parts], images) for key in first}
    values = {each.name: [getattr(part, each.name) for part in parts] for each in fields(Explanation)}
    together = {name: _together(each) for name, each in values.items() if name not in ("images", "method", "layer")}
    return replace(first, images=images, **together)


def _together(parts: Sequence[Any]) -> Any:
    first = parts[0]
    if isinstance(first, Mapping) and not first:
        return first
    return tree_map(lambda *leaves: torch.cat(leaves) if isinstance(leaves[0], Tensor) else leaves[0], *parts)
