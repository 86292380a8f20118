"""The locality of ATen operations: the part of the output that changes when a patch of the input changes."""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

from torch import Tensor
from torch.utils._pytree import tree_leaves

from fastcam.incremental.layouts import Layout
from fastcam.incremental.packed_convolution import PackedWeight
from fastcam.incremental.regions import Pair, Sliding
from fastcam.incremental.separable import Separable
from fastcam.incremental.tape import Argument, ATenFunction, Operation, Slot, Tape, fill_slots
from fastcam.incremental.tape_batch_norm import is_batch_norm

# "pointwise": every output depends on the inputs at its own position. "view": the same elements with other axes.
# "elementwise_join": pointwise in several inputs. "global_mean": the mean over all positions. "global": anything else,
# which needs whole maps.
Locality: TypeAlias = Literal["pointwise", "view", "elementwise_join", "global_mean", "global"] | Sliding | Separable

_POINTWISE = {
    "_to_copy",
    "abs",
    "alias",
    "clamp",
    "clamp_max",
    "clamp_min",
    "clone",
    "contiguous",
    "detach",
    "elu",
    "erf",
    "exp",
    "gelu",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "log",
    "mish",
    "neg",
    "pow",
    "prelu",
    "_prelu_kernel",
    "reciprocal",
    "relu",
    "rsqrt",
    "rsub",
    "sigmoid",
    "silu",
    "softplus",
    "sqrt",
    "tanh",
    "threshold",
}
_JOINS = {"add", "cat", "div", "lerp", "maximum", "minimum", "mul", "sub"}
_PERMUTATIONS = {"permute", "transpose", "t"}
RESHAPES = {"view", "_unsafe_view", "reshape", "_reshape_alias", "unsqueeze", "squeeze", "as_strided"}
VIEWS = RESHAPES | _PERMUTATIONS
# Operations along one axis, and the index of the argument that names it.
_AXIS_ARGUMENT = {"slice": 1, "split": 2, "split_with_sizes": 2, "_softmax": 1, "_log_softmax": 1, "glu": 1}
_ROWS_ARGUMENT = {"addmm": 1, "mm": 0}  # products with a matrix, and the index of the argument that holds the rows
_CHANNEL_REDUCTIONS = {"mean", "sum", "amax", "amin", "var", "linalg_vector_norm"}
_RESAMPLINGS = {
    "_adaptive_avg_pool2d",
    "_pad_circular",
    "constant_pad_nd",
    "reflection_pad2d",
    "replication_pad2d",
    "slice",
    "upsample_nearest2d",
    "_upsample_nearest_exact2d",
    "upsample_bilinear2d",
    "upsample_bicubic2d",
    "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa",
}


def localities_and_layouts(tape: Tape) -> tuple[list[Locality], dict[Slot, Layout]]:
    """Return the locality of every operation and the layout of every slot.

    Raises:
        UnrecordableError: for operations that depend on the other images of a batch.
    """
    height, width = tape.values[0].shape[2:]
    layouts = {Slot(0): Layout(("n", "c", "h", "w"), (height, width))}
    localities: list[Locality] = []
    for operation in tape.operations:
        locality = _locality(tape, operation, layouts)
        localities.append(locality)
        for slot in operation.outputs:
            layouts[slot] = _output_layout(tape, operation, locality, layouts, slot)
    return localities, layouts


def with_gates_as_constants(tape: Tape) -> Tape:
    """Return a tape whose gates are constants: what is computed from whole maps, and is one number a channel.

    Squeeze and excitation multiplies maps by such numbers. Without them the result depends on neighbourhoods alone.
    """
    height, width = tape.values[0].shape[2:]
    layouts = {Slot(0): Layout(("n", "c", "h", "w"), (height, width))}
    operations = []
    for recorded in tape.operations:
        operation = _with_gates_as_constants(tape, recorded, layouts)
        operations.append(operation)
        locality = _locality(tape, operation, layouts)
        for slot in operation.outputs:
            layouts[slot] = _output_layout(tape, operation, locality, layouts, slot)
    return replace(tape, operations=operations)


