"""The part of a model's output that is scored, where the user does not say."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fastcam.model.elements import ModelOutput, Select, pick
from fastcam.targets.binding import Score, Target
from fastcam.targets.tasks import Segmentation

# Mask2Former's and its kin's: every query has a class and a mask.
_CLASSES, _MASKS = "class_queries_logits", "masks_queries_logits"
# What models call the scores in an output of several parts: Hugging Face, and torchvision's segmentation models.
_NAMES = ("logits", "out", "logits_per_image")


def implied(output: ModelOutput, select: Select, target: Target) -> Select:
    """Return ``select``, or the only part of an output of several that can be meant by the target.

    Callables get the whole output, as do targets that read several parts of it. Otherwise it is the part with the name
    of scores, or the only tensor.
    """
    if select is not None or isinstance(output, Tensor) or _reads_whole_output(target):
        return select
    if isinstance(output, Mapping) or hasattr(output, "_fields") or not isinstance(output, tuple | list):
        named = _parts_by_name(output)
        for name in _NAMES:
            if isinstance(named.get(name), Tensor):
                return name
        if isinstance(named.get(_CLASSES), Tensor) and isinstance(named.get(_MASKS), Tensor):
            return segmentation_by_queries if isinstance(target, Segmentation) else _CLASSES
        tensors: list[int | str] = [name for name, part in named.items() if isinstance(part, Tensor)]
    else:
        tensors = [index for index, part in enumerate(output) if isinstance(part, Tensor)]
    return tensors[0] if len(tensors) == 1 else None


def segmentation_by_queries(output: ModelOutput) -> Tensor:
    """Return class scores of pixels (N, classes, h, w) from queries: sum_q softmax(classes_q)_c sigmoid(mask_q).

    As MaskFormer (Cheng et al. 2021) infers semantic segmentations; the last class, "no object", is left out.
    """
    classes, masks = pick(output, _CLASSES), pick(output, _MASKS)
    return torch.einsum("nqc,nqhw->nchw", classes.softmax(-1)[..., :-1], masks.sigmoid())


def _reads_whole_output(target: Target) -> bool:
    if isinstance(target, Score):
        return target.reads_whole_output
    is_callables = isinstance(target, list | tuple) and any(callable(each) for each in target)
    return callable(target) or is_callables


def _parts_by_name(output: ModelOutput) -> dict[str, object]:
    if isinstance(output, Mapping):
        return {name: part for name, part in output.items() if isinstance(name, str)}
    if hasattr(output, "_fields"):
        return {name: getattr(output, name) for name in output._fields}
    return (
        {name: part for name, part in vars(output).items() if not name.startswith("_")}
        if hasattr(output, "__dict__")
        else {}
    )
