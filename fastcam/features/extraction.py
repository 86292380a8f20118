"""The feature vectors of images: the last hidden layer, or the pooled activations of a named one."""

import contextlib
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fastcam.inspect.recording import resolve, watching
from fastcam.inspect.survey import maps_of, with_map
from fastcam.model import running
from fastcam.model.capture import Layer

Pool: TypeAlias = Literal["mean", "max", "none"]


class Extracted(NamedTuple):
    """The vectors (N, D) of N images, and the model's output for them."""

    vectors: Tensor
    output: Any


@dataclass
class Extractor:
    """Makes the feature vectors of images.

    Attributes:
        model: any module of images (N, C, *S), in evaluation mode.
        layer: whose output is taken, a module of the model or its name; None for the input of the last linear layer,
            the last hidden layer of a classifier.
        pool: what is done with the positions of a map, or of tokens: "mean", "max", or "none" to keep them all.
    """

    model: nn.Module
    layer: str | nn.Module | None = None
    pool: Pool = "mean"
    _found: Layer | None = None
    _is_head: bool = False
    _is_resolved: bool = False  # whether the layer was looked at on the first images

    def __post_init__(self) -> None:
        if self.pool not in get_args(Pool):
            raise ValueError(f"`pool` must be one of {', '.join(get_args(Pool))}, got {self.pool!r}")
        if self.layer is not None:
            self._found = resolve(self.model, self.layer)[0]  # a mistake is told at once
        elif isinstance(self.model, torch.jit.ScriptModule):
            raise TypeError("of a TorchScript module no layer can be read: explain the nn.Module it was made from")

    @property
    def name(self) -> str:
        """The layer, as far as it is known before the first batch."""
        return "" if self._found is None else f"input of {self._found.name}" if self._is_head else self._found.name

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Extracted:
        """Return the vectors of images (N, C, *S).

        Raises:
            ValueError: for a model without a linear layer where none is named, or a layer without such an output.
        """
        if self._found is None:
            self._found, self._is_head = find_head(self.model, images[:1]), True
        elif not self._is_resolved:
            self._found = with_map(self.model, self._found, images[:1])
        self._is_resolved = True
        return self._run(self._found, images)

    def _run(self, layer: Layer, images: Tensor) -> Extracted:
        seen: list[Tensor] = []  # pooled at once: what comes behind the layer may work in place

        def see(_: Layer, tensors: list[Tensor]) -> None:
            seen.append(self._pooled(maps_of(layer, tensors, len(images))))

        def see_input(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            seen.append(self._pooled(_channels_second(module, arguments[0].detach())))

        with running.preserve_state(self.model), contextlib.ExitStack() as stack:
            if self._is_head:
                stack.callback(layer.module.register_forward_pre_hook(see_input).remove)
            else:
                stack.enter_context(watching([layer], see))
            output = running.call(self.model, images)
        if not seen:
            raise RuntimeError(f"layer {layer.name!r} was not reached in the forward pass")
        return Extracted(seen[-1], output)

    def _pooled(self, values: Tensor) -> Tensor:
        """Return activations (N, D, *S) as vectors, in memory of their own."""
        if values.dim() == 2 or self.pool == "none":
            return values.flatten(1).clone()
        flat = values.flatten(2)
        if self.pool == "max":
            return flat.amax(2)
        return flat.mean(2, dtype=torch.promote_types(flat.dtype, torch.float32))


def find_head(model: nn.Module, images: Tensor) -> Layer:
    """Return the last linear layer: the one whose output is the model's, else the last one that ran.

    Raises:
        ValueError: for a model without any.
    """
    ran: list[tuple[str, nn.Module, Tensor]] = []

    def hook_of(name: str) -> Any:
        def hook(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, Tensor) and arguments:
                ran.append((name, module, output))

        return hook

    with torch.no_grad(), running.preserve_state(model), contextlib.ExitStack() as stack:
        for name, module in model.named_modules():
            if _is_linear(module):
                stack.callback(module.register_forward_hook(hook_of(name)).remove)
        output = running.call(model, images)
    if not ran:
        raise ValueError("the model has no linear layer whose input could be its last hidden layer: name a layer")
    finals = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    heads = [(name, module) for name, module, values in ran if any(_are_same(values, leaf) for leaf in finals)]
    name, module = heads[-1] if heads else ran[-1][:2]
    return Layer(name, module)


def _is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer, or a convolution that is one at every position."""
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return set(module.kernel_size) == {1} and module.groups == 1
    return isinstance(module, nn.Linear)


def _are_same(values: Tensor, output: Tensor) -> bool:
    return values.numel() == output.numel() and torch.equal(values.flatten(), output.flatten())


def _channels_second(module: nn.Module, values: Tensor) -> Tensor:
    """Return the input of a linear layer as (N, D, ...)."""
    if isinstance(module, nn.Linear) and values.dim() > 2:
        return values.movedim(-1, 1)
    return values
