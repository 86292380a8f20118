"""The arguments of the rules, gathered from one forward pass: activations, gradients, classifiers, scores."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastcam.engine import ablation, quantised_head
from fastcam.engine.first_pass import Pass
from fastcam.engine.input_gradients import RELU_RULES, input_gradients
from fastcam.graph import pooled_head
from fastcam.methods.registry import Method
from fastcam.model import quantised
from fastcam.model.gradients import gradients


@dataclass(frozen=True)
class Evidence:
    """The arguments of the rules by the names of their needs, for one layer or none."""

    values: Mapping[str, Any] = field(repr=False)

    @property
    def activations(self) -> Tensor:
        """(N, C, *s)."""
        return self.values["activations"]

    @property
    def gradients(self) -> Tensor | None:
        """(N, [K,] C, *s), or None if no rule needs them."""
        return self.values.get("gradients")

    def arguments(self, method: Method) -> list[object]:
        """Return the arguments of a rule, in its order and shapes: see :class:`fastcam.Method`."""
        return [self._argument(need, method) for need in method.needs]

    def _argument(self, need: str, method: Method) -> object:
        value = self.values[need]
        has_targets = self.values["scores"].dim() == 2
        if need == "images" and has_targets:
            return value.unsqueeze(1)
        if not method.is_flat or need not in ("activations", "gradients"):
            return value
        if need == "gradients":
            return value.flatten(3 if has_targets else 2)
        return value.flatten(2).unsqueeze(1) if has_targets else value.flatten(2)


def gather(run: Pass) -> tuple[Evidence, list[Evidence]]:
    """Return the evidence without a layer, and that of every layer.

    Raises:
        ValueError: for a layer without a spatial map, or a missing classifier.
        RuntimeError: for a layer without a gradient.
    """
    needs, differentiable = run.settings.needs, run.settings.differentiable
    # After a reshape the positions are not the axes that the head pools over.
    heads = [
        None if run.reshape_of(index) else pooled_head.recognize(run.output, activations, differentiable)
        for index, activations in enumerate(run.activations)
    ]
    maps = [_as_maps(run, index) for index in range(len(run.layers))]
    layered: list[dict[str, object]] = [
        {"activations": run.detach_unless_differentiable(layer_maps)} for layer_maps in maps
    ]
    shared: dict[str, object] = {
        "scores": run.detach_unless_differentiable(run.scores),
        "images": run.detach_unless_differentiable(run.images),
        "scorer": run.scorer,
    }
    for index, values in enumerate(layered):
        if "ablated_scores" in needs:
            values["ablated_scores"] = _ablated_scores(run, heads[index], index)
        for pooling in ("mean", "max"):
            if f"{pooling}_pool_classifier" in needs:
                values[f"{pooling}_pool_classifier"] = _classifier(heads[index], pooling, run, index)
    _add_gradients(run, heads, shared, layered)
    return Evidence(shared), [Evidence(shared | values) for values in layered]


def _ablated_scores(run: Pass, head: pooled_head.Head | None, index: int) -> Tensor:
    assert run.scorer is not None
    element, reshape = run.settings.layer_output, run.reshape_of(index)
    activations = run.activations[index]
    return ablation.ablated_scores(run.scorer, run.layers[index], activations, head, run.output, reshape, element)


def _add_gradients(
    run: Pass, heads: Sequence[pooled_head.Head | None], shared: dict[str, object], layered: list[dict[str, object]]
) -> None:
    """Add gradients at the layers and at the input: plain ones together, then those of each ReLU rule."""
    needs, differentiable = run.settings.needs, run.settings.differentiable
    rules = [kind for kind in RELU_RULES if kind in needs]
    more = bool(rules) or run.recorder is not None  # more backward passes follow
    at_input = "input_gradients" in needs
    if "gradients" in needs:
        at_layers, plain = _gradients(run, heads, at_input, keep_graph=more)
        for index, (values, gradient) in enumerate(zip(layered, at_layers, strict=True)):
            values["gradients"] = _gradient_as_maps(run.detach_unless_differentiable(gradient), run, index)
        if at_input:
            shared["input_gradients"] = run.detach_unless_differentiable(plain)
    elif at_input:
        rules = ["input_gradients", *rules]
    keep = run.recorder is not None
    by_rule = input_gradients(run.scores, run.images, rules, differentiable, keep_graph=keep)
    shared |= {kind: run.detach_unless_differentiable(gradient) for kind, gradient in by_rule.items()}
    if run.recorder is not None:
        shared["full_gradients"] = functools.partial(run.recorder.backward, run.scores, run.images)


def _as_maps(run: Pass, index: int) -> Tensor:
    """Return the map (N, C, *s) of a layer."""
    activations, reshape, images = run.activations[index], run.reshape_of(index), run.images
    shaped = reshape(activations) if reshape else activations
    if shaped.dim() == images.dim() and shaped.shape[0] == images.shape[0]:
        return shaped
    name, shape = run.layers[index].name, tuple(activations.shape)
    expected = f"({images.shape[0]}, C, {', '.join('s' * (images.dim() - 2))})"
    if run.settings.reshape_transform is not None:
        raise ValueError(
            f"`reshape_transform` must return {expected} for the images {tuple(images.shape)}, but returns "
            f"{tuple(shaped.shape)} for the output {shape} of target layer {name!r}"
        )
    raise ValueError(
        f"target layer {name!r} returns shape {shape}, in which no map {expected} of the images "
        f"{tuple(images.shape)} was found: choose another layer, or pass reshape_transform=, a function to such a map"
    )


def _gradient_as_maps(gradient: Tensor, run: Pass, index: int) -> Tensor:
    reshape = run.reshape_of(index)
    if reshape is None:
        return gradient
    if run.scores.dim() == 1:
        return reshape(gradient)
    if gradient.shape[0] != run.images.shape[0]:  # frames folded into the batch, which the transform unfolds
        return torch.stack([reshape(of_target) for of_target in gradient.unbind(1)], 1)
    return reshape(gradient.flatten(0, 1)).unflatten(0, gradient.shape[:2])


def _classifier(head: pooled_head.Head | None, pooling: str, run: Pass, index: int) -> Tensor:
    """Return the classifier's rows for the targets, (N, [K,] C)."""
    if head is None and run.reshape_of(index) is None and quantised.holds_quantised(run.model):
        head = quantised_head.find(run.model, run.inputs, run.output, run.activations[index])
    if head is None or head.pooling != pooling:
        name = "average" if pooling == "mean" else "max"
        raise ValueError(
            f"this method needs a model in which global {name} pooling and one linear layer follow target layer "
            f"{run.layers[index].name!r}, and nothing else; this one has another head"
        )
    if run.bound.classes is None:
        raise ValueError("this method explains class indices; a callable target has no row in the classifier")
    # Autocast may have narrowed the weight.
    return _rows(head.weight, run.bound.classes, run.activations[index].dtype)


