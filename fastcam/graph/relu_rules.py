"""Other rules for the backward pass through rectifiers: guided backpropagation and the deconvolutional network.

The rules act on the nodes of one recorded graph. Modules, functions and in-place operations leave the same nodes, the
model is not touched, another thread has another graph, and the rules go with the graph they were put on.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from fastcam.graph import walk

ReluRule = Literal["guided", "deconvnet"]
Slopes = tuple[Tensor | None, ...]

# What cuts at zero, by the name of its node and of the bound that the node saved (None: it has none, zero is meant).
_CUTS = {
    "ReluBackward0": None,
    "HardtanhBackward0": "_saved_min_val",
    "ThresholdBackward0": "_saved_threshold",
    "ThresholdBackward1": "_saved_threshold",
    "ClampBackward1": "_saved_min",
    "ClampMinBackward0": "_saved_min",
}
_SMOOTH = ("SiluBackward0", "GeluBackward0")  # their output has the sign of their input


def rectifies(node: Any) -> bool:
    """Whether a node cuts at zero, or is smooth and keeps the sign: ReLU, ReLU6, SiLU, GELU."""
    return cuts_at_zero(node) or node.name() in _SMOOTH


@contextlib.contextmanager
def relu_rule(scores: Tensor, rule: ReluRule, chosen: Callable[[Any], bool] = rectifies) -> Iterator[None]:
    """Within the context, backward passes from ``scores`` follow the rule at every rectifier.

    With f the rectifier's output, R the gradient that arrives at it and f' its slope:

    - "guided" (Springenberg et al. 2015, arXiv:1412.6806): (f > 0) (R > 0) f' R;
    - "deconvnet" (Zeiler and Fergus 2014, arXiv:1311.2901): (R > 0) R.

    ReLU, ReLU6 (f' = 1 between its bounds), SiLU and GELU count as rectifiers; other activations keep their derivative.

    Args:
        scores: in the graph.
        rule: what becomes of gradients.
        chosen: which of the graph's rectifiers follow it.

    Raises:
        RuntimeError: where TorchScript has compiled operations into one, so that the rectifiers cannot be seen.
    """
    nodes = list(walk.nodes(scores))
    if any("DifferentiableGraph" in node.name() for node in nodes):
        raise RuntimeError(
            "TorchScript has compiled this model for training, and its rectifiers cannot be seen any more; explain the "
            "model that it was made from, or load it anew"
        )
    rectifiers = [node for node in nodes if rectifies(node) and chosen(node)]
    handles = [node.register_hook(_hook(node, rule)) for node in rectifiers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(node: Any, rule: ReluRule) -> Callable[[Slopes, Slopes], Slopes]:
    if rule == "deconvnet":
        return lambda after, before: (*map(_positive, before[:1]), *after[1:])
    if node.name() not in _SMOOTH:  # what leaves is R where f > 0 and 0 elsewhere
        return lambda after, before: (*map(_positive, after[:1]), *after[1:])

    def guided(after: Slopes, before: Slopes) -> Slopes:
        slope = _positive(after[0])
        return (None if slope is None else torch.where(node._saved_self > 0, slope, 0), *after[1:])

    return guided


def cuts_at_zero(node: Any) -> bool:
    """Whether a node is a ReLU of some kind, by its bounds."""
    if node.name() not in _CUTS:
        return False
    bound = _CUTS[node.name()]
    return bound is None or getattr(node, bound) == 0


def _positive(gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else gradient.clamp(min=0)
