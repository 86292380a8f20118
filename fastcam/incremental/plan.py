"""The plan of a sweep: for every operation, whether it computes patches or whole maps for some windows."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fastcam.incremental.costs import Costs
from fastcam.incremental.layouts import Layout
from fastcam.incremental.operations import VIEWS, Locality, localities_and_layouts
from fastcam.incremental.packed_convolution import PackedWeight
from fastcam.incremental.regions import Region, Sliding, union
from fastcam.incremental.separable import Separable
from fastcam.incremental.tape import ATenFunction, Operation, Slot, Tape
from fastcam.incremental.tape_batch_norm import fold_batch_norms

State = Region | Literal["whole"]

MAX_PATCH_SHARE = 0.9  # of a map: where a layer's patches reach this share, whole maps are computed from there on

# Operations that always return new memory, and those that have an in-place form worth using.
_ALLOCATING = {"convolution", "addmm", "native_batch_norm", "add", "mul", "sub", "cat"}
_IN_PLACE_CANDIDATES = {
    *("add", "mul", "sub", "clamp", "clamp_min", "elu", "gelu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu"),
    *("mish", "relu", "sigmoid", "silu", "tanh"),
}


@dataclass(frozen=True)
class TraceAnalysis:
    """Facts about a tape that hold for all windows.

    Attributes:
        tape: of one image; its values are shapes alone.
        operations: those that the output depends on, in order.
        localities: of the operations.
        layouts: of every slot.
        multiplications: of each operation, for whole maps of one image.
        work: the cost of each operation for them, in multiply-adds.
        read_slots: whose values for whole images are read when patches are put into them; the output too.
        last_reads: for every slot, the index in ``operations`` of the last one that reads it.
        in_place: for every operation that may overwrite its first argument, by index, its in-place form.
        pass_work: the cost of running all of them on whole images, whatever their number: calls and constants.
        group_work: the same on patches.
    """

    tape: Tape
    operations: list[Operation]
    localities: list[Locality]
    layouts: dict[Slot, Layout]
    multiplications: list[float]
    work: list[float]
    read_slots: frozenset[Slot]
    last_reads: dict[Slot, int]
    in_place: dict[int, ATenFunction]
    pass_work: float
    group_work: float

    @classmethod
    def of(cls, tape: Tape, costs: Costs) -> "TraceAnalysis":
        """Analyse a tape, with its batch norms folded, for a device with such costs."""
        tape = fold_batch_norms(tape)
        localities, layouts = localities_and_layouts(tape)
        needed_slots = {tape.output}
        needed: list[tuple[Operation, Locality]] = []
        for operation, locality in reversed(list(zip(tape.operations, localities, strict=True))):
            if not needed_slots.isdisjoint(operation.outputs):
                needed_slots.update(operation.inputs)
                needed.insert(0, (operation, locality))
        operations = [operation for operation, _ in needed]
        reads = [(slot, index) for index, operation in enumerate(operations) for slot in operation.inputs]
        multiplications = [_multiplications(tape, operation) for operation in operations]
        constants = costs.constant * _constant_elements(operations)
        writes = [costs.element * _written_elements(tape, operation) for operation in operations]
        return cls(
            replace(tape, values=[torch.empty_like(value, device="meta") for value in tape.values]),
            operations,
            [locality for _, locality in needed],
            layouts,
            multiplications,
            [arithmetic + write for arithmetic, write in zip(multiplications, writes, strict=True)],
            _read_slots(tape, needed, layouts),
            dict(reads),
            _in_place_forms(tape, operations),
            costs.call * len(operations) + constants,
            costs.step * len(operations) + constants,
        )

    @property
    def bytes_read(self) -> int:
        """Bytes of the values of ``read_slots`` for one image."""
        return sum(self.tape.values[slot.number].nbytes for slot in self.read_slots)

    def shape(self, slot: Slot) -> Sequence[int]:
        """Return the shape of a slot's whole maps for one image."""
        return self.tape.values[slot.number].shape


@dataclass(frozen=True)
class PlanStep:
    """One operation and whether it computes patches or whole maps.

    Attributes:
        operation: from the tape.
        locality: of the operation; None where it runs on whole maps.
        region: of the resulting patches; None where the result is whole.
        share: of the whole map that each window's patch takes.
    """

    operation: Operation
    locality: Locality | None
    region: Region | None
    share: float


@dataclass(frozen=True)
class Plan:
    """The steps from the patches of the image to the output.

    Attributes:
        start: the windows' region on the image.
        steps: one for each operation that the output depends on.
        states: the region of every slot, or "whole".
    """

    start: Region
    steps: list[PlanStep]
    states: dict[Slot, State]

    def cost(self, whole_costs: Sequence[float]) -> float:
        """Return the cost of all windows together, given the cost of every operation on whole maps of one image."""
        return len(self.start) * sum(step.share * cost for step, cost in zip(self.steps, whole_costs, strict=True))