def _gradients(
    run: Pass, heads: Sequence[pooled_head.Head | None], at_input: bool, keep_graph: bool
) -> tuple[list[Tensor], Tensor]:
    """Return the gradients of every layer and, with ``at_input``, of the images.

    Layers followed by a global average pooling head have a closed form, unless gradients of gradients are needed; one
    backward pass computes all others.
    """
    closed = {
        index: _closed_form(run, head, index)
        for index, head in enumerate(heads)
        if head is not None and head.pooling == "mean" and not run.settings.differentiable
    }
    remaining = [index for index in range(len(heads)) if index not in closed]
    tensors = [run.activations[index] for index in remaining] + ([run.images] if at_input else [])
    names = [f"target layer {run.layers[index].name!r}" for index in remaining] + ["the images"]
    recorded: list[Tensor] = []
    if tensors:
        options = {"keep_graph": keep_graph, "differentiable": run.settings.differentiable}
        recorded = gradients(run.scores, tensors, names[: len(tensors)], **options)
        closed |= dict(zip(remaining, recorded, strict=False))
    return [closed[index] for index in range(len(heads))], recorded[-1] if at_input else run.images


def _rows(weight: Tensor, classes: Tensor, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    """Return the scaled classifier rows (N, [K,] C) of classes (N, [K]); images share them for the target "all"."""
    if classes.stride(0) == 0:  # "all"
        return (weight[classes[0]] * scale).to(dtype).expand(classes.shape[0], *classes.shape[1:], -1)
    return (weight[classes] * scale).to(dtype)


def _closed_form(run: Pass, head: pooled_head.Head, index: int) -> Tensor:
    """Return dy/dA = (dy/d output) W / P, the same at every position: an expanded view."""
    bound, activations = run.bound, run.activations[index]
    spatial = activations.shape[2:]
    if bound.is_logit and bound.classes is not None:
        constant = _rows(head.weight, bound.classes, activations.dtype, 1 / math.prod(spatial))  # (N, [K,] C)
    else:
        output = run.output.detach().requires_grad_()
        scores = bound(output, run.rows)
        (slopes,) = gradients(scores, [output], [f"target layer {run.layers[index].name!r}"])
        rows = slopes @ head.weight.to(slopes.dtype)  # slopes (N, [K,] classes)
        constant = (rows / math.prod(spatial)).to(activations.dtype)
    return constant[(..., *[None] * len(spatial))].expand(*constant.shape, *spatial)
