"""The operations of one forward pass, each with what it read and what it returned."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

# What makes another image take another way, which a tape does not show.
_REFUSED = {
    torch.Tag.data_dependent_output: "reads numbers that it has computed from the images",
    torch.Tag.dynamic_output_shape: "returns as many elements as the images' values say",
    torch.Tag.nondeterministic_seeded: "draws random numbers",
}
_PADS = (F.pad, torch._C._nn.pad)


@dataclass(frozen=True)
class Slot:
    """A tensor that depends on the images, by its number on the tape."""

    number: int


@dataclass(frozen=True)
class Operation:
    """One call of an operation of ATen, none of which works in place.

    Attributes:
        function: the overload.
        arguments: positional ones; a :class:`Slot` for every tensor that depends on the images.
        keywords: the others.
        returned: for every tensor that it returned, in order, its slot.
        module: the name of the module that called it, where that was asked for.
    """

    function: Any
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    returned: tuple[Slot, ...]
    module: str = ""

    @property
    def name(self) -> str:
        """The operation's name, without the overload."""
        return str(self.function._schema.name).removeprefix("aten::")

    @property
    def read(self) -> list[Slot]:
        """The slots it reads, in their order."""
        return [each for each in tree_flatten((self.arguments, self.keywords))[0] if isinstance(each, Slot)]


@dataclass(frozen=True)
class Tape:
    """One forward pass.

    Attributes:
        operations: those that read what depends on the images, in their order.
        values: the tensor of every slot; slot 0 holds the images.
        output: the slot of the model's output.
    """

    operations: list[Operation]
    values: list[Tensor]
    output: Slot


class UnrecordableError(RuntimeError):
    """The forward pass cannot be run again from its operations."""


def record(run: Callable[[Tensor], Any], images: Tensor, caller: Callable[[], str] = lambda: "") -> Tape:
    """Runs a model on images (N, C, H, W) and notes what it does; ``caller`` says which module is running.

    Raises:
        UnrecordableError: for an output that is no tensor, or operations that write into views.
    """
    mode = _Recorder(caller)
    images = images.clone()
    start = mode.new_slot(images)
    with torch.no_grad(), mode, _Undivided(mode):
        output = run(images)
    slot = mode.slots.get(id(output))
    if slot is None or start.number != 0:
        raise UnrecordableError("the model returns no tensor that depends on the images")
    return Tape(mode.operations, mode.values, slot)


class _Recorder(TorchDispatchMode):
    """Notes every operation on tensors that depend on the images."""

    def __init__(self, caller: Callable[[], str]) -> None:
        super().__init__()
        self.caller = caller
        self.operations: list[Operation] = []
        self.values: list[Tensor] = []
        self.slots: dict[int, Slot] = {}  # by the identity of the tensor that stands for it now
        self.alive: list[Any] = []  # so that no identity is given twice
        self.is_paused = False

    def new_slot(self, tensor: Tensor) -> Slot:
        """A slot for what a tensor holds now."""
        slot = Slot(len(self.values))
        self.values.append(tensor)
        self.slots[id(tensor)] = slot
        self.alive.append(tensor)
        return slot

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        keywords = kwargs or {}
        leaves, spec = tree_flatten((args, keywords))
        read = [each for each in leaves if isinstance(each, Tensor) and id(each) in self.slots]
        if not read or self.is_paused:
            return func(*args, **keywords)
        for tag, sentence in _REFUSED.items():
            if tag in func.tags and not _drops_nothing(func, args, keywords):
                raise UnrecordableError(f"the model {sentence}, by {func}")
        noted_args, noted_keywords = tree_unflatten(
            [self.slots.get(id(each), each) if isinstance(each, Tensor) else each for each in leaves], spec
        )
        noted = func
        if func._schema.is_mutable:
            noted = _out_of_place(func)
            written = args[0]
            if written._is_view() or not self._owned(written):
                raise UnrecordableError(f"the model writes into a view, by {func}")
            before = self.slots[id(written)]
            self.values[before.number] = written.clone()
        output = func(*args, **keywords)
        tensors = [each for each in tree_flatten(output)[0] if isinstance(each, Tensor)]
        if func._schema.is_mutable:
            tensors = tensors[:1]
        returned = tuple(self.new_slot(each) for each in tensors)
        self.operations.append(Operation(noted, noted_args, noted_keywords, returned, self.caller()))
        return output

    def _owned(self, written: Tensor) -> bool:
        """Whether nothing else that was noted shares the tensor's memory."""
        memory = written.untyped_storage().data_ptr()
        number = self.slots[id(written)].number if id(written) in self.slots else -1
        return number >= 0 and not any(
            each is not written and each.untyped_storage().data_ptr() == memory for each in self.values[number + 1 :]
        )


class _Undivided(TorchFunctionMode):
    """Notes as one operation what torch puts together from writes into views: padding that goes around."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        keywords = kwargs or {}
        recorder = self.recorder
        mode = args[2] if len(args) > 2 else keywords.get("mode")
        if func not in _PADS or mode != "circular" or id(args[0]) not in recorder.slots:
            return func(*args, **keywords)
        recorder.is_paused = True
        try:
            output = func(*args, **keywords)
        finally:
            recorder.is_paused = False
        sides = args[1] if len(args) > 1 else keywords["pad"]
        source = recorder.slots[id(args[0])]
        function = torch.ops.aten._pad_circular.default
        returned = (recorder.new_slot(output),)
        recorder.operations.append(Operation(function, (source, list(sides)), {}, returned, recorder.caller()))
        return output


def _drops_nothing(func: Any, args: Any, keywords: dict[str, Any]) -> bool:
    """Whether what could draw numbers, such as attention with dropout, was told not to."""
    given = dict(zip((each.name for each in func._schema.arguments), args, strict=False)) | keywords
    chances = [each for each in func._schema.arguments if each.name in ("dropout_p", "dropout", "p")]
    return bool(chances) and all(given.get(each.name, each.default_value) == 0 for each in chances)


def _out_of_place(func: Any) -> Any:
    """The operation that returns what another writes into its first argument."""
    name = str(func._schema.name).removeprefix("aten::")
    packet = getattr(torch.ops.aten, name.removesuffix("_"), None) if name.endswith("_") else None
    found = getattr(packet, func._overloadname, None)
    if found is None:
        raise UnrecordableError(f"the model writes by {func}, which has no form that does not")
    return found


def filled(given: Any, tensor: Callable[[Slot], Any]) -> Any:
    """Arguments with tensors in the place of slots."""
    return tree_map_only(Slot, tensor, given)
