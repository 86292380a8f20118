"""What the operations of ATen do to maps of which only a patch has changed."""

import functools
from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor
from torch.utils._pytree import tree_leaves

from fastcam.incremental.convolving import Packed
from fastcam.incremental.folding import is_norm
from fastcam.incremental.layouts import Layout
from fastcam.incremental.regions import Pair, Sliding
from fastcam.incremental.separable import Separable
from fastcam.incremental.tape import Operation, Slot, Tape

# "pointwise": every element comes from those at its place; "viewed": other axes, the same elements; "merged": pointwise
# in several tensors; "pooled": the mean over all places; "mixing": anything else, for which whole maps are needed.
Nature = Literal["pointwise", "viewed", "merged", "pooled", "mixing"] | Sliding | Separable

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
_JOINED = {"add", "cat", "div", "lerp", "maximum", "minimum", "mul", "sub"}
_PERMUTATIONS = {"permute", "transpose", "t"}
VIEWS = {"view", "_unsafe_view", "reshape", "_reshape_alias", "unsqueeze", "squeeze", "as_strided"} | _PERMUTATIONS
_ALONG = {
    "slice": 1,
    "split": 2,
    "split_with_sizes": 2,
    "_softmax": 1,
    "_log_softmax": 1,
    "glu": 1,
}  # one axis: which argument
_PRODUCTS = {"addmm": 1, "mm": 0}  # with a matrix, and which argument the rows are
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


def natures(tape: Tape) -> tuple[list[Nature], dict[Slot, Layout]]:
    """What every operation does, and the layout of every slot.

    Raises:
        UnrecordableError: for what depends on the other images of a batch.
    """
    height, width = tape.values[0].shape[2:]
    layouts = {Slot(0): Layout(("n", "c", "h", "w"), (height, width))}
    found: list[Nature] = []
    for operation in tape.operations:
        nature = _nature(tape, operation, layouts)
        found.append(nature)
        for slot in operation.returned:
            layouts[slot] = _layout(tape, operation, nature, layouts, slot)
    return found, layouts


def _nature(tape: Tape, operation: Operation, layouts: dict[Slot, Layout]) -> Nature:
    read = [layouts[each] for each in operation.read]
    if not all(each.has_places for each in read):
        return "viewed" if _is_view(operation) else "mixing"
    if len(set(operation.read)) > 1:
        agree = len(set(read)) == 1
        return "merged" if operation.name in _JOINED and agree and _joins_places(operation, read[0]) else "mixing"
    if _is_view(operation):
        return "viewed"
    if read[0].is_maps:
        moved = _moving(tape, operation)
        if moved is not None:
            return moved
    return "pointwise" if _is_pointwise(tape, operation, read[0]) else "mixing"


def _is_view(operation: Operation) -> bool:
    return operation.name in VIEWS


def _moving(tape: Tape, operation: Operation) -> Nature | None:
    """Of an operation on maps that reads other places than it writes."""
    size, after = (tuple(tape.values[each.number].shape[2:]) for each in (operation.read[0], operation.returned[0]))
    sliding = _sliding(operation)
    if sliding is not None:
        return sliding
    if _pools_all(operation):
        return "pooled"
    if operation.name in _RESAMPLINGS and len(after) == 2 and _resamples(operation) and size != after:
        frozen = _frozen((operation.arguments[1:], tuple(operation.keywords.items())))
        return _separable(operation.function, *frozen, size)
    return None


def _resamples(operation: Operation) -> bool:
    """Whether places are all that it changes, and nothing comes in from outside."""
    if operation.name == "slice":
        return _axis(operation, 1) % 4 in (2, 3)
    if operation.name == "constant_pad_nd":
        value = operation.arguments[2] if len(operation.arguments) > 2 else operation.keywords.get("value", 0)
        return value == 0 and len(operation.arguments[1]) <= 4
    return True


@functools.lru_cache(maxsize=256)
def _separable(function: Any, arguments: tuple[Any, ...], keywords: tuple[Any, ...], size: Pair) -> Separable:
    return Separable.of(lambda maps: function(maps, *arguments, **dict(keywords)), size)


def _frozen(value: Any) -> Any:
    return tuple(_frozen(each) for each in value) if isinstance(value, list | tuple) else value


