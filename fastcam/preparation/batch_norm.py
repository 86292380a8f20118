"""Fold batch norms into the preceding convolutions: the same function with fewer passes over memory."""

import contextlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.fusion import fuse_conv_bn_weights

from fastcam.graph import walk
from fastcam.model.batch_norms import affine_of, extra_modules, in_float64, is_batch_norm
from fastcam.model.inputs import Inputs

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class FoldReport:
    """The batch norms that were folded, and the modules that folding changed.

    Attributes:
        count: number of folded batch norms.
        remaining: number of batch norms that stay.
        changed: names of the modules that now return the output of the batch norm after them.
        merged_biases: names of the convolutions whose own bias was merged with that of the batch norm.
    """

    count: int = 0
    remaining: int = 0
    changed: tuple[str, ...] = ()
    merged_biases: tuple[str, ...] = ()


@dataclass
class _Recording:
    """The autograd nodes of the outputs and first inputs of every module, run by run."""

    output_nodes: dict[nn.Module, list[Node | None]] = field(default_factory=dict)
    input_nodes: dict[nn.Module, list[Node | None]] = field(default_factory=dict)

    def hook(self, module: nn.Module, arguments: tuple[object, ...], output: object) -> None:
        self.output_nodes.setdefault(module, []).append(getattr(output, "grad_fn", None))
        self.input_nodes.setdefault(module, []).append(getattr(arguments[0], "grad_fn", None) if arguments else None)

    def source(self, norm: nn.Module) -> tuple[_ConvNd, Node] | None:
        """Return the convolution whose only run computed the input of the norm's only run, and its node."""
        nodes = self.input_nodes.get(norm, [])
        node = nodes[0] if len(nodes) == 1 else None
        if node is None:
            return None
        convolutions = [
            module
            for module in self.modules_returning(node)
            if _is_convolution(module) and _is_computed_by(node, module)
        ]
        is_unique = len(convolutions) == 1 and len(self.output_nodes[convolutions[0]]) == 1
        return (convolutions[0], node) if is_unique else None

    def modules_returning(self, node: Node) -> list[nn.Module]:
        """Return the modules whose output has this node: the one that computed it, and containers that end in it."""
        return [module for module, nodes in self.output_nodes.items() if node in nodes]


def fold_batch_norms(model: nn.Module, inputs: Inputs, keep: Collection[nn.Module] = ()) -> FoldReport:
    """Fold every batch norm that is the only user of the output of one convolution.

    These are found in the autograd graph of one forward pass, independent of how the model calls its modules. A folded
    batch norm is replaced by an identity, so that its name still refers to the same activation; the output of the
    convolution itself changes.

    Args:
        model: in evaluation mode; changed in place.
        inputs: example inputs.
        keep: modules whose outputs must not change.
    """
    recording, output = _record(model, inputs.first())
    users, outputs = walk.users(output), Counter(walk.roots(output))
    names = {module: name for name, module in model.named_modules()}
    norms = [module for module in names if is_batch_norm(module)]
    changed: list[str] = []
    merged_biases: list[str] = []
    count = 0
    for norm in norms:
        source = recording.source(norm)
        if source is None:
            continue
        convolution, node = source
        returning = recording.modules_returning(node)
        if (
            len(users[node]) + outputs[node] != 1
            or not set(returning).isdisjoint(keep)
            or not _can_fold(convolution, norm)
        ):
            continue
        changed += [names[module] for module in returning]
        merged_biases += [names[convolution]] * (convolution.bias is not None)
        count += 1
        _fold(convolution, norm)
        model.set_submodule(names[norm], _without_normalization(norm))
    return FoldReport(count, len(norms) - count, tuple(changed), tuple(merged_biases))


def _record(model: nn.Module, inputs: Inputs) -> tuple[_Recording, object]:
    """Run the model and record the autograd nodes of its modules."""
    recording = _Recording()
    images = inputs.images.detach().clone().requires_grad_()
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for module in model.modules():
            if not isinstance(module, torch.jit.ScriptModule):
                stack.callback(module.register_forward_hook(recording.hook).remove)
        return recording, model(*inputs.replace_images(images.clone()).arguments)


def _is_convolution(module: nn.Module) -> TypeGuard[_ConvNd]:
    return isinstance(module, _ConvNd)


def _is_computed_by(node: Node, convolution: _ConvNd) -> bool:
    """Whether a node is the convolution with a module's own weight; the module may pad its input before."""
    if node.name() != "ConvolutionBackward0":
        return False
    weight: Tensor | None = node._saved_weight  # type: ignore[attr-defined]
    return weight is not None and weight.data_ptr() == convolution.weight.data_ptr()


def _can_fold(convolution: _ConvNd, norm: nn.Module) -> bool:
    """Whether both modules are plain: no hooks or parametrized weights, and constant statistics."""
    plain = not any(module._forward_hooks or module._forward_pre_hooks for module in (convolution, norm))
    owns_weights = set(convolution._parameters) == {"weight", "bias"} and isinstance(convolution.weight, nn.Parameter)
    return plain and owns_weights and _is_plain(norm) and affine_of(norm) is not None


def _is_plain(norm: nn.Module) -> bool:
    """Whether a batch norm is torch's own, or adds only dropout and an activation as submodules of known names."""
    if type(norm) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm):
        return True
    is_frozen = not isinstance(norm, _BatchNorm)
    return len(extra_modules(norm)) == 2 or (is_frozen and not any(norm.children()))


def _fold(convolution: _ConvNd, norm: nn.Module) -> None:
    """Replace the weight and bias of the convolution, computed in float64."""
    own_bias = None if convolution.bias is None else convolution.bias.detach().double()
    fuse: Callable[..., tuple[Tensor, Tensor]] = fuse_conv_bn_weights
    is_transposed = isinstance(convolution, _TRANSPOSED)
    with torch.no_grad():
        affine = affine_of(in_float64(norm))
        assert affine is not None
        zeros, ones = torch.zeros_like(affine.shift), torch.ones_like(affine.shift)
        weight = convolution.weight.detach().double()
        folded = fuse(weight, own_bias, zeros, ones, 0.0, affine.scale, affine.shift, is_transposed)
    dtype, requires_grad = convolution.weight.dtype, convolution.weight.requires_grad
    convolution.weight, convolution.bias = (
        nn.Parameter(tensor.to(dtype), requires_grad=requires_grad) for tensor in folded
    )


def _without_normalization(norm: nn.Module) -> nn.Module:
    """Return what a batch norm computes besides the normalization."""
    extra = extra_modules(norm)
    return (nn.Sequential(OrderedDict(extra)) if extra else nn.Identity()).eval()
