"""What the rules work on, gathered from one forward pass: activations, gradients, classifiers, scores."""

import functools
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastcam.engine import ablation
from fastcam.engine.scorer import RELU_RULES, Scorer, input_gradients
from fastcam.graph import bias_gradients, pooled_head
from fastcam.methods.registry import Method
from fastcam.model import capture

Reshape = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Run:
    """One forward pass and what of it is to be explained."""

    layers: Sequence[capture.Layer]
    activations: Sequence[Tensor]  # as the layers returned them, in the graph
    output: Any  # what is scored
    scores: Tensor  # in the graph
    images: Tensor  # where the graph begins, if anything needs the gradient there
    scorer: Scorer
    element: capture.Element = None
    differentiable: bool = False
    watch: bias_gradients.Watch | None = None


@dataclass(frozen=True)
class Evidence:
    """The arguments of the rules by the names of their needs, for one layer or for none."""

    given: Mapping[str, Any] = field(repr=False)

    @property
    def activations(self) -> Tensor:
        """(N, C, *s)."""
        return self.given["activations"]

    @property
    def gradients(self) -> Tensor | None:
        """(N, [K,] C, *s), or None where no rule needs them."""
        return self.given.get("gradients")

    def arguments(self, method: Method) -> list[Any]:
        """What the rule needs, in its order and shapes: see :class:`fastcam.Method`."""
        return [self._argument(need, method) for need in method.needs]

    def _argument(self, need: str, method: Method) -> Any:
        value = self.given[need]
        has_targets = self.given["scores"].dim() == 2
        if need == "images" and has_targets:
            return value.unsqueeze(1)
        if not method.is_flat or need not in ("activations", "gradients"):
            return value
        if need == "gradients":
            return value.flatten(3 if has_targets else 2)
        return value.flatten(2).unsqueeze(1) if has_targets else value.flatten(2)


def gather(run: Run, needs: Set[str], reshape: Reshape | None) -> tuple[Evidence, list[Evidence]]:
    """The evidence that belongs to no layer, and that of every layer.

    Args:
        run: the forward pass.
        needs: what the methods need.
        reshape: from what a layer returns to (N, C, *S), or None where it returns that.

    Raises:
        ValueError: for a layer without a spatial map, or a classifier that is not there.
        RuntimeError: for a layer without a gradient.
    """
    # Behind a reshape transform the positions are not the axes the head pools over.
    heads = [
        None if reshape else pooled_head.recognize(run.output, each, run.differentiable) for each in run.activations
    ]
    shapes = [_as_maps(each, layer, reshape) for each, layer in zip(run.activations, run.layers, strict=True)]
    layered = [dict[str, Any](activations=_free(each, run)) for each in shapes]
    shared: dict[str, Any] = {"scores": _free(run.scores, run), "images": _free(run.images, run), "scorer": run.scorer}
    if "ablated_scores" in needs:
        for each, index in zip(layered, range(len(heads)), strict=True):
            each["ablated_scores"] = ablation.ablated_scores(
                run.scorer, run.layers[index], run.activations[index], heads[index], run.output, reshape, run.element
            )
    for pooling in ("mean", "max"):
        if f"{pooling}_pool_classifier" in needs:
            for index, each in enumerate(layered):
                each[f"{pooling}_pool_classifier"] = _classifier(heads[index], pooling, run, index)
    _add_gradients(run, heads, needs, reshape, shared, layered)
    return Evidence(shared), [Evidence(shared | each) for each in layered]


def _add_gradients(
    run: Run,
    heads: Sequence[pooled_head.Head | None],
    needs: Set[str],
    reshape: Reshape | None,
    shared: dict[str, Any],
    layered: list[dict[str, Any]],
) -> None:
    """Adds gradients at the layers and at the input: plain ones together, then those of each ReLU rule."""
    rules = [kind for kind in RELU_RULES if kind in needs]
    more = bool(rules) or run.watch is not None  # backward passes to come
    at_input = "input_gradients" in needs
    if "gradients" in needs:
        found, plain = _gradients(run, heads, at_input, keep_graph=more)
        for each, gradient in zip(layered, found, strict=True):
            each["gradients"] = _gradient_as_maps(_free(gradient, run), run, reshape)
    elif at_input:
        plain = input_gradients(run.scores, run.images, ["input_gradients"], run.differentiable, keep_graph=more)[
            "input_gradients"
        ]
    if at_input:
        shared["input_gradients"] = _free(plain, run)
    keep = run.watch is not None
    found_by_rule = input_gradients(run.scores, run.images, rules, run.differentiable, keep_graph=keep)
    shared |= {kind: _free(gradient, run) for kind, gradient in found_by_rule.items()}
    if run.watch is not None:
        shared["full_gradients"] = functools.partial(run.watch.backward, run.scores, run.images)


