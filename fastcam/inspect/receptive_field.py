"""What of the image the units of a layer see: from the geometry of every operation before it, not from a guess."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fastcam.incremental import tape as tapes
from fastcam.incremental.layouts import Layout
from fastcam.incremental.operations import Locality, localities_and_layouts, with_gates_as_constants
from fastcam.incremental.regions import Region, Sliding
from fastcam.incremental.separable import Separable
from fastcam.incremental.tape import Slot
from fastcam.model import layers, running
from fastcam.model.capture import Layer

Ranges = npt.NDArray[np.int64]  # (length, 2): first pixel and one past the last, of every position along an axis


@dataclass(frozen=True, eq=False)
class ReceptiveField:
    """The parts of the image that the units of a layer see, each a box.

    Attributes:
        rows: (h, 2), for every row of the layer's map the first row of the image, and one past the last.
        columns: (w, 2), the same of the columns.
        size: (height, width) of the image.
        is_whole: whether every unit depends on the whole image, through pooling, gates or attention.
    """

    rows: Ranges
    columns: Ranges
    size: tuple[int, int]
    is_whole: bool = False

    def box(self, row: int, column: int) -> tuple[int, int, int, int]:
        """Return left, top, right, bottom of what a unit sees, in pixels of the image, the end exclusive."""
        (top, bottom), (left, right) = self.rows[row].tolist(), self.columns[column].tolist()
        return left, top, right, bottom

    def __str__(self) -> str:
        height, width = ((ranges[:, 1] - ranges[:, 0]).max() for ranges in (self.rows, self.columns))
        whole = ", and the whole image through its gates" if self.is_whole else ""
        return f"{height} x {width} pixels of {self.size[0]} x {self.size[1]}{whole}"


def receptive_field(
    model: nn.Module, layer: str | nn.Module, size: tuple[int, int], channels: int = 3, *, with_gates: bool = False
) -> ReceptiveField:
    """Return what the units of a layer see of an image.

    One image goes through the model up to the layer; kernel, stride, padding and dilation of every convolution and
    pooling, and the matrices of interpolations, say which pixels reach which unit, up to the borders of the image.

    Args:
        model: any module of images (N, C, H, W), in evaluation mode.
        layer: a module of the model, or its name; in its first run.
        size: (H, W).
        channels: C.
        with_gates: whether to follow what is computed from the whole map and multiplied or added to each position,
            as squeeze and excitation, so that every unit behind sees the whole image. ``is_whole`` says it anyway.

    Raises:
        ValueError, TypeError: for an unknown layer.
        RuntimeError: if the layer does not run, or the operations before it cannot be followed.
    """
    chosen = layers.resolve_one(model, layer)
    try:
        tape = tapes.record(lambda images: _up_to(model, chosen, images), _image(model, channels, size))
        local = with_gates_as_constants(tape)
        localities, layouts = localities_and_layouts(local)
    except tapes.UnrecordableError as error:
        raise RuntimeError(f"the receptive field of {chosen.name!r} is not known: {error}") from None
    state = _reached(local, localities, layouts, _pixels(size))
    is_whole = state is None or local.operations != tape.operations
    height, width = layouts[tape.output].size if layouts[tape.output].has_positions else (1, 1)
    if state is None or (with_gates and is_whole):
        return ReceptiveField(_all(height, size[0]), _all(width, size[1]), size, True)
    rows, columns = (_inverse(state, axis, length, size[axis]) for axis, length in enumerate((height, width)))
    return ReceptiveField(rows, columns, size, is_whole)


def _image(model: nn.Module, channels: int, size: tuple[int, int]) -> Tensor:
    """Return any image (1, C, H, W) of the device and dtype of the model's weights."""
    weights = next((each for each in model.parameters() if each.is_floating_point()), torch.empty(0))
    return torch.rand(1, channels, *size).to(weights)


class _Reached(Exception):  # noqa: N818 - no error
    """Ends a forward pass at a layer, with what that returned."""