def _with_gates_as_constants(tape: Tape, operation: Operation, layouts: dict[Slot, Layout]) -> Operation:
    maps = [slot for slot in operation.inputs if layouts[slot].has_positions]
    if operation.name not in _JOINS - {"cat"} or not maps or len(maps) == len(operation.inputs):
        return operation

    def constant(slot: Slot) -> Slot | Tensor:
        return slot if slot in maps else tape.values[slot.number]

    arguments, keywords = fill_slots(operation.arguments, constant), fill_slots(operation.keywords, constant)
    filled = replace(operation, arguments=arguments, keywords=keywords)
    return filled if _has_channel_constants(filled, layouts[maps[0]]) else operation


def _locality(tape: Tape, operation: Operation, layouts: dict[Slot, Layout]) -> Locality:
    inputs = [layouts[slot] for slot in operation.inputs]
    if not all(layout.has_positions for layout in inputs):
        return "view" if operation.name in VIEWS else "global"
    if len(set(operation.inputs)) > 1:
        has_one_layout = len(set(inputs)) == 1
        is_join = operation.name in _JOINS and has_one_layout and _joins_positions(operation, inputs[0])
        return "elementwise_join" if is_join else "global"
    if operation.name in VIEWS:
        return "view"
    if inputs[0].is_maps:
        locality = _neighbourhood(tape, operation)
        if locality is not None:
            return locality
    return "pointwise" if _is_pointwise(tape, operation, inputs[0]) else "global"


def _neighbourhood(tape: Tape, operation: Operation) -> Locality | None:
    """Return the locality of an operation on maps that reads other positions than it writes; None for others."""
    size, new_size = (tuple(tape.values[slot.number].shape[2:]) for slot in (operation.inputs[0], operation.outputs[0]))
    sliding = _sliding(operation)
    if sliding is not None:
        return sliding
    if _is_global_mean(operation):
        return "global_mean"
    if operation.name in _RESAMPLINGS and len(new_size) == 2 and _is_resampling(operation) and size != new_size:
        frozen = _freeze((operation.arguments[1:], tuple(operation.keywords.items())))
        return _separable(operation.function, *frozen, size)
    return None


def _is_resampling(operation: Operation) -> bool:
    """Whether slicing or padding acts on positions alone, and pads with zeros."""
    if operation.name == "slice":
        return _axis(operation, 1) % 4 in (2, 3)
    if operation.name == "constant_pad_nd":
        value = operation.arguments[2] if len(operation.arguments) > 2 else operation.keywords.get("value", 0)
        return value == 0 and len(operation.arguments[1]) <= 4
    return True


@functools.lru_cache(maxsize=256)
def _separable(
    function: ATenFunction, arguments: tuple[Argument, ...], keywords: tuple[tuple[str, Argument], ...], size: Pair
) -> Separable:
    return Separable.of(lambda maps: function(maps, *arguments, **dict(keywords)), size)


def _freeze(value: Argument) -> Argument:
    """Return a hashable copy: tuples in place of lists."""
    return tuple(_freeze(item) for item in value) if isinstance(value, list | tuple) else value


def _is_pointwise(tape: Tape, operation: Operation, layout: Layout) -> bool:
    """Whether every output depends on the inputs at its own position alone."""
    name, arguments = operation.name, operation.arguments
    if name == "_adaptive_avg_pool2d":  # an identity where the size stays the same
        return tape.values[operation.inputs[0].number].shape == tape.values[operation.outputs[0].number].shape
    if name in _AXIS_ARGUMENT:
        return layout.labels[_axis(operation, _AXIS_ARGUMENT[name])] == "c"
    if name == "native_layer_norm":
        return set(layout.labels[-len(arguments[1]) :]) == {"c"}
    if name in _CHANNEL_REDUCTIONS:
        return _reduces_channels(tape, operation, layout)
    if name in _ROWS_ARGUMENT:
        return isinstance(arguments[_ROWS_ARGUMENT[name]], Slot) and layout.labels[1] == "c"
    return is_batch_norm(operation) or (name in _POINTWISE | _JOINS and _has_channel_constants(operation, layout))


