"""From evidence to explanations: every method's rule, its map reduced to one value a position, fused and named."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from fastcam import ops, postprocess
from fastcam.engine import evidence
from fastcam.explanation import Explanation
from fastcam.methods.registry import Method, Reduction
from fastcam.model import capture

Explanations = Explanation | dict[str, Explanation] | dict[tuple[str, str], Explanation]


@dataclass(frozen=True)
class _Found:
    """What a method says: its map (N, [K,] *s), and where it has them, attributions (N, [K,] C, *S) and details."""

    native: Tensor
    attributions: Tensor | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Assembly:
    """What becomes of the evidence.

    Attributes:
        methods: whose rules are applied.
        one_method: whether the user named one, not a list.
        fuse: how the maps of several layers become one; None returns each apart.
        relu: as for :class:`fastcam.Explainer`.
        reduce: as for :class:`fastcam.Explainer`.
        differentiable: whether the graph is kept.
        options: of the rules.
    """

    methods: Sequence[Method]
    one_method: bool
    fuse: postprocess.Fusion | None
    relu: bool | None
    reduce: Reduction | None
    differentiable: bool
    options: dict[str, Any]

    def explanations(
        self,
        run: evidence.Run,
        shared: evidence.Evidence,
        gathered: Sequence[evidence.Evidence],
        images: Tensor,
    ) -> Explanations:
        """One for every method and layer, in the form the user asked for.

        Args:
            run: the one forward pass.
            shared: what the methods without a layer need.
            gathered: what the others need, layer by layer.
            images: (N, C, *S), as they were given.
        """
        _check_axes(run.layers, gathered, images)
        common = Explanation(
            method="",
            layer="",
            images=images if self.differentiable else images.detach(),
            output=run.output if self.differentiable else tree_map_only(Tensor, Tensor.detach, run.output),
            scores=run.scorer.scores,
            targets=run.scorer.bound.classes,
            native=run.scorer.scores,
        )
        results: dict[tuple[str, str], Explanation] = {}
        for method in self.methods:
            if not method.has_layer:
                results[method.name, ""] = _with(common, method, "", self._found(method, shared))
                continue
            found = [self._found(method, each) for each in gathered]
            if len(found) > 1 and self.fuse is not None:
                results[method.name, ""] = self._fused(common, method, run.layers, found)
                continue
            for layer, each in zip(run.layers, found, strict=True):
                results[method.name, layer.name] = _with(common, method, layer.name, each)
        return self._unwrapped(results, apart=len(run.layers) > 1 and self.fuse is None)

    def _fused(
        self, common: Explanation, method: Method, chosen: Sequence[capture.Layer], found: Sequence[_Found]
    ) -> Explanation:
        how = self.fuse or "mean"
        natives = [each.native for each in found]
        return replace(
            common,
            method=method.name,
            layer=" + ".join(layer.name for layer in chosen),
            native=postprocess.fuse(natives, postprocess.finest(natives, len(common.size)), how),
            fused=postprocess.fuse(natives, common.size, how),
        )

    def _unwrapped(self, results: dict[tuple[str, str], Explanation], apart: bool) -> Explanations:
        if self.one_method and len(results) == 1:
            return next(iter(results.values()))
        if self.one_method:
            return {layer: each for (_, layer), each in results.items()}
        if not apart:
            return {name: each for (name, _), each in results.items()}
        return results

    def _found(self, method: Method, given: evidence.Evidence) -> _Found:
        """What the method says of one layer, or of the input."""
        relu = method.relu if self.relu is None else self.relu
        known = method.all_options(self.options)
        options = {name: value for name, value in self.options.items() if name in known}
        if method.fused is not None and given.gradients is not None:
            return _Found(method.fused(given.activations, given.gradients, relu=relu, **options))
        result = method.rule(*given.arguments(method), **options)
        value, details = result if isinstance(result, tuple) else (result, {})
        if method.returns == "attributions":
            how = self.reduce or method.reduction(self.options)
            return _Found(_finish(postprocess.reduce_colour(value, how, self._axes(given)), relu), value, details)
        if method.returns == "weights":
            return _Found(_reduce(given, value, relu), details=details)
        return _Found(_finish(_shaped_map(value, method, given), relu), details=details)

    @staticmethod
    def _axes(given: evidence.Evidence) -> int:
        return given.given["images"].dim() - 2


def _with(common: Explanation, method: Method, layer: str, found: _Found) -> Explanation:
    finite = common.scores.isfinite()  # a score that is not finite leaves gradients that may be, and mean nothing
    return replace(
        common,
        method=method.name,
        layer=layer,
        native=torch.where(finite.reshape(*finite.shape, *[1] * len(common.size)), found.native, torch.nan),
        attributions=found.attributions,
        details=found.details,
    )


def _finish(maps: Tensor, relu: bool) -> Tensor:
    return ops.reference.rectify(maps) if relu else maps


def _shaped_map(value: Tensor, method: Method, given: evidence.Evidence) -> Tensor:
    """A map with flat positions (N, [1 or K,] P) as (N, [K,] *s); without a layer it has its shape already."""
    if not method.is_flat:
        return value
    scores = given.given["scores"]
    return value.expand(*scores.shape, value.shape[-1]).unflatten(-1, given.activations.shape[2:])


def _reduce(given: evidence.Evidence, weights: Tensor, relu: bool) -> Tensor:
    """sum_c w_c A_c for weights (N, [K,] C) or, per element, (N, [K,] C, P)."""
    per_element = weights.dim() > given.given["scores"].dim() + 1
    return _weighted(given.activations, weights, per_element, relu)


def _weighted(activations: Tensor, weights: Tensor, per_element: bool, relu: bool) -> Tensor:
    if activations.dim() == 3:  # (N, C, L): one more axis, so that (N, K, C) cannot be taken for element weights
        return _weighted(activations.unsqueeze(-1), weights, per_element, relu).squeeze(-1)
    shaped = weights.unflatten(-1, activations.shape[2:]) if per_element else weights
    return ops.weighted_channel_sum(activations, shaped.to(activations.dtype), relu)


def _check_axes(chosen: Sequence[capture.Layer], gathered: Sequence[evidence.Evidence], images: Tensor) -> None:
    axes = images.dim() - 2
    for layer, found in zip(chosen, gathered, strict=True):
        if found.activations.dim() - 2 != axes:
            raise ValueError(
                f"target layer {layer.name!r} gives maps with {found.activations.dim() - 2} spatial axes for images "
                f"with {axes}; choose another layer or pass reshape_transform= (fastcam.vit_reshape for transformers)"
            )
