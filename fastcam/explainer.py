"""The engine: the only place that wires capture, targets, methods and post-processing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from fastcam import capture, head, layers, ops, postprocess, targets
from fastcam import methods as _registered  # noqa: F401 - registers the rules
from fastcam.explanation import Explanation
from fastcam.registry import Method, get_method

Explanations = Explanation | dict[str, Explanation] | dict[tuple[str, str], Explanation]


@dataclass(frozen=True)
class _Evidence:
    """What the rules work on, for one layer."""

    activations: Tensor  # (N, C, *S)
    gradients: Tensor | None  # (N, [K,] C, *S)
    mean_pool_classifier: Tensor | None  # (N, [K,] C)
    max_pool_classifier: Tensor | None


class Explainer:
    """Explains one model, batch after batch; everything stays on the model's device.

    Args:
        model: any ``nn.Module``. It is never changed: no ``.grad``, no mode, no buffer, no hook stays behind.
        method: a registry name (``fastcam.list_methods()``), or several that share one forward and one backward.
        target_layer: a module, its name, several of either, or None for the last layer with a spatial map.
        fuse: for several layers, "mean" or "max" of their normalised maps, or None to return each apart.
        relu: True or False to end with ReLU or to keep the sign; None does as the method's definition says.
        reshape_transform: from what the layer returns, and its gradient, to (N, C, *S); ``fastcam.vit_reshape`` and
            ``fastcam.swin_reshape`` are ready. It must only move elements.
        select: the part of the model's output to score: a function, an index, a key or an attribute's name.
        layer_output: which element of a target layer's tuple or dict to explain.
        options: keyword options of the method's rule, for example ``eps`` of XGrad-CAM.

    Raises:
        ValueError, TypeError: for an unknown method, option or value.
    """

    def __init__(
        self,
        model: nn.Module,
        method: str | Sequence[str] = "grad_cam",
        target_layer: layers.TargetLayer = None,
        *,
        fuse: postprocess.Fusion | None = "mean",
        relu: bool | None = None,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        select: Callable[[Any], Any] | int | str | None = None,
        layer_output: int | str | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"`model` must be an nn.Module, got {type(model).__name__}")
        if fuse not in ("mean", "max", None):
            raise ValueError(f'`fuse` must be "mean", "max" or None, got {fuse!r}')
        # Hooks act on the module itself, not on the code torch.compile made of it.
        self.model: nn.Module = getattr(model, "_orig_mod", model)
        self.methods = [get_method(name) for name in ([method] if isinstance(method, str) else method)]
        if not self.methods:
            raise ValueError("`method` must name at least one method, got an empty sequence")
        self.one_method = isinstance(method, str)
        self.target_layer = target_layer
        self.fuse: postprocess.Fusion | None = fuse
        self.relu = relu
        self.reshape_transform = reshape_transform
        self.select = select
        self.layer_output = layer_output
        self.options = options
        known = set().union(*(each.options for each in self.methods))
        for option in options:
            if option not in known:
                names = ", ".join(each.name for each in self.methods)
                raise TypeError(f"{names} has no option {option!r}; known: {', '.join(sorted(known)) or 'none'}")

    def __call__(self, images: Tensor, target: targets.Target = None) -> Any:
        """Maps for a batch.

        Args:
            images: (N, ...) floating point input of the model, on its device.
            target: what to explain, per image: None (the highest class), a class index, N of them, N x K for K
                targets an image, "all" classes, a callable from the output to (N,) or (N, K) scores, or N callables.

        Returns:
            An :class:`Explanation`; for several methods a dict by method name, for layers returned apart a dict by
            layer name, for both a dict by (method, layer).

        Raises:
            ValueError, TypeError, RuntimeError: with a sentence that says what was expected and what came.
        """
        _check_images(images)
        chosen = layers.resolve(self.model, self.target_layer, images)
        needs = {need for each in self.methods for need in each.needs}
        captured = capture.forward(
            self.model, images, chosen, with_graph=needs != {"activations"}, element=self.layer_output
        )
        with torch.inference_mode(False), torch.enable_grad():
            output = targets.select_output(captured.output, self.select)
            scores = targets.score(output, target, len(images))
            evidence = self._evidence(chosen, captured.activations, output, scores, target, needs)
        with torch.inference_mode(False), torch.no_grad():
            shared = Explanation(
                method="",
                layer="",
                images=images.detach(),
                output=output.detach() if isinstance(output, Tensor) else output,
                scores=scores.values.detach(),
                targets=scores.classes,
                native=scores.values,
            )
            return self._explanations(chosen, evidence, shared)

    def __enter__(self) -> Self:
        """The explainer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing to undo: between calls nothing is attached to the model."""

    def _evidence(
        self,
        chosen: Sequence[capture.Layer],
        activations: Sequence[Tensor],
        output: Any,
        scores: targets.Scores,
        target: targets.Target,
        needs: set[str],
    ) -> list[_Evidence]:
        """Activations, gradients and classifiers of every layer, shaped for the rules."""
        heads = [None if self.reshape_transform else head.recognize(output, each) for each in activations]
        classifiers = {"mean": [None] * len(chosen), "max": [None] * len(chosen)}
        for pooling in classifiers:
            if f"{pooling}_pool_classifier" in needs:
                rows = [_classifier(each, pooling, scores, layer) for each, layer in zip(heads, chosen, strict=True)]
                classifiers[pooling] = rows
        gradients: Sequence[Tensor | None] = [None] * len(chosen)
        if "gradients" in needs:
            gradients = _gradients(chosen, activations, heads, output, scores, target)
        found = []
        for i, layer in enumerate(chosen):
            maps = self._as_maps(activations[i].detach(), layer, scores.values)
            gradient = gradients[i]
            if gradient is not None:
                gradient = self._gradient_as_maps(gradient.detach(), scores.values.dim() == 2)
            found.append(_Evidence(maps, gradient, classifiers["mean"][i], classifiers["max"][i]))
        return found

    def _as_maps(self, activations: Tensor, layer: capture.Layer, scores: Tensor) -> Tensor:
        shaped = self.reshape_transform(activations) if self.reshape_transform else activations
        if shaped.dim() < 3 or len(shaped) != len(scores):
            raise ValueError(
                f"target layer {layer.name!r} returns shape {tuple(activations.shape)}, not (N, C, ...) with a spatial map; "
                "choose another layer or pass reshape_transform="
            )
        return shaped

    def _gradient_as_maps(self, gradient: Tensor, has_targets: bool) -> Tensor:
        if self.reshape_transform is None:
            return gradient
        if not has_targets:
            return self.reshape_transform(gradient)
        return self.reshape_transform(gradient.flatten(0, 1)).unflatten(0, gradient.shape[:2])

    def _explanations(
        self, chosen: Sequence[capture.Layer], evidence: Sequence[_Evidence], shared: Explanation
    ) -> Explanations:
        axes = len(shared.size)
        for layer, each in zip(chosen, evidence, strict=True):
            if each.activations.dim() - 2 != axes:
                raise ValueError(
                    f"target layer {layer.name!r} gives maps with {each.activations.dim() - 2} spatial axes for images with "
                    f"{axes}; choose another layer or pass reshape_transform= (fastcam.vit_reshape for transformers)"
                )
        results: dict[tuple[str, str], Explanation] = {}
        for method in self.methods:
            natives = [self._native(method, each, shared.scores) for each in evidence]
            if len(chosen) == 1 or self.fuse is None:
                for layer, native in zip(chosen, natives, strict=True):
                    results[method.name, layer.name] = replace(
                        shared, method=method.name, layer=layer.name, native=native
                    )
            else:
                results[method.name, ""] = replace(
                    shared,
                    method=method.name,
                    layer=" + ".join(layer.name for layer in chosen),
                    native=postprocess.fuse(natives, postprocess.finest(natives, axes), self.fuse),
                    fused=postprocess.fuse(natives, shared.size, self.fuse),
                )
        return self._unwrapped(results, apart=len(chosen) > 1 and self.fuse is None)

    def _unwrapped(self, results: dict[tuple[str, str], Explanation], apart: bool) -> Explanations:
        if self.one_method and not apart:
            return next(iter(results.values()))
        if self.one_method:
            return {layer: each for (_, layer), each in results.items()}
        if not apart:
            return {name: each for (name, _), each in results.items()}
        return results

    def _native(self, method: Method, evidence: _Evidence, scores: Tensor) -> Tensor:
        """The method's map (N, [K,] *s) at the layer's size."""
        relu = method.relu if self.relu is None else self.relu
        options = {name: value for name, value in self.options.items() if name in method.options}
        activations, gradients = evidence.activations, evidence.gradients
        if method.fused is not None and gradients is not None:
            return method.fused(activations, gradients, relu=relu, **options)
        has_targets = scores.dim() == 2
        flat = {
            "activations": activations.flatten(2).unsqueeze(1) if has_targets else activations.flatten(2),
            "gradients": None if gradients is None else gradients.flatten(3 if has_targets else 2),
            "mean_pool_classifier": evidence.mean_pool_classifier,
            "max_pool_classifier": evidence.max_pool_classifier,
        }
        result = method.rule(*(flat[need] for need in method.needs), **options)
        lead = scores.shape
        if method.returns == "map":
            maps = result.expand(*lead, result.shape[-1]).reshape(*lead, *activations.shape[2:])
            return ops.reference.rectify(maps) if relu else maps
        per_element = result.dim() > len(lead) + 1
        weights = result.unflatten(-1, activations.shape[2:]) if per_element else result
        if activations.dim() == 3:  # (N, C, L): one more axis, so that (N, K, C) cannot be taken for element weights
            maps = ops.weighted_channel_sum(activations.unsqueeze(-1), weights.unsqueeze(-1) if per_element else weights, relu)
            return maps.squeeze(-1)
        return ops.weighted_channel_sum(activations, weights, relu)


def explain(
    model: nn.Module,
    images: Tensor,
    method: str | Sequence[str] = "grad_cam",
    target: targets.Target = None,
    target_layer: layers.TargetLayer = None,
    **keywords: Any,
) -> Any:
    """Maps for a batch in one call; the arguments are those of :class:`Explainer` and its call.

    Example:
        >>> explanation = fastcam.explain(model, images)
        >>> explanation.maps  # (N, H, W) in [0, 1]
    """
    return Explainer(model, method, target_layer, **keywords)(images, target)


def _check_images(images: Any) -> None:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"`images` must be a floating point tensor (N, C, ...), got {kind}")
    if images.dim() < 3 or len(images) == 0:
        raise ValueError(f"`images` must have shape (N, C, ...) with at least one image, got {tuple(images.shape)}")


def _classifier(found: head.Head | None, pooling: str, scores: targets.Scores, layer: capture.Layer) -> Tensor:
    """The classifier's rows for the targets, (N, [K,] C)."""
    if found is None or found.pooling != pooling:
        name = "average" if pooling == "mean" else "max"
        raise ValueError(
            f"this method needs a model in which global {name} pooling and one linear layer follow target layer "
            f"{layer.name!r}, and nothing else; this one does not end so"
        )
    if scores.classes is None:
        raise ValueError("this method explains class indices; a callable target has no row in the classifier")
    return found.weight[scores.classes]