def _reduces_channels(tape: Tape, operation: Operation, layout: Layout) -> bool:
    """Whether a reduction goes over channels alone, and keeps their axis."""
    source, result = (tape.values[slot.number] for slot in (operation.inputs[0], operation.outputs[0]))
    if source.dim() != result.dim():
        return False
    changed_axes = [axis for axis in range(source.dim()) if source.shape[axis] != result.shape[axis]]
    axes = [argument for argument in operation.arguments[1:] if isinstance(argument, list | tuple)]
    return bool(axes) and all(layout.labels[axis] == "c" for axis in (*changed_axes, *axes[0]))


def _has_channel_constants(operation: Operation, layout: Layout) -> bool:
    """Whether the constant tensors are the same at every position."""
    leaves = tree_leaves((operation.arguments, operation.keywords))
    return all(
        length == 1 or label == "c"
        for leaf in leaves
        if isinstance(leaf, Tensor)
        for length, label in zip(reversed(leaf.shape), reversed(layout.labels), strict=False)
    )


def _joins_positions(operation: Operation, layout: Layout) -> bool:
    """Whether tensors are joined position by position."""
    if operation.name == "cat":
        is_of_slots = all(isinstance(tensor, Slot) for tensor in operation.arguments[0])
        return is_of_slots and layout.labels[_axis(operation, 1)] == "c"
    return _has_channel_constants(operation, layout)


def _axis(operation: Operation, index: int) -> int:
    """Return the axis that an operation is given, positionally or as ``dim``."""
    arguments = operation.arguments
    return int(arguments[index] if len(arguments) > index else operation.keywords.get("dim", 0))


def _is_global_mean(operation: Operation) -> bool:
    """Whether an operation takes the mean over all positions of maps."""
    arguments = operation.arguments
    if operation.name == "_adaptive_avg_pool2d":
        return tuple(arguments[1]) == (1, 1)
    axes = arguments[1] if operation.name == "mean" and len(arguments) > 1 else None
    return isinstance(axes, list | tuple) and {axis % 4 for axis in axes} == {2, 3} and not operation.keywords


def _sliding(operation: Operation) -> Sliding | None:
    """Return the geometry of a convolution or pooling; None for others."""
    arguments = operation.arguments
    if operation.name == "convolution":
        weight, transposed = arguments[1], arguments[6]
        if not isinstance(weight, Tensor | PackedWeight) or len(weight.shape) != 4 or transposed:
            return None
        return Sliding(_pair(weight.shape[2:]), *(_pair(argument) for argument in arguments[3:6]))
    if operation.name in ("max_pool2d_with_indices", "avg_pool2d"):
        stride = arguments[2] if len(arguments) > 2 and arguments[2] else arguments[1]
        padding = arguments[3] if len(arguments) > 3 else [0]
        dilation = arguments[4] if operation.name != "avg_pool2d" and len(arguments) > 4 else [1]
        return Sliding(*(_pair(argument) for argument in (arguments[1], stride, padding, dilation)))
    return None


def _pair(values: Sequence[int]) -> Pair:
    return (int(values[0]), int(values[-1]))


def _output_layout(
    tape: Tape, operation: Operation, locality: Locality, layouts: dict[Slot, Layout], slot: Slot
) -> Layout:
    layout = layouts[operation.inputs[0]]
    shape = tape.values[slot.number].shape
    if locality == "view":
        return _view_layout(tape, operation, layout, shape)
    if locality == "global_mean":
        return Layout(("n", "c", "*", "*")[: len(shape)], layout.size)
    if isinstance(locality, Sliding | Separable):
        return Layout(layout.labels, (shape[2], shape[3]))
    if locality in ("pointwise", "elementwise_join") and len(shape) == len(layout.labels):
        return layout
    return layout.without_positions(len(shape))


def _view_layout(tape: Tape, operation: Operation, layout: Layout, new_shape: Sequence[int]) -> Layout:
    shape = tape.values[operation.inputs[0].number].shape
    if operation.name not in _PERMUTATIONS:
        return layout.view(shape, new_shape)
    order = list(range(len(shape)))
    if operation.name == "permute":
        order = [axis % len(shape) for axis in operation.arguments[1]]
    else:
        first, second = operation.arguments[1:3] if operation.name == "transpose" else (0, len(shape) - 1)
        order[first], order[second] = order[second], order[first]
    return layout.permute(order)