def _is_pointwise(tape: Tape, operation: Operation, layout: Layout) -> bool:
    """Whether every element comes from those at its place."""
    name, given = operation.name, operation.arguments
    if name == "_adaptive_avg_pool2d":  # to the size it has
        return tape.values[operation.read[0].number].shape == tape.values[operation.returned[0].number].shape
    if name in _ALONG:
        return layout.labels[_axis(operation, _ALONG[name])] == "c"
    if name == "native_layer_norm":
        return set(layout.labels[-len(given[1]) :]) == {"c"}
    if name in _CHANNEL_REDUCTIONS:
        return _keeps_places(tape, operation, layout)
    if name in _PRODUCTS:
        return isinstance(given[_PRODUCTS[name]], Slot) and layout.labels[1] == "c"
    return is_norm(operation) or (name in _POINTWISE | _JOINED and _has_constants_of_channels(operation, layout))


def _keeps_places(tape: Tape, operation: Operation, layout: Layout) -> bool:
    """Whether a reduction goes over channels alone, and keeps their axis."""
    source, result = (tape.values[each.number] for each in (operation.read[0], operation.returned[0]))
    if source.dim() != result.dim():
        return False
    axes = [axis for axis in range(source.dim()) if source.shape[axis] != result.shape[axis]]
    given = [each for each in operation.arguments[1:] if isinstance(each, list | tuple)]
    return bool(given) and all(layout.labels[axis] == "c" for axis in (*axes, *given[0]))


def _has_constants_of_channels(operation: Operation, layout: Layout) -> bool:
    """Whether the other tensors are the same at every place."""
    others = [each for each in tree_leaves((operation.arguments, operation.keywords)) if isinstance(each, Tensor)]
    return all(
        length == 1 or label == "c"
        for each in others
        for length, label in zip(reversed(each.shape), reversed(layout.labels), strict=False)
    )


def _joins_places(operation: Operation, layout: Layout) -> bool:
    """Whether tensors are joined place by place."""
    if operation.name == "cat":
        inner = all(isinstance(each, Slot) for each in operation.arguments[0])
        return inner and layout.labels[_axis(operation, 1)] == "c"
    return _has_constants_of_channels(operation, layout)


def _axis(operation: Operation, position: int) -> int:
    given = operation.arguments
    return int(given[position] if len(given) > position else operation.keywords.get("dim", 0))


def _pools_all(operation: Operation) -> bool:
    """Whether an operation takes the mean over all places of maps."""
    given = operation.arguments
    if operation.name == "_adaptive_avg_pool2d":
        return tuple(given[1]) == (1, 1)
    over = given[1] if operation.name == "mean" and len(given) > 1 else None
    return isinstance(over, list | tuple) and {each % 4 for each in over} == {2, 3} and not operation.keywords


def _sliding(operation: Operation) -> Sliding | None:
    """The geometry of a convolution or pooling."""
    given = operation.arguments
    if operation.name == "convolution":
        weight, transposed = given[1], given[6]
        fits = isinstance(weight, Tensor | Packed) and len(weight.shape) == 4 and not transposed
        return Sliding(_pair(weight.shape[2:]), *(_pair(each) for each in given[3:6])) if fits else None
    if operation.name in ("max_pool2d_with_indices", "avg_pool2d"):
        stride = given[2] if len(given) > 2 and given[2] else given[1]
        padding = given[3] if len(given) > 3 else [0]
        dilation = given[4] if operation.name != "avg_pool2d" and len(given) > 4 else [1]
        return Sliding(*(_pair(each) for each in (given[1], stride, padding, dilation)))
    return None


def _pair(given: Sequence[int]) -> Pair:
    return (int(given[0]), int(given[-1]))


def _layout(tape: Tape, operation: Operation, nature: Nature, layouts: dict[Slot, Layout], slot: Slot) -> Layout:
    first = layouts[operation.read[0]]
    shape = tape.values[slot.number].shape
    if nature == "viewed":
        return _viewed(tape, operation, first, shape)
    if nature == "pooled":
        return Layout(("n", "c", "*", "*")[: len(shape)], first.size)
    if isinstance(nature, Sliding | Separable):
        return Layout(first.labels, (shape[2], shape[3]))
    if nature in ("pointwise", "merged") and len(shape) == len(first.labels):
        return first
    return first.without_places(len(shape))


def _viewed(tape: Tape, operation: Operation, layout: Layout, after: Sequence[int]) -> Layout:
    source = tape.values[operation.read[0].number].shape
    if operation.name not in _PERMUTATIONS:
        return layout.viewed(source, after)
    order = list(range(len(source)))
    if operation.name == "permute":
        order = [each % len(source) for each in operation.arguments[1]]
    else:
        one, other = operation.arguments[1:3] if operation.name == "transpose" else (0, len(source) - 1)
        order[one], order[other] = order[other], order[one]
    return layout.permuted(order)
