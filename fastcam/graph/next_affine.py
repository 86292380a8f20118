"""Which linear layer or convolution comes next behind a layer, read from the recorded graph."""

from typing import Any

from torch import Tensor, nn

from fastcam.graph import walk
from fastcam.model.capture import Layer

# Prefixes of nodes that keep channels apart and turn a channel of zeros into zeros.
_CHANNEL_BY_CHANNEL = (
    *walk.VIEWS,
    "AdaptiveAvgPool",
    "AdaptiveMaxPool",
    "AvgPool",
    "GeluBackward",
    "HardswishBackward",
    "MaxPool",
    "MkldnnAdaptiveAvgPool",
    "ReluBackward",
    "SiluBackward",
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
    users = walk.users(output)
    node = next((source for source in users if walk.is_source(source, activations)), activations.grad_fn)
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


def _is_plain(module: Any) -> bool:
    """Whether the layer is one product with its weight: no groups, no padding but zeros, not transposed."""
    if isinstance(module, nn.Linear):
        return True
    return module.groups == 1 and module.padding_mode == "zeros" and not module.transposed
