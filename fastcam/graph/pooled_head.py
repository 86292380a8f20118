"""Recognizes a pooling-and-linear head in the recorded graph, whose gradient needs no backward pass."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.autograd.graph import Node

from fastcam.graph import walk
from fastcam.model.elements import ModelOutput


@dataclass(frozen=True)
class Head:
    """output[n, k] = sum_c weight[k, c] * pool_p activations[n, c, p] + bias[k].

    Attributes:
        pooling: "mean" or "max", over all positions.
        weight: (classes, C).
    """

    pooling: Literal["mean", "max"]
    weight: Tensor


def recognize(output: ModelOutput, activations: Tensor, with_graph: bool = False) -> Head | None:
    """Return the head between ``activations`` (N, C, *S) and ``output`` (N, classes), or None if there is another one.

    The autograd graph records exactly the operations that ran, independent of modules and functions: global average or
    max pooling, then a linear layer or a 1x1 convolution (for the average, also in the other order), and nothing else.
    ``with_graph`` leaves the weight in the graph of the model's parameters.
    """
    if not isinstance(output, Tensor) or output.dim() != 2 or activations.dim() < 3:
        return None
    pooling: Literal["mean", "max"] | None = None
    weight: Tensor | None = None
    node = output.grad_fn
    while node is not None and not walk.is_source(node, activations):
        classifier = _classifier(node) if weight is None else None
        pooled = _pooling(node, activations) if pooling is None else None
        if classifier is not None and pooling != "max":
            weight, following = classifier
            others = [other for i, (other, _) in enumerate(node.next_functions) if i != following]
            if any(walk.depends_on(other, activations) for other in others):
                return None
        elif pooled is not None:
            pooling, following = pooled, 0
        elif _is_transparent(node, activations):
            following = 0
        else:
            return None
        node = node.next_functions[following][0]
    if node is None or pooling is None or weight is None:
        return None
    fits = weight.shape[1] == activations.shape[1] and output.shape == (activations.shape[0], weight.shape[0])
    return Head(pooling, weight if with_graph else weight.detach()) if fits else None


def _classifier(node: Node) -> tuple[Tensor, int] | None:
    """Return the weight (classes, C) of a linear layer or 1x1 convolution, and the index of the activations' input."""
    name = node.name()
    if name in ("AddmmBackward0", "MmBackward0") and walk.saved(node, "mat2") is not None:  # None: no gradient required
        with_bias = name == "AddmmBackward0"
        return (walk.saved(node, "mat2").T, int(with_bias)) if not with_bias or walk.saved(node, "alpha") == 1 else None
    if name == "ConvolutionBackward0":
        weight = walk.saved(node, "weight")
        plain = (
            all(s == 1 for s in walk.saved(node, "stride"))
            and not any(walk.saved(node, "padding"))
            and walk.saved(node, "groups") == 1
        )
        if plain and not walk.saved(node, "transposed") and weight[0, 0].numel() == 1:
            return weight.flatten(1), 0
    return None


def _pooling(node: Node, activations: Tensor) -> Literal["mean", "max"] | None:
    """Return the node's global pooling, if it pools all positions of a tensor with the shape of the activations."""
    name = node.name()
    spatial = activations.shape[2:]
    if name == "MeanBackward1":
        return "mean" if _covers(walk.saved(node, "dim"), walk.saved(node, "self_sym_sizes"), spatial) else None
    if name == "AmaxBackward0":
        return "max" if _covers(walk.saved(node, "dim"), walk.saved(node, "self").shape, spatial) else None
    if not name.startswith(("AdaptiveMaxPool", "AvgPool", "MaxPool")):
        return None
    pooled = walk.saved(node, "self").shape[2:]
    if name.startswith("Adaptive"):
        whole = math.prod(walk.saved(node, "result1").shape[2:]) == 1
    else:
        whole = tuple(walk.saved(node, "kernel_size")) == tuple(pooled) and not any(walk.saved(node, "padding"))
    plain = walk.saved(node, "divisor_override", None) is None
    if not whole or not plain or math.prod(pooled) != math.prod(spatial):
        return None
    return "mean" if name.startswith("Avg") else "max"


def _covers(axes: Sequence[int], sizes: Sequence[int], spatial: Sequence[int]) -> bool:
    """Whether a reduction of (N, C, *sizes[2:]) over ``axes`` pools all positions and nothing else."""
    rank = len(sizes)
    pooled = {(axis if axis < rank else axis - 2**64) % rank for axis in axes}  # negative axes are stored as unsigned
    return pooled == set(range(2, rank)) and math.prod(sizes[2:]) == math.prod(spatial)


def _is_transparent(node: Node, activations: Tensor) -> bool:
    """Whether the node only moves or reshapes values."""
    if node.name().startswith("AsStridedBackward"):  # channels_last pooling sets the strides of (N, C, 1, 1)
        sizes, strides = walk.saved(node, "size"), walk.saved(node, "stride")
        in_place = (
            strides[1] == 1 and (sizes[0] == 1 or strides[0] == sizes[1]) and not walk.saved(node, "storage_offset")
        )
        return sizes[0] == activations.shape[0] and math.prod(sizes[2:]) == 1 and in_place
    return node.name().startswith((*walk.VIEWS, "ToCopyBackward"))
