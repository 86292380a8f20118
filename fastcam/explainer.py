"""The engine: the only place that wires capture, targets, methods and post-processing."""

import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from fastcam import capture, evidence, layers, ops, postprocess, targets
from fastcam import methods as _registered  # noqa: F401 - registers the rules
from fastcam.explanation import Explanation
from fastcam.registry import Method, get_method

Explanations = Explanation | dict[str, Explanation] | dict[tuple[str, str], Explanation]


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
        if not isinstance(method, str | list | tuple):
            raise TypeError(f"`method` must be a name or a list of names, got {type(method).__name__}")
        self.methods = [get_method(name) for name in ([method] if isinstance(method, str) else method)]
        if not self.methods:
            raise ValueError("`method` must name at least one method, got an empty list")
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
        _warn_of_training(self.model)
        chosen = layers.resolve(self.model, self.target_layer, images)
        needs = {need for each in self.methods for need in each.needs}
        classless = needs == {"activations"}
        captured = capture.forward(self.model, images, chosen, with_graph=not classless, element=self.layer_output)
        with torch.inference_mode(False), torch.enable_grad():
            output = targets.select_output(captured.output, self.select)
            if classless:
                scores = targets.score_if_any(output, target, images)
            else:
                scores = targets.score(output, target, len(images))
            run = evidence.Run(chosen, captured.activations, output, scores, target)
            gathered = evidence.gather(run, needs, self.reshape_transform)
        with torch.inference_mode(False), torch.no_grad():
            return self._explanations(run, gathered, images)

    def __enter__(self) -> Self:
        """The explainer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing to undo: between calls nothing is attached to the model."""

    def _explanations(self, run: evidence.Run, gathered: Sequence[evidence.Evidence], images: Tensor) -> Explanations:
        _check_axes(run.layers, gathered, images)
        shared = Explanation(
            method="",
            layer="",
            images=images.detach(),
            output=tree_map_only(Tensor, Tensor.detach, run.output),
            scores=run.scores.values.detach(),
            targets=run.scores.classes,
            native=run.scores.values,
        )
        results: dict[tuple[str, str], Explanation] = {}
        for method in self.methods:
            natives = [self._native(method, each, shared.scores) for each in gathered]
            if len(natives) > 1 and self.fuse is not None:
                results[method.name, ""] = self._fused(shared, method, run.layers, natives)
                continue
            for layer, native in zip(run.layers, natives, strict=True):
                results[method.name, layer.name] = replace(shared, method=method.name, layer=layer.name, native=native)
        return self._unwrapped(results, apart=len(run.layers) > 1 and self.fuse is None)

    def _fused(
        self, shared: Explanation, method: Method, chosen: Sequence[capture.Layer], natives: Sequence[Tensor]
    ) -> Explanation:
        how = self.fuse or "mean"
        return replace(
            shared,
            method=method.name,
            layer=" + ".join(layer.name for layer in chosen),
            native=postprocess.fuse(natives, postprocess.finest(natives, len(shared.size)), how),
            fused=postprocess.fuse(natives, shared.size, how),
        )

    def _unwrapped(self, results: dict[tuple[str, str], Explanation], apart: bool) -> Explanations:
        if self.one_method and not apart:
            return next(iter(results.values()))
        if self.one_method:
            return {layer: each for (_, layer), each in results.items()}
        if not apart:
            return {name: each for (name, _), each in results.items()}
        return results

    def _native(self, method: Method, found: evidence.Evidence, scores: Tensor) -> Tensor:
        """The method's map (N, [K,] *s) at the layer's size."""
        relu = method.relu if self.relu is None else self.relu
        options = {name: value for name, value in self.options.items() if name in method.options}
        if method.fused is not None and found.gradients is not None:
            return method.fused(found.activations, found.gradients, relu=relu, **options)
        result = method.rule(*_flat_arguments(method, found, scores.dim() == 2), **options)
        if method.returns == "map":
            maps = result.expand(*scores.shape, result.shape[-1]).unflatten(-1, found.activations.shape[2:])
            return ops.reference.rectify(maps) if relu else maps
        return _reduce(found.activations, result, result.dim() > scores.dim() + 1, relu)


def _flat_arguments(method: Method, found: evidence.Evidence, has_targets: bool) -> list[Any]:
    """What the rule needs, positions flat; with targets the activations have an axis of one for K."""
    activations = found.activations.flatten(2)
    flat = {
        "activations": activations.unsqueeze(1) if has_targets else activations,
        "gradients": None if found.gradients is None else found.gradients.flatten(3 if has_targets else 2),
        "mean_pool_classifier": found.mean_pool_classifier,
        "max_pool_classifier": found.max_pool_classifier,
    }
    return [flat[need] for need in method.needs]


def _reduce(activations: Tensor, weights: Tensor, per_element: bool, relu: bool) -> Tensor:
    """sum_c w_c A_c for weights (N, [K,] C) or, per element, (N, [K,] C, P)."""
    if activations.dim() == 3:  # (N, C, L): one more axis, so that (N, K, C) cannot be taken for element weights
        return _reduce(activations.unsqueeze(-1), weights, per_element, relu).squeeze(-1)
    shaped = weights.unflatten(-1, activations.shape[2:]) if per_element else weights
    return ops.weighted_channel_sum(activations, shaped, relu)


def explain(
    model: nn.Module,
    images: Tensor,
    method: str | Sequence[str] = "grad_cam",
    target: targets.Target = None,
    target_layer: layers.TargetLayer = None,
    *,
    fuse: postprocess.Fusion | None = "mean",
    relu: bool | None = None,
    reshape_transform: Callable[[Tensor], Tensor] | None = None,
    select: Callable[[Any], Any] | int | str | None = None,
    layer_output: int | str | None = None,
    **options: Any,
) -> Any:
    """Maps for a batch in one call; the arguments are those of :class:`Explainer` and of its call.

    Example:
        >>> explanation = fastcam.explain(model, images)
        >>> explanation.maps  # (N, H, W) in [0, 1]
    """
    explainer = Explainer(
        model,
        method,
        target_layer,
        fuse=fuse,
        relu=relu,
        reshape_transform=reshape_transform,
        select=select,
        layer_output=layer_output,
        **options,
    )
    return explainer(images, target)


def _warn_of_training(model: nn.Module) -> None:
    if not capture.is_training(model):
        return
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals["__name__"] == __name__:  # to whoever called the package
        level, frame = level + 1, frame.f_back
    warnings.warn(
        "the model is in training mode: batch norm mixes the images of a batch and dropout is active; "
        "call model.eval() for maps of single images",
        UserWarning,
        stacklevel=level,
    )


def _check_images(images: Any) -> None:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"`images` must be a floating point tensor (N, C, ...), got {kind}")
    if images.dim() < 3 or len(images) == 0:
        raise ValueError(f"`images` must have shape (N, C, ...) with at least one image, got {tuple(images.shape)}")


def _check_axes(chosen: Sequence[capture.Layer], gathered: Sequence[evidence.Evidence], images: Tensor) -> None:
    axes = images.dim() - 2
    for layer, found in zip(chosen, gathered, strict=True):
        if found.activations.dim() - 2 != axes:
            raise ValueError(
                f"target layer {layer.name!r} gives maps with {found.activations.dim() - 2} spatial axes for images "
                f"with {axes}; choose another layer or pass reshape_transform= (fastcam.vit_reshape for transformers)"
            )
