"""Postprocessing of native maps to maps at the size of the input."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

from fastcam import ops
from fastcam.ops import numerics

Fusion = Literal["mean", "max"]
Status = Literal["ok", "constant map", "non-finite"]
Cause = Literal[
    "",
    "non-finite",
    "no such class",
    "no detection",
    "one position",
    "empty region",
    "rounding",
    "all negative",
    "no gradient",
    "same everywhere",
]
ROUNDING_STEPS = 16  # of a score's dtype: the range of a map in units of the score that is rounding alone

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


Cover = tuple[float, ...] | None


def resize(
    maps: Tensor, size: Sequence[int], normalize: bool, out: Tensor | None = None, cover: Cover = None
) -> Tensor:
    """Resize maps (N, [K,] *s) to ``size``, each scaled to [0, 1] if ``normalize``, into ``out`` if given.

    Args:
        maps: at the size of a layer.
        size: of the images.
        normalize: whether to scale.
        out: (N, [K,] *size).
        cover: shares of the maps' axes that the images take, from the origin on; the rest is padding. None for all.
            Placed to within half a pixel, as the padded image has whole ones.
    """
    if cover is not None:
        whole = [round(length / share) for length, share in zip(size, cover, strict=True)]
        maps = ops.upsample_normalize(maps, whole, False, None)
        for axis, length in enumerate(size, -len(size)):
            maps = maps.narrow(axis, 0, length)
        maps = maps.contiguous()
    return ops.upsample_normalize(maps, size, normalize, out)


def fuse(maps: Sequence[Tensor], size: Sequence[int], fusion: Fusion, cover: Cover = None) -> Tensor:
    """Return the mean or maximum of the maps of several layers, each resized to ``size`` and normalised."""
    stacked = torch.stack([resize(layer_maps, size, True, cover=cover) for layer_maps in maps])
    return stacked.mean(0) if fusion == "mean" else stacked.amax(0)


def largest_size(maps: Sequence[Tensor], axes: int) -> tuple[int, ...]:
    """Return the spatial size of the largest map."""
    return max((tuple(layer_maps.shape[-axes:]) for layer_maps in maps), key=lambda shape: torch.Size(shape).numel())


def is_rounding(maps: Tensor, scores: Tensor) -> Tensor:
    """Whether maps (N, [K,] *s), differences of scores (N, [K]), vary by rounding of the scores alone, (N, [K])."""
    flat = maps.flatten(scores.dim())
    return flat.amax(-1) - flat.amin(-1) <= ROUNDING_STEPS * torch.finfo(scores.dtype).eps * scores.abs()


def causes(
    maps: Tensor,
    scores: Tensor,
    *,
    signed: Tensor | None = None,
    in_score_units: bool = False,
    is_empty: Tensor | None = None,
    is_unknown: Tensor | None = None,
    is_found: Tensor | None = None,
) -> list[Cause] | list[list[Cause]]:
    """Return for every map why it shows nothing; "" for a map that shows something.

    Args:
        maps: (N, [K,] *s), not normalised.
        scores: (N,) or (N, K).
        signed: the maps before a final ReLU; None without one.
        in_score_units: whether the maps are differences of scores.
        is_empty: (N,) where the target had nothing to score; None if it always had.
        is_unknown: (N, [K]) where the target is no class of the output; None if it always is.
        is_found: (N, [K]) where there is such a target; None if there always is.

    Returns:
        A list of N, or N lists of K: "no such class" (an index on a GPU that is out of range), "non-finite" (a NaN or
        infinity in the map or its score), "no detection" (the image has fewer than others), "one position",
        "empty region" (no pixel of the class), "rounding" (the map varies by rounding of the score alone), "all
        negative" (the final ReLU left nothing: ``relu=False`` shows the map), "no gradient" (zero everywhere: nothing
        that the method changes or differentiates by has an effect), "same everywhere".
    """
    flat = maps.flatten(scores.dim())
    before = flat if signed is None else signed.flatten(scores.dim())
    low, high = flat.amin(-1), flat.amax(-1)
    per_image = [None] * (scores.dim() - 1)
    rules: list[tuple[Cause, Tensor]] = [] if is_unknown is None else [("no such class", is_unknown)]
    rules += [
        ("non-finite", ~(flat.isfinite().all(-1) & scores.isfinite())),
        ("one position", torch.full_like(low, flat.shape[-1] == 1, dtype=torch.bool)),
    ]
    constant = numerics.is_constant(low, high)
    if is_found is not None:
        rules.insert(-1, ("no detection", ~is_found.to(low.device)))
    if is_empty is not None:
        rules.append(("empty region", constant & is_empty.to(low.device)[(..., *per_image)]))
    if in_score_units:
        rules.append(("rounding", is_rounding(maps, scores) & (scores != 0)))
    rules += [
        ("all negative", constant & (before.amin(-1) < 0) & (before.amax(-1) <= 0)),
        ("no gradient", constant & (before == 0).all(-1)),
        ("same everywhere", constant),
    ]
    codes = torch.zeros(low.shape, dtype=torch.int64, device=low.device)
    for cause, applies in reversed(rules):
        codes = torch.where(applies, get_args(Cause).index(cause), codes)
    return _named(codes.tolist(), get_args(Cause))


def statuses(causes: list[Cause] | list[list[Cause]]) -> list[Status] | list[list[Status]]:
    """Return the status of every map from its cause."""

    def of(cause: Cause) -> Status:
        return "ok" if cause == "" else "non-finite" if cause in ("non-finite", "no such class") else "constant map"

    nested = any(isinstance(each, list) for each in causes)
    if nested:
        return [[of(cause) for cause in each] for each in cast("list[list[Cause]]", causes)]
    return [of(cause) for cause in cast("list[Cause]", causes)]


def _named(codes: list[Any], names: Sequence[Any]) -> list[Any]:
    return [names[code] if isinstance(code, int) else _named(code, names) for code in codes]
