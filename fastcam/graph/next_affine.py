"""The linear layer or convolution that follows a layer, read from the recorded graph."""

from torch import Tensor, nn
from torch.autograd.graph import Node

from fastcam.graph import walk
from fastcam.model.capture import Layer
from fastcam.model.elements import ModelOutput

# Prefixes of nodes that act on each channel separately and map a channel of zeros to zeros.
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
_AFFINE = {"AddmmBackward0": "mat2", "ConvolutionBackward0": "weight"}  # affine nodes and the names of their weights


def next_affine_layer(model: nn.Module, output: ModelOutput, activations: Tensor) -> Layer | None:
    """Return the only linear layer or convolution that uses the activations, channels still separate; None without one.

    Args:
        model: the model.
        output: a tensor in the graph after the activations.
        activations: the output of a layer.
    """
    node = _next_affine_node(output, activations) if isinstance(output, Tensor) else None
    weight = None if node is None else walk.saved(node, _AFFINE[node.name()])
    if weight is None:
        return None
    candidates = [
        Layer(name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd) and module.weight.data_ptr() == weight.data_ptr()
    ]
    return candidates[0] if len(candidates) == 1 and _is_plain(candidates[0].module) else None


def _next_affine_node(output: Tensor, activations: Tensor) -> Node | None:
    users = walk.users(output)
    node = next((source for source in users if walk.is_source(source, activations)), activations.grad_fn)
    while node is not None and len(users[node]) == 1:
        (node,) = users[node]
        if node.name() in _AFFINE:
            return node
        if not node.name().startswith(_CHANNEL_BY_CHANNEL) or not _has_channels(node, activations):
            return None
    return None


def _has_channels(node: Node, activations: Tensor) -> bool:
    """Whether the input of a view has the rows and channels of the activations, or is (N, features)."""
    sizes = walk.saved(node, "self_sym_sizes", activations.shape)
    return tuple(sizes[:2]) == tuple(activations.shape[:2]) or (len(sizes) == 2 and sizes[0] == len(activations))


def _is_plain(module: nn.Module) -> bool:
    """Whether the layer is linear, or a convolution without groups, with zero padding and not transposed."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return module.groups == 1 and module.padding_mode == "zeros" and not module.transposed
    return isinstance(module, nn.Linear)
