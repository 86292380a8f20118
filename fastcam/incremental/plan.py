"""What each operation has to compute for some windows: patches where that is enough, whole maps from there on."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fastcam.incremental.convolving import Packed
from fastcam.incremental.folding import folded
from fastcam.incremental.layouts import Layout
from fastcam.incremental.operations import VIEWS, Nature, natures
from fastcam.incremental.regions import Region, Sliding, union
from fastcam.incremental.separable import Separable
from fastcam.incremental.tape import Operation, Slot, Tape

State = Region | Literal["whole"]

MOST = 0.9  # of a map: where patches behind a layer take more than that, all of it is computed from there on


_OF_AN_ELEMENT = 20.0  # multiplications of a convolution that take as long as writing one

# Operations that always return new memory, and those that may write over what they read.
_NEW = {"convolution", "addmm", "native_batch_norm", "add", "mul", "sub", "cat"}
_OVERWRITING = {
    *("add", "mul", "sub", "clamp", "clamp_min", "elu", "gelu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu"),
    *("mish", "relu", "sigmoid", "silu", "tanh"),
}


@dataclass(frozen=True)
class Known:
    """What is known of a tape before any window is.

    Attributes:
        tape: of one image.
        operations: those that the output needs, in their order.
        natures: what they do.
        layouts: of every slot.
        multiplications: that each makes for whole maps of one image.
        work: the time that each takes for them, in multiplications.
        last: of every slot, the place in ``operations`` of the last one that reads it.
        in_place: of every operation that may write over what it reads first, the form that does.
        weights: how many numbers the operations read besides maps.
    """

    tape: Tape
    operations: list[Operation]
    natures: list[Nature]
    layouts: dict[Slot, Layout]
    multiplications: list[float]
    work: list[float]
    last: dict[Slot, int]
    in_place: dict[int, Any]
    weights: int

    @classmethod
    def of(cls, tape: Tape) -> "Known":
        """Looks through a tape."""
        tape = folded(tape)
        kinds, layouts = natures(tape)
        needed = {tape.output}
        kept: list[tuple[Operation, Nature]] = []
        for operation, nature in reversed(list(zip(tape.operations, kinds, strict=True))):
            if not needed.isdisjoint(operation.returned):
                needed.update(operation.read)
                kept.insert(0, (operation, nature))
        operations = [each for each, _ in kept]
        constants = [each for operation in operations for each in tree_leaves(operation.arguments)]
        read = [(slot, place) for place, each in enumerate(operations) for slot in each.read]
        return cls(
            _with_needed_values(tape, kept, layouts),
            operations,
            [nature for _, nature in kept],
            layouts,
            [_multiplications(tape, each) for each in operations],
            [_multiplications(tape, each) + _OF_AN_ELEMENT * _elements(tape, each) for each in operations],
            dict(read),
            _in_place(tape, operations),
            sum(math.prod(each.shape) for each in constants if isinstance(each, Tensor | Packed)),
        )

    def shape(self, slot: Slot) -> Sequence[int]:
        """Of a slot, for one image."""
        return self.tape.values[slot.number].shape


@dataclass(frozen=True)
class Step:
    """An operation and how it is done.

    Attributes:
        operation: from the tape.
        nature: what it does to patches; None where it is done on whole maps.
        region: where the resulting patches are, unless the result is whole.
        share: of the whole map that each window's patch takes.
    """

    operation: Operation
    nature: Nature | None
    region: Region | None
    share: float


@dataclass(frozen=True)
class Plan:
    """How the output follows from the images' patches.

    Attributes:
        start: the windows' region on the images.
        steps: one for each operation that the output needs.
        states: of every slot, its region, or "whole".
    """

    start: Region
    steps: list[Step]
    states: dict[Slot, State]

    def cost(self, whole: Sequence[float]) -> float:
        """Of all windows together, from what every operation costs on whole maps."""
        return len(self.start) * sum(step.share * each for step, each in zip(self.steps, whole, strict=True))


def plan(known: Known, start: Region, most: float = MOST) -> Plan:
    """Decides for every operation, from the geometry alone.

    Args:
        known: of the tape of one image.
        start: of M windows on the image.
        most: the share of a map from which on all of it is computed.
    """
    states: dict[Slot, State] = {Slot(0): start}
    steps = []
    for operation, nature in zip(known.operations, known.natures, strict=True):
        region = _after(known, operation, nature, states, most)
        share = 1.0 if region is None else _share(region, known.layouts[operation.returned[0]])
        done = nature if region is not None or (nature == "pooled" and _is_patched(operation, states)) else None
        steps.append(Step(operation, done, region, share))
        states |= dict.fromkeys(operation.returned, region or "whole")
    return Plan(start, steps, states)


def _is_patched(operation: Operation, states: dict[Slot, State]) -> bool:
    return all(isinstance(states[each], Region) for each in operation.read)


def _share(region: Region, layout: Layout) -> float:
    return math.prod(region.size) / math.prod(layout.size)


def _after(known: Known, operation: Operation, nature: Nature, states: dict[Slot, State], most: float) -> Region | None:
    """Where an operation's patches are; None where whole maps are to be computed, or all places become one."""
    regions = [each for each in (states[slot] for slot in operation.read) if isinstance(each, Region)]
    if len(regions) < len(operation.read) or nature in ("mixing", "pooled"):
        return None
    layout = known.layouts[operation.returned[0]]
    if nature == "viewed":
        return regions[0] if layout.has_places else None
    if nature == "pointwise":
        return regions[0]
    if nature == "merged":
        return union(regions, layout.size)
    return _moved(nature, regions[0], layout, most)