def make_plan(analysis: TraceAnalysis, start: Region, max_share: float = MAX_PATCH_SHARE) -> Plan:
    """Plan every operation, from the geometry alone.

    Args:
        analysis: of the tape of one image.
        start: the region of M windows on the image.
        max_share: the share of a map at which whole maps are computed instead of patches.
    """
    states: dict[Slot, State] = {Slot(0): start}
    steps = []
    for operation, locality in zip(analysis.operations, analysis.localities, strict=True):
        region = _output_region(analysis, operation, locality, states, max_share)
        share = 1.0 if region is None else _patch_share(region, analysis.layouts[operation.outputs[0]])
        reads_patches = region is not None or (locality == "global_mean" and _has_patched_inputs(operation, states))
        steps.append(PlanStep(operation, locality if reads_patches else None, region, share))
        states |= dict.fromkeys(operation.outputs, region or "whole")
    return Plan(start, steps, states)


def _has_patched_inputs(operation: Operation, states: Mapping[Slot, State]) -> bool:
    return all(isinstance(states[slot], Region) for slot in operation.inputs)


def _patch_share(region: Region, layout: Layout) -> float:
    return math.prod(region.size) / math.prod(layout.size)


def _output_region(
    analysis: TraceAnalysis, operation: Operation, locality: Locality, states: Mapping[Slot, State], max_share: float
) -> Region | None:
    """Return the region of an operation's patches; None where its output is whole or has no positions."""
    regions = [state for state in (states[slot] for slot in operation.inputs) if isinstance(state, Region)]
    if len(regions) < len(operation.inputs) or locality in ("global", "global_mean"):
        return None
    layout = analysis.layouts[operation.outputs[0]]
    if locality == "view":
        return regions[0] if layout.has_positions else None
    if locality == "pointwise":
        return regions[0]
    if locality == "elementwise_join":
        return union(regions, layout.size)
    return _neighbourhood_region(locality, regions[0], layout, max_share)


def _neighbourhood_region(locality: Locality, region: Region, layout: Layout, max_share: float) -> Region | None:
    """Return the output region of a sliding or separable operation; None where it takes most of the map."""
    assert isinstance(locality, Sliding | Separable)
    if isinstance(locality, Sliding):
        output = locality.output_region(region, layout.size)
    else:
        output = locality.output_region(region)
    return output if math.prod(output.size) < max_share * math.prod(layout.size) else None


def _read_slots(
    tape: Tape, needed: Sequence[tuple[Operation, Locality]], layouts: Mapping[Slot, Layout]
) -> frozenset[Slot]:
    """Return the slots whose clean values are read: operations that run on patches alone need none of their inputs'."""
    read_slots = {Slot(0), tape.output}
    for operation, locality in needed:
        reads_patches_alone = locality == "pointwise" or (
            locality == "view" and layouts[operation.outputs[0]].has_positions
        )
        read_slots.update(() if reads_patches_alone else operation.inputs)
    return frozenset(read_slots)


def _in_place_forms(tape: Tape, operations: Sequence[Operation]) -> dict[int, ATenFunction]:
    """Return in-place forms, by index, of operations whose first argument is new memory that nothing else reads."""
    readers = Counter([*(slot for operation in operations for slot in operation.inputs), tape.output])
    new_slots = {operation.outputs[0] for operation in operations if operation.name in _ALLOCATING}
    forms: dict[int, ATenFunction] = {}
    for index, operation in enumerate(operations):
        packet = getattr(torch.ops.aten, f"{operation.name}_", None)
        form = getattr(packet, operation.function._overloadname, None)
        first = operation.arguments[0] if operation.arguments else None
        if operation.name not in _IN_PLACE_CANDIDATES or form is None or first not in new_slots or readers[first] != 1:
            continue
        if tape.values[first.number].dtype == tape.values[operation.outputs[0].number].dtype:
            forms[index] = form
    return forms


def _constant_elements(operations: Sequence[Operation]) -> int:
    """Return the number of elements of all constants, such as weights."""
    leaves = [leaf for operation in operations for leaf in tree_leaves(operation.arguments)]
    return sum(math.prod(leaf.shape) for leaf in leaves if isinstance(leaf, Tensor | PackedWeight))


def _written_elements(tape: Tape, operation: Operation) -> int:
    """Return the number of elements that an operation writes, for whole maps of one image."""
    return 0 if operation.name in VIEWS else sum(tape.values[slot.number].numel() for slot in operation.outputs)


def _multiplications(tape: Tape, operation: Operation) -> float:
    """Count the multiplications of a convolution or matrix product, for whole maps of one image; 0 for others."""
    result = tape.values[operation.outputs[0].number] if operation.outputs else None
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
