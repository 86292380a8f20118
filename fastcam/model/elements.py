"""The explained tensor of a layer's output: the output, or one element of a tuple, mapping or dataclass."""

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

from torch import Tensor

from fastcam.model import quantised

ModelOutput: TypeAlias = Any  # whatever a model or a layer returns
Element = int | str | None  # of a layer's output, by position or name; None for the output itself
Select = Callable[[ModelOutput], ModelOutput] | int | str | None  # the part of a model's output that is scored


def activation_of(output: ModelOutput, element: Element, name: str) -> Tensor:
    """Return the explained tensor of a layer's output, with the values of a quantised one.

    Raises:
        TypeError, ValueError: if the output has no such element, or the element is not a floating point tensor.
    """
    if not isinstance(output, Tensor):
        if element is None:
            raise TypeError(
                f"target layer {name!r} returns a {type(output).__name__}, not a tensor; "
                "choose one of its elements with layer_output=..., an index or a key"
            )
        try:
            output = pick(output, element)
        except (LookupError, TypeError) as error:
            kind = type(output).__name__
            raise ValueError(f"target layer {name!r} has no element {element!r} in its {kind}") from error
    if isinstance(output, Tensor):
        output = quantised.values_of(output)
    if not isinstance(output, Tensor) or not output.is_floating_point():
        dtype = output.dtype if isinstance(output, Tensor) else type(output).__name__
        raise TypeError(f"target layer {name!r} must return a floating point tensor, got {dtype}")
    return output


def pick(output: ModelOutput, element: Element) -> ModelOutput:
    """Return an element by key or index, or by attribute if the output has attributes but no keys."""
    if isinstance(element, str) and not isinstance(output, Mapping) and hasattr(output, element):
        return getattr(output, element)
    return output[element]


def exchange(output: ModelOutput, element: Element, tensor: Tensor) -> ModelOutput:
    """Return an output of the same type with one element replaced, quantised again if that was."""
    if isinstance(output, Tensor):
        return quantised.in_type_of(output, tensor)
    if isinstance(output, Mapping) and isinstance(element, int) and element not in output:
        element = list(output)[element]  # a mapping that also accepts positions
    replaced = pick(output, element)
    if isinstance(replaced, Tensor):
        tensor = quantised.in_type_of(replaced, tensor)
    if dataclasses.is_dataclass(output) and not isinstance(output, type) and isinstance(element, str):
        return dataclasses.replace(output, **{element: tensor})
    if hasattr(output, "_replace"):  # a named tuple
        return output._replace(**{element if isinstance(element, str) else output._fields[element]: tensor})
    if isinstance(output, tuple):
        index = cast("int", element) % len(output)
        items = [tensor if i == index else item for i, item in enumerate(output)]
        return tuple(items) if type(output) is tuple else type(output)(items)
    changed = copy.copy(output)
    changed[element] = tensor
    return changed
