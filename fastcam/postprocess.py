"""Postprocessing of native maps to maps at the size of the input."""

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


def check_reduction(reduction: str) -> None:
    """Raise for an unknown reduction over the colour channels."""
    if reduction not in _REDUCTIONS:
        raise ValueError(f"`reduce` must be one of {', '.join(_REDUCTIONS)} or None, got {reduction!r}")


def reduce_colour(attributions: Tensor, reduction: str, axes: int) -> Tensor:
    """Reduce attributions (N, [K,] C, *S), with that many axes in S, to maps (N, [K,] *S)."""
    return _REDUCTIONS[reduction](attributions, -axes - 1)


def resize(maps: Tensor, size: Sequence[int], normalize: bool, out: Tensor | None = None) -> Tensor:
    """Resize maps (N, [K,] *s) to ``size``, each scaled to [0, 1] if ``normalize``, into ``out`` if given."""
    return ops.upsample_normalize(maps, size, normalize, out)


def fuse(maps: Sequence[Tensor], size: Sequence[int], fusion: Fusion) -> Tensor:
    """Return the mean or maximum of the maps of several layers, each resized to ``size`` and normalised."""
    stacked = torch.stack([resize(layer_maps, size, True) for layer_maps in maps])
    return stacked.mean(0) if fusion == "mean" else stacked.amax(0)


def largest_size(maps: Sequence[Tensor], axes: int) -> tuple[int, ...]:
    """Return the spatial size of the largest map."""
    return max((tuple(layer_maps.shape[-axes:]) for layer_maps in maps), key=lambda shape: torch.Size(shape).numel())


def status(maps: Tensor, scores: Tensor) -> list[Status] | list[list[Status]]:
    """Return for every map "ok", "constant map" or "non-finite" (a NaN or infinity in the map or its score).

    Args:
        maps: (N, [K,] *s), not normalised.
        scores: (N,) or (N, K).

    Returns:
        A list of N, or N lists of K.
    """
    flat = maps.flatten(scores.dim())
    finite = flat.isfinite().all(-1) & scores.isfinite()
    constant = numerics.is_constant(flat.amin(-1), flat.amax(-1))
    codes = torch.where(finite, torch.where(constant, 1, 0), 2).tolist()
    names = get_args(Status)
    return [names[code] if isinstance(code, int) else [names[c] for c in code] for code in codes]