def _free(tensor: Tensor, run: Run) -> Tensor:
    """Out of the graph, unless the maps are to have gradients."""
    return tensor if run.differentiable else tensor.detach()


def _as_maps(activations: Tensor, layer: capture.Layer, reshape: Reshape | None) -> Tensor:
    shaped = reshape(activations) if reshape else activations
    if shaped.dim() < 3 or len(shaped) != len(activations):
        raise ValueError(
            f"target layer {layer.name!r} returns shape {tuple(activations.shape)}, not (N, C, ...) with a spatial "
            "map; choose another layer or pass reshape_transform="
        )
    return shaped


def _gradient_as_maps(gradient: Tensor, run: Run, reshape: Reshape | None) -> Tensor:
    if reshape is None:
        return gradient
    if run.scores.dim() == 1:
        return reshape(gradient)
    return reshape(gradient.flatten(0, 1)).unflatten(0, gradient.shape[:2])


def _classifier(found: pooled_head.Head | None, pooling: str, run: Run, index: int) -> Tensor:
    """The classifier's rows for the targets, (N, [K,] C)."""
    if found is None or found.pooling != pooling:
        name = "average" if pooling == "mean" else "max"
        raise ValueError(
            f"this method needs a model in which global {name} pooling and one linear layer follow target layer "
            f"{run.layers[index].name!r}, and nothing else; this one does not end so"
        )
    if run.scorer.bound.classes is None:
        raise ValueError("this method explains class indices; a callable target has no row in the classifier")
    # Autocast may have narrowed the weight.
    return _rows(found.weight, run.scorer.bound.classes, run.activations[index].dtype)


def _gradients(
    run: Run, heads: Sequence[pooled_head.Head | None], at_input: bool, keep_graph: bool
) -> tuple[list[Tensor], Tensor]:
    """Gradients of every layer, and of the images where asked for.

    In closed form behind global average pooling, where nothing needs gradients of gradients; by one backward pass for
    all the others.
    """
    closed = {
        i: _closed_form(run, found, i)
        for i, found in enumerate(heads)
        if found is not None and found.pooling == "mean" and not run.differentiable
    }
    remaining = [i for i in range(len(heads)) if i not in closed]
    wanted = [run.activations[i] for i in remaining] + ([run.images] if at_input else [])
    names = [f"target layer {run.layers[i].name!r}" for i in remaining] + ["the images"]
    found = []
    if wanted:
        found = capture.gradients(
            run.scores, wanted, names[: len(wanted)], keep_graph=keep_graph, differentiable=run.differentiable
        )
        closed |= dict(zip(remaining, found, strict=False))
    return [closed[i] for i in range(len(heads))], found[-1] if at_input else run.images


def _rows(weight: Tensor, classes: Tensor, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    """The classifier's rows (N, [K,] C) of classes (N, [K]), scaled; images with the same classes share them."""
    if classes.stride(0) == 0:  # "all"
        return (weight[classes[0]] * scale).to(dtype).expand(len(classes), *classes.shape[1:], -1)
    return (weight[classes] * scale).to(dtype)


def _closed_form(run: Run, found: pooled_head.Head, index: int) -> Tensor:
    """dy/dA = (dy/d output) W / P, the same at every position: a view that takes no memory."""
    bound, activations = run.scorer.bound, run.activations[index]
    spatial = activations.shape[2:]
    if bound.is_logit and bound.classes is not None:
        constant = _rows(found.weight, bound.classes, activations.dtype, 1 / spatial.numel())  # (N, [K,] C)
    else:
        output = run.output.detach().requires_grad_()
        scores = bound(output, run.scorer.rows)
        (slopes,) = capture.gradients(scores, [output], [f"target layer {run.layers[index].name!r}"])
        rows = slopes @ found.weight.to(slopes.dtype)  # slopes (N, [K,] classes)
        constant = (rows / spatial.numel()).to(activations.dtype)
    return constant[(..., *[None] * len(spatial))].expand(*constant.shape, *spatial)
