"""Targets of models that take a batch as the frames or slices of one input, and return one row for all of them."""

import torch
from torch import Tensor

from fastcam.model.elements import ModelOutput
from fastcam.targets.binding import Bound, Target, bind


def has_one_row(output: ModelOutput, target: Target, count: int) -> bool:
    """Whether the output, or what a target callable makes of it, has one row though there are several images."""
    if count == 1 or not isinstance(output, Tensor) or output.dim() == 0 or output.shape[0] != 1:
        return False
    if not callable(target):
        return True
    scores = target(output)
    return isinstance(scores, Tensor) and scores.dim() > 0 and len(scores) == 1


def bind_one_row(output: ModelOutput, target: Target, count: int) -> Bound:
    """Bind a target to an output of one row: every image has the same score.

    The gradient of the scores' sum is that of the one score. The arguments are those of
    :func:`fastcam.targets.binding.bind`.
    """
    bound = bind(output, target, 1)

    def score_all(output: ModelOutput, rows: Tensor) -> Tensor:
        score = bound(output, rows[:1] * 0)
        return torch.cat([score, score.detach().expand(len(rows) - 1, *score.shape[1:])])

    is_empty = None if bound.is_empty is None else bound.is_empty.expand(count)
    indices = None if bound.indices is None else bound.indices.expand(count)
    return Bound(score_all, indices, is_empty=is_empty, remarks=bound.remarks)
