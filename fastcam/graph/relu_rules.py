"""Modified backward rules for ReLUs: guided backpropagation and the deconvolutional network.

The rules act on the nodes of one recorded graph. Modules, functions and in-place operations record the same nodes, the
model is not changed, other threads have other graphs, and the rules are freed with their graph.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.autograd.graph import Node

from fastcam.graph import walk

ReluRule = Literal["guided", "deconvnet"]
Slopes = tuple[Tensor | None, ...]

# Nodes of rectifiers and the names of their saved lower bounds (None: the bound is zero).
_LOWER_BOUNDS = {
    "ReluBackward0": None,
    "HardtanhBackward0": "min_val",
    "ThresholdBackward0": "threshold",
    "ThresholdBackward1": "threshold",
    "ClampBackward1": "min",
    "ClampMinBackward0": "min",
}
_SMOOTH = ("SiluBackward0", "GeluBackward0")  # their output has the sign of their input


def rectifies(node: Node) -> bool:
    """Whether a node is a rectifier, hard or smooth: ReLU, ReLU6, SiLU, GELU."""
    return cuts_at_zero(node) or node.name() in _SMOOTH


@contextlib.contextmanager
def relu_rule(scores: Tensor, rule: ReluRule, chosen: Callable[[Node], bool] = rectifies) -> Iterator[None]:
    """Apply the rule at every rectifier in backward passes from ``scores`` within the context.

    With f the rectifier's output, R the incoming gradient and f' its slope:

    - "guided" (Springenberg et al. 2015, arXiv:1412.6806): (f > 0) (R > 0) f' R;
    - "deconvnet" (Zeiler and Fergus 2014, arXiv:1311.2901): (R > 0) R.

    ReLU, ReLU6 (f' = 1 between its bounds), SiLU and GELU count as rectifiers; others keep their derivatives.

    Args:
        scores: in the graph.
        rule: the rule for gradients.
        chosen: whether a rectifier of the graph follows it.

    Raises:
        RuntimeError: if TorchScript has fused operations, which hides the rectifiers.
    """
    nodes = list(walk.nodes(scores))
    if any("DifferentiableGraph" in node.name() for node in nodes):
        raise RuntimeError(
            "TorchScript has compiled this model for training, and its rectifiers cannot be seen any more; explain the "
            "model that it was made from, or load it again"
        )
    rectifiers = [node for node in nodes if rectifies(node) and chosen(node)]
    handles = [node.register_hook(_hook(node, rule)) for node in rectifiers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(node: Node, rule: ReluRule) -> Callable[[Slopes, Slopes], Slopes]:
    if rule == "deconvnet":
        return lambda after, before: (*map(_positive, before[:1]), *after[1:])
    if node.name() not in _SMOOTH:  # the outgoing gradient is R where f > 0 and 0 elsewhere
        return lambda after, before: (*map(_positive, after[:1]), *after[1:])

    def guided(after: Slopes, before: Slopes) -> Slopes:
        slope = _positive(after[0])
        return (None if slope is None else torch.where(walk.saved(node, "self") > 0, slope, 0), *after[1:])

    return guided


def cuts_at_zero(node: Node) -> bool:
    """Whether a node is a ReLU, or a clamp with a lower bound of zero."""
    if node.name() not in _LOWER_BOUNDS:
        return False
    bound = _LOWER_BOUNDS[node.name()]
    return bound is None or walk.saved(node, bound) == 0


def _positive(gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else gradient.clamp(min=0)
