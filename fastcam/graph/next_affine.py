"""Which linear layer or convolution comes next behind a layer, read from the recorded graph."""

from collections import defaultdict
from typing import Any

from torch import Tensor, nn

from fastcam.model.capture import Layer

# Nodes that keep channels apart and turn a channel of zeros into zeros.
_CHANNEL_BY_CHANNEL = (
    "AdaptiveAvgPool",
    "AdaptiveMaxPool",
    "AliasBackward",
    "AvgPool",
    "CloneBackward",
    "GeluBackward",
    "HardswishBackward",
    "MaxPool",
    "MkldnnAdaptiveAvgPool",
    "ReluBackward",
    "ReshapeAliasBackward",
    "SiluBackward",
    "SqueezeBackward",
    "UnsafeViewBackward",
    "UnsqueezeBackward",
    "ViewBackward",
)
_AFFINE = {"AddmmBackward0": "_saved_mat2", "ConvolutionBackward0": "_saved_weight"}  # and where each keeps its weight


def following_affine(model: nn.Module, output: Any, activations: Tensor) -> Layer | None:
    """The only linear layer or convolution that uses the activations, each channel still apart; None without one.

    Args:
        model: the model.
        output: a tensor in the graph behind the activations.
        activations: what a layer returned.
    """
    node = _next_affine(output, activations) if isinstance(output, Tensor) else None
    weight = None if node is None else getattr(node, _AFFINE[node.name()])
    if weight is None:
        return None
    found = [
        Layer(name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd) and module.weight.data_ptr() == weight.data_ptr()
    ]
    return found[0] if len(found) == 1 and _is_plain(found[0].module) else None


def _next_affine(output: Tensor, activations: Tensor) -> Any:
    users = _users(output)
    node = next((each for each in users if getattr(each, "variable", None) is activations), activations.grad_fn)
    while node is not None and len(users[node]) == 1:
        (node,) = users[node]
        if node.name() in _AFFINE:
            return node
        if not node.name().startswith(_CHANNEL_BY_CHANNEL) or not _has_channels(node, activations):
            return None
    return None


def _has_channels(node: Any, activations: Tensor) -> bool:
    """Whether what a view looks at has the rows and channels of the activations, or is flat behind the rows."""
    sizes = getattr(node, "_saved_self_sym_sizes", activations.shape)
    return tuple(sizes[:2]) == tuple(activations.shape[:2]) or (len(sizes) == 2 and sizes[0] == len(activations))


def _users(output: Tensor) -> dict[Any, list[Any]]:
    """For every node of the graph behind the output, the nodes that use what it stands for."""
    users: dict[Any, list[Any]] = defaultdict(list)
    pending, seen = [output.grad_fn], {output.grad_fn}
    while pending:
        node = pending.pop()
        if node is None:
            continue
        for following, _ in node.next_functions:
            if following is not None:
                users[following].append(node)
            if following not in seen:
                seen.add(following)
                pending.append(following)
    return users


def _is_plain(module: Any) -> bool:
    """Whether the layer is one product with its weight: no groups, no padding but zeros, not transposed."""
    if isinstance(module, nn.Linear):
        return True
    return module.groups == 1 and module.padding_mode == "zeros" and not module.transposed
