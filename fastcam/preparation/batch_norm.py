"""Batch norms folded into the convolutions in front of them: fewer passes over memory, the same function."""

import contextlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._pytree import tree_leaves

from fastcam.model.inputs import Inputs

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# What a batch norm of some libraries does besides, as modules of its own: dropout, then the activation.
_INSIDE = ("drop", "act")


@dataclass(frozen=True)
class Folded:
    """What was folded, and what was not.

    Attributes:
        count: number of batch norms that are gone.
        left: number of those that stay.
        changed: names of the modules that now return what the batch norm behind them returned.
        biased: names of the convolutions that had a bias of their own, now one with that of the batch norm.
    """

    count: int = 0
    left: int = 0
    changed: tuple[str, ...] = ()
    biased: tuple[str, ...] = ()


@dataclass
class _Trace:
    """Which nodes of the recorded graph every module made, and which nodes it worked on, run by run."""

    made: dict[nn.Module, list[Any]] = field(default_factory=dict)
    used: dict[nn.Module, list[Any]] = field(default_factory=dict)

    def hook(self, module: nn.Module, arguments: Any, output: Any) -> None:
        self.made.setdefault(module, []).append(getattr(output, "grad_fn", None))
        self.used.setdefault(module, []).append(getattr(arguments[0], "grad_fn", None) if arguments else None)

    def source(self, norm: nn.Module) -> tuple[nn.Module, Any] | None:
        """The convolution whose only run made what the norm's only run worked on, and the node of that."""
        nodes = self.used.get(norm, [])
        if len(nodes) != 1 or nodes[0] is None:
            return None
        found = [each for each, made in self.made.items() if nodes[0] in made and _convolves(each, nodes[0])]
        return (found[0], nodes[0]) if len(found) == 1 and len(self.made[found[0]]) == 1 else None


def fold_batch_norms(model: nn.Module, inputs: Inputs, keep: Collection[nn.Module] = ()) -> Folded:
    """Folds every batch norm that works on what one convolution returned, and nothing else does.

    The recorded graph of one forward pass says which do, in whatever order and style the model calls its modules. In
    place of a batch norm stands a module that passes on what it gets, so that its name still names the activation it
    did; the convolution's own changes.

    Args:
        model: in evaluation mode; changed in place.
        inputs: what the model takes.
        keep: modules whose outputs must stay what they are.
    """
    trace, output = _traced(model, inputs.first())
    consumers = _consumers(output)
    names = {module: name for name, module in model.named_modules()}
    norms = [each for each in names if isinstance(each, nn.modules.batchnorm._BatchNorm)]
    changed: list[str] = []
    biased: list[str] = []
    count = 0
    for norm in norms:
        source = trace.source(norm)
        if source is None:
            continue
        convolution, node = source
        holders = [each for each, made in trace.made.items() if node in made]  # containers may end in the convolution
        if consumers[node] != 1 or not set(holders).isdisjoint(keep) or not _foldable(convolution, norm):
            continue
        changed += [names[each] for each in holders]
        biased += [names[convolution]] * (convolution.bias is not None)
        count += 1
        _fold(convolution, norm)
        model.set_submodule(names[norm], _rest_of(norm))
    return Folded(count, len(norms) - count, tuple(changed), tuple(biased))


def _traced(model: nn.Module, inputs: Inputs) -> tuple[_Trace, Any]:
    trace = _Trace()
    images = inputs.images.detach().clone().requires_grad_()
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for module in model.modules():
            if not isinstance(module, torch.jit.ScriptModule):
                stack.callback(module.register_forward_hook(trace.hook).remove)
        return trace, model(images.clone(), *inputs.others)


def _consumers(output: Any) -> Counter[Any]:
    """How many nodes of the graph behind an output use what each node made."""
    counts: Counter[Any] = Counter()
    pending = [each.grad_fn for each in tree_leaves(output) if isinstance(each, Tensor) and each.grad_fn is not None]
    seen = set(pending)
    counts.update(pending)
    while pending:
        for following, _ in pending.pop().next_functions:
            if following is None:
                continue
            counts[following] += 1
            if following not in seen:
                seen.add(following)
                pending.append(following)
    return counts


def _convolves(module: nn.Module, node: Any) -> bool:
    """Whether a node is the convolution with a module's own weight, however the module pads its input before."""
    if not isinstance(module, nn.modules.conv._ConvNd) or node.name() != "ConvolutionBackward0":
        return False
    return node._saved_weight is not None and node._saved_weight.data_ptr() == module.weight.data_ptr()


def _foldable(convolution: nn.Module, norm: Any) -> bool:
    """Whether both are what their classes say, without hooks and with statistics that are constants."""
    plain = not any(each._forward_hooks or each._forward_pre_hooks for each in (convolution, norm))
    own = set(convolution._parameters) == {"weight", "bias"} and isinstance(convolution.weight, nn.Parameter)
    return plain and own and norm.running_mean is not None and not norm.training and _is_plain(norm)


def _is_plain(norm: nn.Module) -> bool:
    """A batch norm as torch has it, or one that adds dropout and an activation and names them."""
    if type(norm) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm):
        return True
    return all(isinstance(getattr(norm, name, None), nn.Module) for name in _INSIDE)


def _fold(convolution: Any, norm: Any) -> None:
    """Exchanges weight and bias, computed in float64."""
    statistics: Sequence[Tensor | None] = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    mean, variance, weight, bias = (None if each is None else each.detach().double() for each in statistics)
    own_bias = None if convolution.bias is None else convolution.bias.detach().double()
    fused: Callable[..., tuple[Tensor, Tensor]] = fuse_conv_bn_weights
    is_transposed = isinstance(convolution, _TRANSPOSED)
    with torch.no_grad():
        new = fused(
            convolution.weight.detach().double(), own_bias, mean, variance, norm.eps, weight, bias, is_transposed
        )
    dtype, wanted = convolution.weight.dtype, convolution.weight.requires_grad
    convolution.weight, convolution.bias = (nn.Parameter(each.to(dtype), requires_grad=wanted) for each in new)


def _rest_of(norm: nn.Module) -> nn.Module:
    """What a batch norm does besides normalising."""
    inside = [(name, each) for name in _INSIDE if (each := norm._modules.get(name)) is not None]
    return (nn.Sequential(OrderedDict(inside)) if inside else nn.Identity()).eval()
