"""The feature vectors of images: the last hidden layer, or the pooled activations of a named one."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fastcam.inspect.recording import resolve, watching
from fastcam.inspect.survey import maps_of, with_map
from fastcam.model import running
from fastcam.model.capture import Layer

Pool: TypeAlias = Literal["mean", "max", "none"]
Result = TypeVar("Result")


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
        with running.preserve_state(self.model), self._pooling(images, lambda: True) as seen:
            output = running.call(self.model, images)
        if not seen:
            raise RuntimeError(f"layer {self.name!r} was not reached in the forward pass")
        return Extracted(seen[-1], output)

    def alongside(self, images: Tensor, run: Callable[[], Result]) -> tuple[Result, Tensor]:
        """Return what a function returns that runs the model, and the vectors of images (N, C, *S).

        Where one of its passes is of these very images, as the first one of an explanation is, the vectors come from
        that pass; otherwise from a pass of their own.

        Raises:
            ValueError: as a call.
        """
        thread, is_of_images = threading.get_ident(), False
        vectors: list[Tensor] = []

        def begin(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            nonlocal is_of_images
            if threading.get_ident() == thread:
                seen.clear()
                leaves = [leaf for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)]
                is_of_images = not vectors and any(_are_equal(leaf, images) for leaf in leaves)

        def end(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            if threading.get_ident() == thread and is_of_images and seen:
                vectors.append(seen[-1])

        with self._pooling(images, lambda: is_of_images) as seen, contextlib.ExitStack() as stack:
            stack.callback(self.model.register_forward_pre_hook(begin).remove)
            stack.callback(self.model.register_forward_hook(end).remove)
            result = run()
        return result, vectors[0] if vectors else self(images).vectors

    def _resolved(self, images: Tensor) -> Layer:
        """Return the layer, looked for in a pass of one image the first time."""
        if self._found is None:
            self._found, self._is_head = find_head(self.model, images[:1]), True
        elif not self._is_resolved:
            self._found = with_map(self.model, self._found, images[:1])
        self._is_resolved = True
        return self._found

    @contextlib.contextmanager
    def _pooling(self, images: Tensor, is_wanted: Callable[[], bool]) -> Iterator[list[Tensor]]:
        """Yield a list to which wanted runs of the layer on images add their vectors.

        They are pooled at once: what comes behind the layer may work in place.
        """
        layer, thread = self._resolved(images), threading.get_ident()
        seen: list[Tensor] = []

        def see(_: Layer, tensors: list[Tensor]) -> None:
            if is_wanted():
                seen.append(self._pooled(maps_of(layer, tensors, len(images))))

        def see_input(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            if threading.get_ident() == thread and is_wanted():
                seen.append(self._pooled(_channels_second(module, arguments[0].detach())))

        with contextlib.ExitStack() as stack:
            if self._is_head:
                stack.callback(layer.module.register_forward_pre_hook(see_input).remove)
            else:
                stack.enter_context(watching([layer], see))
            yield seen

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


def _are_equal(values: Tensor, images: Tensor) -> bool:
    is_alike = values.shape == images.shape and values.dtype == images.dtype and values.device == images.device
    return is_alike and torch.equal(values, images)


def _channels_second(module: nn.Module, values: Tensor) -> Tensor:
    """Return the input of a linear layer as (N, D, ...)."""
    if isinstance(module, nn.Linear) and values.dim() > 2:
        return values.movedim(-1, 1)
    return values
