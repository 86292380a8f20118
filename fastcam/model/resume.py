"""Runs the part of a model after a layer repeatedly, without the part before it."""

import contextlib
import threading
import weakref
from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

from fastcam.model import capture, elements
from fastcam.model.batching import Block
from fastcam.model.elements import Element, ModelOutput
from fastcam.model.inputs import Inputs

# Value-reading functions: their recorded results are replayed; writes have already happened.
VALUE_READING = {
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
# Not recorded: an error that propagates restores the mode, which would look like a different model and hide the error.
MODE_SETTING = {"_set_grad_enabled", "set_grad_enabled"}


class NotResumableError(RuntimeError):
    """The model cannot be resumed after this layer."""


@dataclass
class _RecordedTensor:
    """A tensor from before the layer: its shape, and its value if the model still holds it at the layer.

    A tensor has rows per image if it was computed from the images, or if its number of rows is that of the images.
    """

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    get: Callable[[], Tensor | None]
    from_images: bool

    def for_copies(self, block: Block, images: int) -> Tensor:
        """Return the tensor for a block of copies: with repeated rows, or of the shape alone if nothing can read it.

        The tensor has its own memory: the model or a hook may change it in place, and the next block must start from
        the same values.
        """
        tensor, per_image = self.get(), self.shape[0] // images if self.shape else 0
        if per_image == 0 or self.shape[0] % images or not (self.from_images or per_image == 1):  # no image axis
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
    """The part of a model after a layer.

    The part before the layer runs once, and every call of a torch function in it is recorded. To resume, the model runs
    again with each recorded call returning its recorded result, and the new activations replace the layer's output.
    Results that the rest of the model still uses, as in a skip connection around the layer, are kept.

    Args:
        forward: runs the model.
        inputs: N images and the model's other arguments.
        layer: the layer to resume after.
        element: the element of the layer's tuple or dict to replace.

    Attributes:
        layer_input: the first argument of the layer, for the images.
        layer_output: the output of the layer for them.

    Raises:
        RuntimeError: if the layer is not reached.
    """

    layer_input: ModelOutput
    layer_output: ModelOutput

    def __init__(
        self, forward: Callable[[Inputs], ModelOutput], inputs: Inputs, layer: capture.Layer, element: Element = None
    ) -> None:
        self.forward, self.inputs, self.layer, self.element = forward, inputs, layer, element
        recorder = _CallRecorder(inputs)

        def stop(arguments: tuple[object, ...], output: ModelOutput) -> None:
            self.layer_input, self.layer_output = arguments[0] if arguments else None, output
            recorder.keep_live_tensors()
            raise _LayerReached

        with contextlib.suppress(_LayerReached):
            self._run(inputs, recorder, lambda output: output, stop)
            raise RuntimeError(f"target layer {layer.name!r} was not reached in the forward pass")
        self.calls = recorder.calls

    def __call__(self, activations: Tensor, block: Block) -> ModelOutput:
        """Return the model's output with the layer's output for a block of copies replaced by (M, ...) activations.

        Raises:
            NotResumableError: if the model runs differently this time.
        """
        replay = _Replay(self.calls, block, len(self.inputs.images))
        images = self.inputs.images[:1].expand(len(block), *self.inputs.images.shape[1:])  # only the shape matters

        def exchange(output: ModelOutput, tensor: Tensor) -> ModelOutput:
            return elements.exchange(output, self.element, tensor)

        def show(output: ModelOutput) -> ModelOutput:
            return exchange(output, capture.shown_to_hooks(self.layer.module, activations))

        copies = self.inputs.with_copies(images, block.rows)
        return self._run(copies, replay, show, lambda arguments, output: exchange(output, activations))

    def _run(
        self,
        inputs: Inputs,
        mode: TorchFunctionMode,
        at_layer: Callable[[ModelOutput], ModelOutput],
        after_hooks: Callable[[tuple[object, ...], ModelOutput], ModelOutput | None],
    ) -> ModelOutput:
        """Run the model, in a mode up to the layer; exchange the layer's output before its hooks, and after them."""
        thread, reached = threading.get_ident(), False
        with contextlib.ExitStack() as stack:

            def first(module: nn.Module, arguments: tuple[object, ...], output: ModelOutput) -> ModelOutput | None:
                nonlocal reached
                if threading.get_ident() != thread:
                    return None
                if reached:
                    raise NotResumableError(f"layer {self.layer.name!r} runs several times")
                reached = True
                stack.close()  # everything after the layer is computed again
                return at_layer(output)

            def last(module: nn.Module, arguments: tuple[object, ...], output: ModelOutput) -> ModelOutput | None:
                return after_hooks(arguments, output) if threading.get_ident() == thread else None

            with capture.around_hooks(self.layer.module, first, last):
                stack.enter_context(mode)
                return self.forward(inputs)


class _LayerReached(BaseException):
    """Stops the forward pass at the layer; not an Exception, so that models do not catch it."""


class _CallRecorder(TorchFunctionMode):
    """Records the result of every function, without keeping it alive, and whether it was computed from the images."""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__()
        self.calls: list[tuple[str, object]] = []
        self.from_images = WeakTensorKeyDictionary()
        self._mark(inputs.arguments)

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Collection[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        output = func(*args, **(kwargs or {}))
        if func.__name__ in MODE_SETTING:
            return output
        if any(isinstance(leaf, Tensor) and leaf in self.from_images for leaf in tree_leaves((args, kwargs))):
            self._mark(args[0] if func.__name__ == "__setitem__" else output)
        self.calls.append((func.__name__, tree_map_only(Tensor, self._record, output)))
        return output

    def _mark(self, tensors: object) -> None:
        for leaf in tree_leaves(tensors):
            if isinstance(leaf, Tensor):
                self.from_images[leaf] = True

    def _record(self, tensor: Tensor) -> _RecordedTensor:
        is_from_images = tensor in self.from_images
        return _RecordedTensor(tensor.shape, tensor.dtype, tensor.device, weakref.ref(tensor), is_from_images)

    def keep_live_tensors(self) -> None:
        """Keep the recorded tensors that the model still holds now."""
        for _, result in self.calls:
            tree_map_only(_RecordedTensor, self._keep, result)

    def _keep(self, record: _RecordedTensor) -> _RecordedTensor:
        tensor = record.get()
        record.get = lambda: tensor
        record.from_images |= tensor is not None and tensor in self.from_images  # written to since
        return record


class _Replay(TorchFunctionMode):
    """Returns the recorded result of every function."""

    def __init__(self, calls: list[tuple[str, object]], block: Block, images: int) -> None:
        super().__init__()
        self.calls, self.block, self.images = iter(calls), block, images
        self.has_diverged = False

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Collection[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        if self.has_diverged or func.__name__ in MODE_SETTING:  # after diverging, the model's contexts still exit
            return func(*args, **(kwargs or {}))
        name, result = next(self.calls, ("nothing", None))
        if name != func.__name__:
            self.has_diverged = True
            raise NotResumableError(f"the model called {func.__name__} where it called {name} before")
        has_tensors = False

        def restore(leaf: object) -> object:
            nonlocal has_tensors
            if not isinstance(leaf, _RecordedTensor):
                return leaf
            has_tensors = True
            return leaf.for_copies(self.block, self.images)

        restored = tree_map(restore, result)
        # Results such as shapes are computed again, for the copies.
        return restored if has_tensors or name in VALUE_READING else func(*args, **(kwargs or {}))
