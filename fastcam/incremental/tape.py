"""A recording of one forward pass: every operation with its inputs and outputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

Argument: TypeAlias = Any  # tensors, slots, numbers, dtypes, devices, and nested lists of these
ATenFunction: TypeAlias = "OpOverload[..., Any]"
Arguments = TypeVar("Arguments", bound=tuple[Argument, ...] | dict[str, Argument])

# Operations that may differ from image to image, which a tape does not show.
_REFUSAL_REASONS = {
    torch.Tag.data_dependent_output: "reads numbers computed from the images",
    torch.Tag.dynamic_output_shape: "computes a tensor whose shape depends on the images' values",
    torch.Tag.nondeterministic_seeded: "draws random numbers",
}
_PAD_FUNCTIONS = (F.pad, torch._C._nn.pad)


@dataclass(frozen=True)
class Slot:
    """A tensor that depends on the images, by its number on the tape."""

    number: int


@dataclass(frozen=True)
class Operation:
    """One call of an out-of-place ATen operation.

    Attributes:
        function: the overload.
        arguments: positional ones; a :class:`Slot` for every tensor that depends on the images.
        keywords: keyword arguments.
        outputs: the slots of the tensors that it returned, in order.
        module: the name of the module that called it; empty where the recording had no ``caller``.
    """

    function: ATenFunction
    arguments: tuple[Argument, ...]
    keywords: dict[str, Argument]
    outputs: tuple[Slot, ...]
    module: str = ""

    @property
    def name(self) -> str:
        """The operation's name, without the overload."""
        return str(self.function._schema.name).removeprefix("aten::")

    @property
    def inputs(self) -> list[Slot]:
        """The slots among its arguments, in order."""
        return [leaf for leaf in tree_flatten((self.arguments, self.keywords))[0] if isinstance(leaf, Slot)]


@dataclass(frozen=True)
class Tape:
    """One forward pass.

    Attributes:
        operations: those with inputs that depend on the images, in order.
        values: the tensor of every slot; slot 0 holds the images.
        output: the slot of the model's output.
    """

    operations: list[Operation]
    values: list[Tensor]
    output: Slot


class UnrecordableError(RuntimeError):
    """The forward pass cannot be run again from its operations."""


def record(run: Callable[[Tensor], object], images: Tensor, caller: Callable[[], str] = lambda: "") -> Tape:
    """Run a model on images (N, C, H, W) and record its operations; ``caller`` returns the running module's name.

    Raises:
        UnrecordableError: for an output that is not a tensor, or operations that write into views.
    """
    recorder = _Recorder(caller)
    images = images.clone()
    start = recorder.new_slot(images)
    with torch.no_grad(), recorder, _CircularPaddingRecorder(recorder):
        output = run(images)
    slot = recorder.slots.get(id(output))
    if slot is None or start.number != 0:
        raise UnrecordableError("the model returns no tensor that depends on the images")
    return Tape(recorder.operations, recorder.values, slot)


