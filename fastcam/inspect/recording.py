"""What layers return while the caller runs the model, without lasting changes to it."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from fastcam.model import layers as model_layers
from fastcam.model import quantised
from fastcam.model.capture import Layer
from fastcam.model.running import includes_compiled

Layers = str | nn.Module | Sequence[str | nn.Module]
See = Callable[[Layer, list[Tensor]], None]


class Recording(Mapping[str, Tensor]):
    """The outputs of layers, by name: of each the last one, detached.

    Attributes:
        runs: of every layer all outputs, in the order of its runs, each a list of the tensors in it.
        gradients: by layer, with respect to its last output that a backward pass in the context reached.
    """

    def __init__(self, layers: Sequence[str]) -> None:
        self.runs: dict[str, list[list[Tensor]]] = {name: [] for name in layers}
        self.gradients: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.runs:
            raise KeyError(f"layer {name!r} was not recorded, only {', '.join(self.runs)}")
        if not self.runs[name]:
            raise KeyError(f"layer {name!r} has not run yet")
        tensors = self.runs[name][-1]
        if len(tensors) != 1:
            raise KeyError(f"layer {name!r} returned {len(tensors)} tensors: they are in `runs`")
        return tensors[0]

    def __iter__(self) -> Iterator[str]:
        return (name for name, runs in self.runs.items() if runs)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def clear(self) -> None:
        """Forget what was recorded, before the next batch for example."""
        for runs in self.runs.values():
            runs.clear()
        self.gradients.clear()


@contextlib.contextmanager
def recording(model: nn.Module, layers: Layers, *, gradients: bool = False) -> Iterator[Recording]:
    """Record what layers return while the caller runs the model, in any way and as often as wanted.

    >>> with fastcam.recording(model, ["layer3", "layer4"], gradients=True) as seen:
    ...     model(images)[:, 281].sum().backward()
    >>> seen["layer4"], seen.gradients["layer4"]  # (N, 2048, 7, 7) each

    Recorded tensors are copies, which in-place modules behind the layer do not change. Passes of other threads are not
    recorded. The hooks are gone at the end, whatever happens.

    Args:
        model: any module.
        layers: a module of the model, its name, or a list of either.
        gradients: also record the gradients of backward passes in the context.

    Yields:
        The recording.

    Raises:
        ValueError, TypeError: for a layer that the model does not have, TorchScript, or compiled code, which ignores
            hooks.
    """
    chosen = resolve(model, layers)
    seen = Recording([layer.name for layer in chosen])
    with contextlib.ExitStack() as stack:

        def keep(layer: Layer, tensors: list[Tensor]) -> None:
            seen.runs[layer.name].append([tensor.detach().clone() for tensor in tensors])
            for tensor in tensors:
                if gradients and tensor.requires_grad:
                    stack.callback(_keep_gradient(seen, layer.name, tensor).remove)

        stack.enter_context(watching(chosen, keep))
        yield seen


def resolve(model: nn.Module, layers: Layers) -> list[Layer]:
    """Return the layers.

    Raises:
        ValueError, TypeError: as :func:`recording`.
    """
    if includes_compiled(model):
        raise ValueError("compiled code ignores hooks: record the layers of the module that was compiled")
    named = [layers] if isinstance(layers, str | nn.Module) else list(layers)
    if not named:
        raise ValueError("`layers` must name at least one layer, got an empty list")
    return [model_layers.resolve_one(model, each) for each in named]


@contextlib.contextmanager
def watching(layers: Sequence[Layer], see: See) -> Iterator[None]:
    """Call ``see`` with the tensors that a layer returns, in every run of the calling thread."""
    thread = threading.get_ident()

    def hook_of(layer: Layer) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: tuple[object, ...], output: Any) -> None:
            if threading.get_ident() == thread:
                tensors = [quantised.values_of(leaf) for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
                see(layer, tensors)

        return hook

    with contextlib.ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.module.register_forward_hook(hook_of(layer)).remove)
        yield


def _keep_gradient(seen: Recording, name: str, tensor: Tensor) -> RemovableHandle:
    def keep(gradient: Tensor) -> None:
        seen.gradients[name] = gradient.detach().clone()

    handle: RemovableHandle = tensor.register_hook(keep)
    return handle
