"""The part of a model's output that is scored, where the user does not say."""

from collections.abc import Mapping

from torch import Tensor

from fastcam.model.elements import ModelOutput, Select
from fastcam.targets.binding import Score, Target

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
        tensors: list[int | str] = [name for name, part in named.items() if isinstance(part, Tensor)]
    else:
        tensors = [index for index, part in enumerate(output) if isinstance(part, Tensor)]
    return tensors[0] if len(tensors) == 1 else None


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
