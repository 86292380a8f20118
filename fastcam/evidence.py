"""What the rules work on, gathered from one forward pass: activations, gradients, classifiers."""

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fastcam import capture, head, targets
from fastcam.registry import Need

Reshape = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Run:
    """One forward pass and what of it is to be explained."""

    layers: Sequence[capture.Layer]
    activations: Sequence[Tensor]  # as the layers returned them, in the graph
    output: Any
    scores: targets.Scores
    target: targets.Target


@dataclass(frozen=True)
class Evidence:
    """The arguments of the rules for one layer; None where no rule needs them."""

    activations: Tensor  # (N, C, *S)
    gradients: Tensor | None  # (N, [K,] C, *S)
    mean_pool_classifier: Tensor | None  # (N, [K,] C)
    max_pool_classifier: Tensor | None  # (N, [K,] C)


def gather(run: Run, needs: Set[Need], reshape: Reshape | None) -> list[Evidence]:
    """The evidence of every layer.

    Args:
        run: the forward pass.
        needs: what the methods need.
        reshape: from what a layer returns to (N, C, *S), or None where it returns that.

    Raises:
        ValueError: for a layer without a spatial map, or a classifier that is not there.
        RuntimeError: for a layer without a gradient.
    """
    # Behind a reshape transform the positions are not the axes the head pools over.
    heads = [None if reshape else head.recognize(run.output, each) for each in run.activations]
    gradients = _gradients(run, heads) if "gradients" in needs else [None] * len(heads)
    return [
        Evidence(
            _as_maps(run.activations[i].detach(), layer, reshape),
            None if (gradient := gradients[i]) is None else _gradient_as_maps(gradient.detach(), run, reshape),
            _classifier(heads[i], "mean", run, i) if "mean_pool_classifier" in needs else None,
            _classifier(heads[i], "max", run, i) if "max_pool_classifier" in needs else None,
        )
        for i, layer in enumerate(run.layers)
    ]


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
    if run.scores.values.dim() == 1:
        return reshape(gradient)
    return reshape(gradient.flatten(0, 1)).unflatten(0, gradient.shape[:2])


def _classifier(found: head.Head | None, pooling: str, run: Run, index: int) -> Tensor:
    """The classifier's rows for the targets, (N, [K,] C)."""
    if found is None or found.pooling != pooling:
        name = "average" if pooling == "mean" else "max"
        raise ValueError(
            f"this method needs a model in which global {name} pooling and one linear layer follow target layer "
            f"{run.layers[index].name!r}, and nothing else; this one does not end so"
        )
    if run.scores.classes is None:
        raise ValueError("this method explains class indices; a callable target has no row in the classifier")
    return found.weight[run.scores.classes].to(run.activations[index].dtype)  # autocast may have narrowed it


def _gradients(run: Run, heads: Sequence[head.Head | None]) -> list[Tensor]:
    """Gradients of every layer: in closed form behind global average pooling, by one backward pass otherwise."""
    closed = {
        i: _closed_form(run, found, i) for i, found in enumerate(heads) if found is not None and found.pooling == "mean"
    }
    remaining = [i for i in range(len(heads)) if i not in closed]
    if remaining:
        activations = [run.activations[i] for i in remaining]
        found = capture.gradients(run.scores.values, activations, [run.layers[i].name for i in remaining])
        closed |= dict(zip(remaining, found, strict=True))
    return [closed[i] for i in range(len(heads))]


def _closed_form(run: Run, found: head.Head, index: int) -> Tensor:
    """dy/dA = (dy/d output) W / P, the same at every position: a view that takes no memory."""
    if run.scores.classes is not None:
        rows = found.weight[run.scores.classes]  # (N, [K,] C)
    else:
        output = run.output.detach().requires_grad_()
        scores = targets.score(output, run.target, len(output))
        (slopes,) = capture.gradients(scores.values, [output], [run.layers[index].name])  # (N, [K,] classes)
        rows = slopes @ found.weight.to(slopes.dtype)
    spatial = run.activations[index].shape[2:]
    constant = (rows / spatial.numel()).to(run.activations[index].dtype)
    return constant.reshape(*constant.shape, *([1] * len(spatial))).expand(*constant.shape, *spatial)
