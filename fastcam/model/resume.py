"""Runs the part of a model behind a layer again and again, without the part in front of it."""

import contextlib
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

from fastcam.model import capture, elements
from fastcam.model.batching import Block
from fastcam.model.elements import Element
from fastcam.model.inputs import Inputs

# Functions that read or write values: what they said while recording is said again, and what they wrote is there.
_OF_VALUES = {
    "__setitem__",
    "item",
    "tolist",
    "numpy",
    "equal",
    "allclose",
    "__bool__",
    "__int__",
    "__float__",
    "__index__",
}
# Not noted: an error on its way out sets the mode back, which would look like another model and hide the error.
_MODES = {"_set_grad_enabled", "set_grad_enabled"}


class NotResumableError(RuntimeError):
    """The model cannot be run from this layer on."""


@dataclass
class _Result:
    """A tensor that the front made: its shape, and itself where the model still holds it behind the layer.

    What came from the images has rows for each of them; so has what has as many rows as there are images.
    """

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    alive: Callable[[], Tensor | None]
    of_images: bool

    def of_copies(self, block: Block, images: int) -> Tensor:
        """The tensor for a block of copies: rows repeated, or where nothing can read it any more, its shape alone.

        Of its own memory, and no view: the model, or a hook, may work on it in place, and the next block begins with
        the same.
        """
        tensor, per_image = self.alive(), self.shape[0] // images if self.shape else 0
        if per_image == 0 or self.shape[0] % images or not (self.of_images or per_image == 1):  # no axis of images
            if tensor is not None:
                return tensor.clone()
            return torch.empty((), dtype=self.dtype, device=self.device).expand(self.shape)
        if tensor is None:
            shape = (len(block) * per_image, *self.shape[1:])
            return torch.empty((), dtype=self.dtype, device=self.device).expand(shape)
        rows = tensor.unflatten(0, (images, per_image))[block.place[0]].unsqueeze(1)
        copies = rows.expand(-1, len(block.variants), *rows.shape[2:])
        whole = tensor.new_empty((len(block) * per_image, *self.shape[1:]))
        whole.view(copies.shape).copy_(copies)
        return whole


class Resumed:
    """The part of a model behind a layer.

    The front runs once and every call of a function of torch in it is noted. To resume, the model runs again, each
    noted call answers from the notes, and at the layer the given activations take the place of what it returns. What
    the front computed and the rest still uses, a skip connection around the layer for one, is kept.

    Args:
        forward: runs the model.
        inputs: N images and what else the model takes.
        layer: where to begin.
        element: which element of the layer's tuple or dict is exchanged.

    Attributes:
        entering: the first argument of the layer, for the images.
        leaving: what the layer returned for them.

    Raises:
        RuntimeError: where the layer is not reached.
    """

    entering: Any
    leaving: Any

    def __init__(
        self, forward: Callable[[Inputs], Any], inputs: Inputs, layer: capture.Layer, element: Element = None
    ) -> None:
        self.forward, self.inputs, self.layer, self.element = forward, inputs, layer, element
        recorder = _Recorder(inputs)

        def stop(arguments: Any, output: Any) -> None:
            self.entering, self.leaving = arguments[0] if arguments else None, output
            recorder.keep()
            raise _Reached

        with contextlib.suppress(_Reached):
            self._run(inputs, recorder, stop)
            raise RuntimeError(f"target layer {layer.name!r} was not reached in the forward pass")
        self.calls = recorder.calls

    def __call__(self, activations: Tensor, block: Block) -> Any:
        """The model's output for what the layer is to have returned for a block of copies, (M, ...).

        Raises:
            NotResumableError: where the model ran differently this time.
        """
        player = _Player(self.calls, block, len(self.inputs.images))
        images = self.inputs.images[:1].expand(len(block), *self.inputs.images.shape[1:])  # only the shape counts
        return self._run(
            self.inputs.with_copies(images, block.rows),
            player,
            lambda arguments, output: elements.exchange(output, self.element, activations),
        )

    def _run(self, inputs: Inputs, mode: TorchFunctionMode, at_layer: Callable[[Any, Any], Any]) -> Any:
        thread, reached = threading.get_ident(), False
        with contextlib.ExitStack() as stack:

            def go_on(module: nn.Module, arguments: Any, output: Any) -> Any:
                nonlocal reached
                if threading.get_ident() != thread:
                    return None
                if reached:
                    raise NotResumableError(f"layer {self.layer.name!r} runs several times")
                reached = True
                stack.close()  # what follows is computed again
                return at_layer(arguments, output)

            handle = self.layer.module.register_forward_hook(go_on)
            try:
                stack.enter_context(mode)
                return self.forward(inputs)
            finally:
                handle.remove()


class _Reached(BaseException):
    """The front has run: no error, and not to be caught by a model."""


class _Recorder(TorchFunctionMode):
    """Notes what every function returned, without keeping it alive, and whether it came from the images."""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__()
        self.calls: list[tuple[str, Any]] = []
        self.of_images = WeakTensorKeyDictionary()
        self._mark(inputs.arguments)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func.__name__ in _MODES:
            return output
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        if any(each in self.of_images for each in given):
            self._mark(args[0] if func.__name__ == "__setitem__" else output)
        self.calls.append((func.__name__, tree_map_only(Tensor, self._note, output)))
        return output

    def _mark(self, tensors: Any) -> None:
        for each in tree_leaves(tensors):
            if isinstance(each, Tensor):
                self.of_images[each] = True

    def _note(self, tensor: Tensor) -> _Result:
        return _Result(tensor.shape, tensor.dtype, tensor.device, weakref.ref(tensor), tensor in self.of_images)

    def keep(self) -> None:
        """Keeps what the model still holds at this moment."""
        for _, note in self.calls:
            tree_map_only(_Result, self._keep, note)

    def _keep(self, result: _Result) -> _Result:
        tensor = result.alive()
        result.alive = lambda: tensor
        result.of_images |= tensor is not None and tensor in self.of_images  # written to since
        return result


class _Player(TorchFunctionMode):
    """Answers every function from the notes."""

    def __init__(self, calls: list[tuple[str, Any]], block: Block, images: int) -> None:
        super().__init__()
        self.calls, self.block, self.images = iter(calls), block, images
        self.is_lost = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.is_lost or func.__name__ in _MODES:  # lost: on the way out, contexts that the model entered are left
            return func(*args, **(kwargs or {}))
        name, note = next(self.calls, ("nothing", None))
        if name != func.__name__:
            self.is_lost = True
            raise NotResumableError(f"the model called {func.__name__} where it called {name} before")
        has_tensors = False

        def tensor(result: Any) -> Any:
            nonlocal has_tensors
            has_tensors |= isinstance(result, _Result)
            return result.of_copies(self.block, self.images) if isinstance(result, _Result) else result

        answer = tree_map(tensor, note)
        # Shapes and the like are those of the copies.
        return answer if has_tensors or name in _OF_VALUES else func(*args, **(kwargs or {}))
