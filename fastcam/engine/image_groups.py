"""Splits large batches into groups of the fastest size, and joins the groups' explanations."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from fastcam import targets
from fastcam.engine.assembly import Explanations
from fastcam.engine.notes import Notes
from fastcam.explanation import Explanation
from fastcam.model import capture, memory
from fastcam.model.elements import ModelOutput
from fastcam.model.inputs import Inputs
from fastcam.model.out_of_memory import is_out_of_memory

T = TypeVar("T")

# Larger groups fall out of the CPU caches; 8 images of 224 x 224 are fastest per image.
CPU_GROUP_SIZE, CPU_COPIES, USUAL_IMAGE_SIZE = 8, 16, 3 * 224 * 224


def usual_size(images: Tensor) -> int:
    """Return the group size that suits the images' device, for models without a measured one."""
    count = len(images)
    if images.device.type != "cpu":
        return count
    return max(1, CPU_GROUP_SIZE * USUAL_IMAGE_SIZE * count // images.numel())


def usual_copies(images: Tensor) -> int | None:
    """Return how many copies at a time suit a processor, fewer of large images; None on other devices."""
    if images.device.type != "cpu":
        return None
    return max(1, min(CPU_COPIES, CPU_COPIES * USUAL_IMAGE_SIZE * len(images) // images.numel()))


def is_divisible(target: targets.Target, count: int) -> bool:
    """Whether a target for ``count`` images can be split by image."""
    if isinstance(target, list | tuple):
        return len(target) == count and not any(map(callable, target))
    if isinstance(target, Tensor | np.ndarray):
        return target.ndim == 0 or len(target) == count
    return target is None or isinstance(target, int | str)


def part_of(inputs: Inputs, target: targets.Target, images: range) -> tuple[Inputs, targets.Target]:
    """Return some of the images with their targets."""
    rows = torch.arange(images.start, images.stop)
    part = inputs.with_copies(inputs.images[images.start : images.stop], rows)
    if isinstance(target, list | tuple) or (isinstance(target, Tensor | np.ndarray) and target.ndim > 0):
        return part, cast("targets.Target", target[images.start : images.stop])
    return part, target


def target_of(target: targets.Target, count: int, index: int) -> targets.Target:
    """Return the target of one of several images: its row of a target with a row per image."""
    if isinstance(target, Tensor | np.ndarray) and target.ndim > 0 and len(target) == count:
        return cast("targets.Target", target[index : index + 1])
    if isinstance(target, list | tuple) and len(target) == count:
        return cast("targets.Target", list(target[index : index + 1]))
    return target


def is_joinable(output: ModelOutput, count: int) -> bool:
    """Whether every leaf of an output has a row per image."""
    return all(isinstance(leaf, Tensor) and leaf.dim() > 0 and len(leaf) == count for leaf in tree_leaves(output))


def has_row_per_image(model: nn.Module, inputs: Inputs, notes: Notes) -> bool:
    """Whether the output for two images has two rows, which groups of one image cannot tell; found once per size."""
    known, key = memory.of(model), ("row per image", inputs.position, tuple(inputs.images.shape[1:]))
    if key not in known:
        try:
            known[key] = is_joinable(capture.forward(model, inputs.repeat_to(2).arguments).output, 2)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            notes.guess(
                "memory does not hold two images: each is taken for an input of its own, not for a frame of one"
            )
            return True
    return bool(known[key])


def join(parts: Sequence[Explanations], images: Tensor) -> Explanations:
    """Join the explanations of all groups, in order, into one of the same form.

    Args:
        parts: one per group, all of one form.
        images: (N, C, *S), all.
    """
    first = parts[0]
    if isinstance(first, Explanation):
        return _join(cast("Sequence[Explanation]", parts), images)
    groups = cast("Sequence[dict[str, Explanation]]", parts)
    return {name: _join([group[name] for group in groups], images) for name in groups[0]}


def _join(parts: Sequence[Explanation], images: Tensor) -> Explanation:
    names = [field.name for field in fields(Explanation) if field.name not in ("images", "method", "layer", "notes")]
    joined = {name: _join_values([getattr(part, name) for part in parts]) for name in names}
    whole = replace(parts[-1], images=images, **joined)
    if all("maps" in vars(part) for part in parts):  # a graph makes them too
        whole.__dict__["maps"] = torch.cat([part.maps for part in parts])
    return whole


def _join_values(values: Sequence[T]) -> T:
    first = values[0]
    if isinstance(first, Mapping) and not first:
        return first
    return tree_map(lambda *leaves: torch.cat(leaves) if isinstance(leaves[0], Tensor) else leaves[0], *values)
