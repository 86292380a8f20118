"""From native maps to maps at the size of the input."""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from fastcam import ops
from fastcam.ops import numerics

Fusion = Literal["mean", "max"]
Status = Literal["ok", "constant map", "non-finite"]

_REDUCTIONS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "max_abs": lambda x, axis: x.abs().amax(axis),
    "sum_abs": lambda x, axis: x.abs().sum(axis),
    "sum": lambda x, axis: x.sum(axis),
    "mean": lambda x, axis: x.mean(axis),
    "max": lambda x, axis: x.amax(axis),
    "norm": lambda x, axis: x.norm(dim=axis),
}


def check_reduction(how: str) -> None:
    """Refuses an unknown reduction over colour."""
    if how not in _REDUCTIONS:
        raise ValueError(f"`reduce` must be one of {', '.join(_REDUCTIONS)} or None, got {how!r}")


def reduce_colour(attributions: Tensor, how: str, axes: int) -> Tensor:
    """Attributions (N, [K,] C, *S) with so many axes in S as maps (N, [K,] *S)."""
    return _REDUCTIONS[how](attributions, -axes - 1)


def resize(maps: Tensor, size: Sequence[int], normalize: bool, out: Tensor | None = None) -> Tensor:
    """Maps (N, [K,] *s) at ``size``, as they are or each scaled to [0, 1], in ``out`` where it is given."""
    return ops.upsample_normalize(maps, size, normalize, out)


def fuse(maps: Sequence[Tensor], size: Sequence[int], how: Fusion) -> Tensor:
    """Mean or maximum of several layers' maps, each normalised at ``size`` first."""
    stacked = torch.stack([resize(each, size, True) for each in maps])
    return stacked.mean(0) if how == "mean" else stacked.amax(0)


def finest(maps: Sequence[Tensor], axes: int) -> tuple[int, ...]:
    """The size of the largest map."""
    return max((tuple(each.shape[-axes:]) for each in maps), key=lambda shape: torch.Size(shape).numel())


def status(maps: Tensor, scores: Tensor) -> list[Status] | list[list[Status]]:
    """For every map "ok", "constant map" or "non-finite" (a NaN or infinity in the map or its score).

    Args:
        maps: (N, [K,] *s), raw.
        scores: (N,) or (N, K).

    Returns:
        A list of N, or N lists of K.
    """
    flat = maps.flatten(scores.dim())
    finite = flat.isfinite().all(-1) & scores.isfinite()
    constant = numerics.is_constant(flat.amin(-1), flat.amax(-1))
    code = torch.where(finite, torch.where(constant, 1, 0), 2).tolist()
    names = get_args(Status)
    return [names[c] if isinstance(c, int) else [names[k] for k in c] for c in code]
