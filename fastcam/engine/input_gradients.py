"""Gradients with respect to the images: the plain ones, and those of the rules for ReLUs."""

from collections.abc import Sequence

from torch import Tensor

from fastcam.graph.relu_rules import ReluRule, relu_rule
from fastcam.model.gradients import gradients

RELU_RULES: dict[str, ReluRule] = {"guided_gradients": "guided", "deconvnet_gradients": "deconvnet"}


def input_gradients(
    scores: Tensor, images: Tensor, kinds: Sequence[str], differentiable: bool = False, *, keep_graph: bool = False
) -> dict[str, Tensor]:
    """Return the gradients (N, [K,] C, *S) of scores with respect to the images, by kind, from one recorded pass.

    Args:
        scores: (N,) or (N, K), in the graph.
        images: (N, C, *S), leaf of the graph.
        kinds: "input_gradients", "guided_gradients", "deconvnet_gradients".
        differentiable: record the backward passes.
        keep_graph: whether another backward pass follows.
    """
    gradients_of: dict[str, Tensor] = {}
    for kind in kinds:
        keep = keep_graph or kind != kinds[-1]

        def backward(keep: bool = keep) -> Tensor:
            return gradients(scores, [images], ["the images"], keep_graph=keep, differentiable=differentiable)[0]

        if kind in RELU_RULES:
            with relu_rule(scores, RELU_RULES[kind]):
                gradients_of[kind] = backward()
        else:
            gradients_of[kind] = backward()
    return gradients_of
