"""Builds explanations from evidence: applies the methods' rules, reduces their maps to positions, and fuses layers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from fastcam import ops, postprocess
from fastcam.engine.evidence import Evidence, gather
from fastcam.engine.first_pass import Pass
from fastcam.engine.settings import Settings
from fastcam.explanation import Explanation
from fastcam.methods.registry import Method
from fastcam.ops import numerics

Explanations = Explanation | dict[str, Explanation] | dict[tuple[str, str], Explanation]


@dataclass(frozen=True)
class _Result:
    """The result of a rule: its map (N, [K,] *s), before a final ReLU too, and optional attributions and details."""

    native: Tensor
    signed: Tensor | None = None
    attributions: Tensor | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


def explain(run: Pass, images: Tensor) -> Explanations:
    """Return the explanations of a pass over the images (N, C, *S), as passed by the user."""
    with torch.inference_mode(False), torch.enable_grad():
        shared, layered = gather(run)
    with torch.inference_mode(False), torch.set_grad_enabled(run.settings.differentiable):
        return explanations(run, shared, layered, images)


def explanations(run: Pass, shared: Evidence, layered: Sequence[Evidence], images: Tensor) -> Explanations:
    """Return one explanation for every method and layer, in the form that the settings define.

    Args:
        run: the one forward pass.
        shared: the evidence for methods without a layer.
        layered: the evidence for the others, layer by layer.
        images: (N, C, *S), as passed by the user.
    """
    settings = run.settings
    scores = run.detach_unless_differentiable(run.scores)
    common = Explanation(
        method="",
        layer="",
        images=run.detach_unless_differentiable(images),
        output=tree_map_only(Tensor, run.detach_unless_differentiable, run.output),
        scores=scores,
        targets=run.bound.targets,
        native=scores,
        notes=(*run.notes.texts, *run.bound.remarks),
        is_empty=run.bound.is_empty,
        is_unknown=run.bound.is_unknown,
        is_found=run.bound.is_found,
        details=run.bound.details,
    )
    by_name: dict[tuple[str, str], Explanation] = {}
    for method in settings.methods:
        if not method.has_layer:
            by_name[method.name, ""] = _make_explanation(common, method, "", _apply(settings, method, shared))
            continue
        results = [_apply(settings, method, evidence) for evidence in layered]
        if len(results) > 1 and settings.fuse is not None:
            by_name[method.name, ""] = _fuse_layers(common, method, run, results, settings.fuse)
            continue
        for layer, result in zip(run.layers, results, strict=True):
            single = _make_explanation(common, method, layer.name, result)
            by_name[method.name, layer.name] = replace(single, cover=run.padding.cover)
    return _unwrap(by_name, settings.one_method, by_layer=len(run.layers) > 1 and settings.fuse is None)


def _fuse_layers(
    common: Explanation,
    method: Method,
    run: Pass,
    results: Sequence[_Result],
    fuse: postprocess.Fusion,
) -> Explanation:
    natives = [result.native for result in results]
    return replace(
        common,
        method=method.name,
        layer=" + ".join(layer.name for layer in run.layers),
        native=postprocess.fuse(natives, postprocess.largest_size(natives, len(common.size)), fuse),
        fused=postprocess.fuse(natives, common.size, fuse, run.padding.cover),
    )


def _unwrap(by_name: dict[tuple[str, str], Explanation], one_method: bool, by_layer: bool) -> Explanations:
    if one_method and len(by_name) == 1:
        return next(iter(by_name.values()))
    if one_method:
        return {layer: explanation for (_, layer), explanation in by_name.items()}
    if not by_layer:
        return {method: explanation for (method, _), explanation in by_name.items()}
    return by_name


def _apply(settings: Settings, method: Method, evidence: Evidence) -> _Result:
    """Return the result of a method for one layer, or for the input."""
    relu, options = settings.relu_of(method), settings.options_of(method)
    if method.fused is not None and evidence.gradients is not None:
        # The ReLU comes after the op, on the small map, so that a map without positive values can be told from none.
        return _finished(method.fused(evidence.activations, evidence.gradients, relu=False, **options), relu)
    outcome = method.rule(*evidence.arguments(method), **options)
    value, details = outcome if isinstance(outcome, tuple) else (outcome, {})
    if method.returns == "attributions":
        axes = evidence.values["images"].dim() - 2
        maps = postprocess.reduce_colour(value, settings.reduction_of(method), axes)
        return _finished(maps, relu, value, details)
    maps = _reduce(evidence, value) if method.returns == "weights" else _shaped_map(value, method, evidence)
    return _finished(maps, relu, None, details)


def _make_explanation(common: Explanation, method: Method, layer: str, result: _Result) -> Explanation:
    finite = common.scores.isfinite()  # a non-finite score can have finite but meaningless gradients
    return replace(
        common,
        method=method.name,
        layer=layer,
        native=torch.where(finite.reshape(*finite.shape, *[1] * len(common.size)), result.native, torch.nan),
        signed=result.signed,
        in_score_units=method.in_score_units,
        attributions=result.attributions,
        details={**common.details, **result.details},
    )


def _finished(
    maps: Tensor, relu: bool, attributions: Tensor | None = None, details: Mapping[str, Any] | None = None
) -> _Result:
    native, signed = (numerics.rectify(maps), maps) if relu else (maps, None)
    return _Result(native, signed, attributions, details or {})


def _shaped_map(value: Tensor, method: Method, evidence: Evidence) -> Tensor:
    """Return a map with flat positions (N, [1 or K,] P) as (N, [K,] *s); maps without a layer are not flat."""
    if not method.is_flat:
        return value
    scores = evidence.values["scores"]
    return value.expand(*scores.shape, value.shape[-1]).unflatten(-1, evidence.activations.shape[2:])


def _reduce(evidence: Evidence, weights: Tensor) -> Tensor:
    """Return sum_c w_c A_c for weights (N, [K,] C) or, per element, (N, [K,] C, P)."""
    per_element = weights.dim() > evidence.values["scores"].dim() + 1
    return _weighted(evidence.activations, weights, per_element)


def _weighted(activations: Tensor, weights: Tensor, per_element: bool) -> Tensor:
    if activations.dim() == 3:  # (N, C, L): one more axis distinguishes (N, K, C) from element weights
        return _weighted(activations.unsqueeze(-1), weights, per_element).squeeze(-1)
    shaped = weights.unflatten(-1, activations.shape[2:]) if per_element else weights
    return ops.weighted_channel_sum(activations, shaped.to(activations.dtype), False)