def _moved(nature: Nature, region: Region, layout: Layout, most: float) -> Region | None:
    """Behind an operation that reads other places than it writes; None where that is most of the map."""
    assert isinstance(nature, Sliding | Separable)
    after = nature.after(region, layout.size) if isinstance(nature, Sliding) else nature.after(region)
    return after if math.prod(after.size) < most * math.prod(layout.size) else None


def _with_needed_values(tape: Tape, kept: Sequence[tuple[Operation, Nature]], layouts: dict[Slot, Layout]) -> Tape:
    """Without the memory of values that no window is cut from: what works on patches alone needs their shapes."""
    needed = {tape.output}
    for operation, nature in kept:
        stays = nature == "pointwise" or (nature == "viewed" and layouts[operation.returned[0]].has_places)
        needed.update(() if stays else operation.read)
    numbers = {slot.number for slot in needed}
    values = [
        each if number in numbers else torch.empty_like(each, device="meta") for number, each in enumerate(tape.values)
    ]
    return replace(tape, values=values)


def _in_place(tape: Tape, operations: Sequence[Operation]) -> dict[int, Any]:
    """By the place of every operation whose first argument is new memory that nothing else reads."""
    readers = Counter([*(slot for each in operations for slot in each.read), tape.output])
    new = {each.returned[0] for each in operations if each.name in _NEW}
    found = {}
    for place, each in enumerate(operations):
        packet = getattr(torch.ops.aten, f"{each.name}_", None)
        form = getattr(packet, each.function._overloadname, None)
        first = each.arguments[0] if each.arguments else None
        if each.name not in _OVERWRITING or form is None or first not in new or readers[first] != 1:
            continue
        if tape.values[first.number].dtype == tape.values[each.returned[0].number].dtype:
            found[place] = form
    return found


def _elements(tape: Tape, operation: Operation) -> int:
    """That an operation writes, for whole maps of one image."""
    return 0 if operation.name in VIEWS else sum(tape.values[each.number].numel() for each in operation.returned)


def _multiplications(tape: Tape, operation: Operation) -> float:
    """Of a convolution or a product with a matrix, for whole maps of one image."""
    result = tape.values[operation.returned[0].number] if operation.returned else None
    if result is None:
        return 0.0
    if operation.name == "convolution":
        weight = operation.arguments[1]
        shape = tape.values[weight.number].shape if isinstance(weight, Slot) else weight.shape
        return float(result.numel() / result.shape[1] * math.prod(shape))
    if operation.name in ("addmm", "mm", "bmm", "baddbmm"):
        first = operation.arguments[0 if operation.name in ("mm", "bmm") else 1]
        inner = tape.values[first.number].shape[-1] if isinstance(first, Slot) else first.shape[-1]
        return float(result.numel() * inner)
    return 0.0