class _Recorder(TorchDispatchMode):
    """Records every operation on tensors that depend on the images."""

    def __init__(self, caller: Callable[[], str]) -> None:
        super().__init__()
        self.caller = caller
        self.operations: list[Operation] = []
        self.values: list[Tensor] = []
        self.slots: dict[int, Slot] = {}  # by the id of the tensor that holds the slot's value
        self.alive: list[Tensor] = []  # keeps tensors alive, so that no id is reused
        self.is_paused = False

    def new_slot(self, tensor: Tensor) -> Slot:
        """Create a slot for the current value of a tensor."""
        slot = Slot(len(self.values))
        self.values.append(tensor)
        self.slots[id(tensor)] = slot
        self.alive.append(tensor)
        return slot

    def __torch_dispatch__(
        self,
        func: ATenFunction,
        types: Sequence[type],
        args: tuple[Argument, ...] = (),
        kwargs: dict[str, Argument] | None = None,
    ) -> object:
        keywords = kwargs or {}
        leaves, structure = tree_flatten((args, keywords))
        has_slots = any(isinstance(leaf, Tensor) and id(leaf) in self.slots for leaf in leaves)
        if not has_slots or self.is_paused:
            return func(*args, **keywords)
        for tag, reason in _REFUSAL_REASONS.items():
            if tag in func.tags and not _has_zero_dropout(func, args, keywords):
                raise UnrecordableError(f"the model {reason}, by {func}")
        recorded_args, recorded_keywords = tree_unflatten(
            [self.slots.get(id(leaf), leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves], structure
        )
        function = func
        if func._schema.is_mutable:
            function = _out_of_place_overload(func)
            destination = args[0]
            if destination._is_view() or not self._owns_memory(destination):
                raise UnrecordableError(f"the model writes into a view, by {func}")
            old_slot = self.slots[id(destination)]
            self.values[old_slot.number] = destination.clone()
        output = func(*args, **keywords)
        tensors = [leaf for leaf in tree_flatten(output)[0] if isinstance(leaf, Tensor)]
        if func._schema.is_mutable:
            tensors = tensors[:1]
        outputs = tuple(self.new_slot(tensor) for tensor in tensors)
        self.operations.append(Operation(function, recorded_args, recorded_keywords, outputs, self.caller()))
        return output

    def _owns_memory(self, tensor: Tensor) -> bool:
        """Whether no later recorded value shares the tensor's memory."""
        address = tensor.untyped_storage().data_ptr()
        number = self.slots[id(tensor)].number if id(tensor) in self.slots else -1
        return number >= 0 and not any(
            value is not tensor and value.untyped_storage().data_ptr() == address for value in self.values[number + 1 :]
        )


class _CircularPaddingRecorder(TorchFunctionMode):
    """Records circular padding as one operation: torch implements it by writes into views."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[Argument, ...] = (),
        kwargs: dict[str, Argument] | None = None,
    ) -> object:
        keywords = kwargs or {}
        recorder = self.recorder
        mode = args[2] if len(args) > 2 else keywords.get("mode")
        if func not in _PAD_FUNCTIONS or mode != "circular" or id(args[0]) not in recorder.slots:
            return func(*args, **keywords)
        recorder.is_paused = True
        try:
            output = func(*args, **keywords)
        finally:
            recorder.is_paused = False
        assert isinstance(output, Tensor)
        padding = args[1] if len(args) > 1 else keywords["pad"]
        source = recorder.slots[id(args[0])]
        function = torch.ops.aten._pad_circular.default
        outputs = (recorder.new_slot(output),)
        recorder.operations.append(Operation(function, (source, list(padding)), {}, outputs, recorder.caller()))
        return output


def _has_zero_dropout(func: ATenFunction, args: tuple[Argument, ...], keywords: dict[str, Argument]) -> bool:
    """Whether an operation with dropout, such as attention, has a dropout probability of 0."""
    parameters = func._schema.arguments
    values = dict(zip((parameter.name for parameter in parameters), args, strict=False)) | keywords
    probabilities = [parameter for parameter in parameters if parameter.name in ("dropout_p", "dropout", "p")]
    return bool(probabilities) and all(
        values.get(parameter.name, parameter.default_value) == 0 for parameter in probabilities
    )


def _out_of_place_overload(func: ATenFunction) -> ATenFunction:
    """Return the operation that returns what an in-place operation writes into its first argument."""
    name = str(func._schema.name).removeprefix("aten::")
    packet = getattr(torch.ops.aten, name.removesuffix("_"), None) if name.endswith("_") else None
    overload = getattr(packet, func._overloadname, None)
    if overload is None:
        raise UnrecordableError(f"the model writes by {func}, which has no out-of-place form")
    return overload


def fill_slots(arguments: Arguments, value: Callable[[Slot], Slot | Tensor]) -> Arguments:
    """Return arguments with every slot replaced by what ``value`` returns for it."""
    return tree_map_only(Slot, value, arguments)