def _up_to(model: nn.Module, layer: Layer, images: Tensor) -> object:
    thread = threading.get_ident()
    seen: list[object] = []

    def stop(module: nn.Module, arguments: tuple[object, ...], output: object) -> None:
        if threading.get_ident() == thread:
            seen.append(output)
            raise _Reached

    with running.preserve_state(model), _hooked(layer, stop):
        try:
            model(images)
        except _Reached:
            return seen[0]
    raise RuntimeError(f"layer {layer.name!r} was not reached in the forward pass")


@contextmanager
def _hooked(layer: Layer, hook: object) -> Iterator[None]:
    handle = layer.module.register_forward_hook(hook)  # type: ignore[arg-type]
    try:
        yield
    finally:
        handle.remove()


@dataclass(frozen=True)
class _Reach:
    """Which part of a map M pixels of the image reach.

    Attributes:
        region: the part.
        is_any: (M, 2) bool, whether there is any along the rows, and along the columns: strides leave pixels out.
    """

    region: Region
    is_any: npt.NDArray[np.bool_]


def _pixels(size: tuple[int, int]) -> _Reach:
    """Return single pixels, along the diagonal: rows and columns do not depend on each other."""
    steps = np.arange(max(size))[:, None]
    low = np.minimum(steps, np.array(size) - 1)
    return _Reach(Region.of(low, low + 1, size), np.ones(low.shape, np.bool_))


def _reached(
    tape: tapes.Tape, localities: Sequence[Locality], layouts: dict[Slot, Layout], pixels: _Reach
) -> _Reach | None:
    """Return what every pixel reaches of the output; None for all of it."""
    states: dict[Slot, _Reach | None] = {Slot(0): pixels}
    for operation, locality in zip(tape.operations, localities, strict=True):
        inputs = [states[slot] for slot in operation.inputs]
        reaches = [reach for reach in inputs if reach is not None]
        output = layouts[operation.outputs[0]]
        state = None
        if len(reaches) == len(inputs) and output.has_positions:
            state = _step(locality, reaches, output.size)
        states.update(dict.fromkeys(operation.outputs, state))
    return states[tape.output]


def _step(locality: Locality, reaches: Sequence[_Reach], size: tuple[int, int]) -> _Reach | None:
    """Return what the pixels reach of a result of some size (height, width), for what they reach of its inputs."""
    first = reaches[0]
    if isinstance(locality, Sliding):
        return _of_region(locality.output_region(first.region, size), first)
    if isinstance(locality, Separable):
        return _of_region(locality.output_region(first.region), first)
    if locality not in ("pointwise", "view", "elementwise_join"):
        return None
    low = np.stack([np.where(each.is_any, each.region.low, max(size)) for each in reaches]).min(0)
    high = np.stack([np.where(each.is_any, each.region.high, 0) for each in reaches]).max(0)
    return _Reach(Region.of(low, high, size), np.logical_or.reduce([each.is_any for each in reaches]))


def _of_region(region: Region, before: _Reach) -> _Reach:
    return _Reach(region, before.is_any & (region.high > region.low))


def _inverse(reach: _Reach, axis: int, length: int, pixels: int) -> Ranges:
    """Return which pixels reach each of ``length`` positions along an axis, from the positions that each reaches."""
    low, high = reach.region.low[:pixels, axis], reach.region.high[:pixels, axis]
    positions = np.arange(length)[:, None]
    is_seen = reach.is_any[:pixels, axis] & (low <= positions) & (positions < high)  # (length, pixels)
    first, last = is_seen.argmax(1), pixels - is_seen[:, ::-1].argmax(1)
    nothing = ~is_seen.any(1)  # positions in the padding
    return np.stack([np.where(nothing, 0, first), np.where(nothing, 0, last)], 1)


def _all(length: int, pixels: int) -> Ranges:
    return np.tile(np.array([0, pixels]), (length, 1))