def _gradients(
    chosen: Sequence[capture.Layer],
    activations: Sequence[Tensor],
    heads: Sequence[head.Head | None],
    output: Any,
    scores: targets.Scores,
    target: targets.Target,
) -> list[Tensor]:
    """Gradients of every layer: in closed form behind global average pooling, by one backward pass otherwise."""
    closed: dict[int, Tensor] = {}
    for i, found in enumerate(heads):
        if found is not None and found.pooling == "mean":
            closed[i] = _closed_form(found, activations[i], output, scores, target)
    remaining = [i for i in range(len(chosen)) if i not in closed]
    if remaining:
        names = [chosen[i].name for i in remaining]
        found_gradients = capture.gradients(scores.values, [activations[i] for i in remaining], names)
        closed |= dict(zip(remaining, found_gradients, strict=True))
    return [closed[i] for i in range(len(chosen))]


def _closed_form(
    found: head.Head, activations: Tensor, output: Tensor, scores: targets.Scores, target: targets.Target
) -> Tensor:
    """dy/dA = (dy/d output) W / P, the same at every position: a view that takes no memory."""
    if scores.classes is not None:
        rows = found.weight[scores.classes]  # (N, [K,] C)
    else:
        leaf = output.detach().requires_grad_()
        again = targets.score(leaf, target, len(leaf))
        (slopes,) = capture.gradients(again.values, [leaf], ["output"])
        rows = slopes @ found.weight.to(slopes.dtype)
    spatial = activations.shape[2:]
    constant = (rows / spatial.numel()).to(activations.dtype)
    return constant.reshape(*constant.shape, *([1] * len(spatial))).expand(*constant.shape, *spatial)
