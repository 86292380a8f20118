"""The inputs of a model: the images to explain, and its other arguments."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from fastcam.devices import take_rows


def _recordable(argument: Tensor) -> Tensor:
    """Return the tensor, copied if it was made in inference mode, which autograd cannot record."""
    if not argument.is_inference():
        return argument
    with torch.inference_mode(False):
        return argument.clone()


Result = TypeVar("Result")
COLOURS = (1, 3)  # channels of grey and colour pictures
Images = Tensor | tuple[object, ...] | Sequence[Tensor] | Mapping[str, object]  # see :meth:`Inputs.of`


@dataclass(frozen=True)
class Inputs:
    """The arguments of a model.

    Attributes:
        images: (N, C, *S) floating point, the explained argument, with its axis of channels moved to place 1.
        others: the remaining arguments; tensors with N rows, also inside tuples, lists and dicts, have one row per
            image, except those of ``shared``; those of ``several`` have more.
        position: of the images among the arguments.
        shared: the indices in ``others`` of arguments that are the same for all images.
        several: the indices in ``others`` of arguments with as many rows for every image, more than one, those of an
            image together: the texts that are looked for in it.
        channel_axis: the axis of channels in what the model takes.
        names: of the arguments, if they were passed by name.
    """

    images: Tensor
    others: tuple[object, ...] = ()
    position: int = 0
    shared: frozenset[int] = frozenset()
    several: frozenset[int] = frozenset()
    channel_axis: int = 1
    names: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        arguments: Images,
        model: nn.Module | None = None,
        explain_input: int | str | None = None,
        shared: Sequence[int | str] = (),
        channel_axis: int | None = None,
    ) -> "Inputs":
        """Return the inputs for what a user passes.

        Args:
            arguments: the images; a tuple of the model's positional arguments; a mapping of its arguments by name, as
                the processors of Hugging Face return it; or a list of images (C, *S) of one size, as torchvision's
                detectors take it.
            model: whose ``forward`` has the names of a mapping's arguments.
            explain_input: the position or name of the explained argument; None for the first floating point tensor
                (N, C, ...).
            shared: positions or names of arguments that are the same for all images.
            channel_axis: the axis of channels in the explained argument; None takes axis 2 of videos (N, T, C, H, W)
                with 1 or 3 channels, and axis 1 otherwise.

        Raises:
            TypeError, ValueError: if the images are not a floating point tensor (N, C, ...), or a name or an axis is
                unknown.
        """
        positional, names = _as_positional(arguments, model)
        positional = tree_map_only(Tensor, _recordable, positional)
        position = _explained(positional) if explain_input is None else _position(explain_input, names, positional)
        images = positional[position]
        check_images(images)
        axis = _channel_axis(images, channel_axis)
        others = positional[:position] + positional[position + 1 :]
        places = [_position(each, names, positional) for each in shared]
        if position in places:
            raise ValueError("`shared` names the explained argument itself, which has one row per image")
        shared_others = frozenset(p - (p > position) for p in places)
        moved = images if axis == 1 else images.movedim(axis, 1)
        return cls(moved, others, position, shared_others, channel_axis=axis, names=tuple(names))

    def __len__(self) -> int:
        """N, the number of images."""
        return len(self.images)

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The model's positional arguments."""
        images = self.images
        if self.channel_axis != 1:
            images = images.movedim(1, self.channel_axis).contiguous()
        return (*self.others[: self.position], images, *self.others[self.position :])

    @property
    def as_given(self) -> Images:
        """The model's arguments in the form in which they were passed: by name, or in their order."""
        arguments = self.arguments
        if self.names:
            return dict(zip(self.names, arguments, strict=True))
        return arguments if len(arguments) > 1 else cast("Tensor", arguments[0])

    def with_arguments(self, arguments: tuple[Any, ...]) -> "Inputs":
        """Return the inputs with other arguments in the same places."""
        others = arguments[: self.position] + arguments[self.position + 1 :]
        images = arguments[self.position]
        if self.channel_axis != 1:
            images = images.movedim(self.channel_axis, 1)
        return replace(self, images=images, others=others)

    def replace_images(self, images: Tensor) -> "Inputs":
        """Return the inputs with other images."""
        return replace(self, images=images)

    def in_fast_layout(self) -> "Inputs":
        """Return the inputs with images in channels_last on the CPU, whose convolutions are faster on it."""
        images = self.images
        if images.dim() != 4 or images.device.type != "cpu":
            return self
        return replace(self, images=as_channels_last(images))

    def with_copies(self, copies: Tensor, rows: Tensor) -> "Inputs":
        """Return the arguments for copies (M, C, *S) of the images; ``rows`` (M,) holds the image of each copy.

        The copies get the images' memory layout.
        """
        if _is_channels_last(self.images) and copies.dim() == 4:
            copies = as_channels_last(copies)
        others = tuple(
            other if index in self.shared else tree_map_only(Tensor, self._rows_taker(index, rows), other)
            for index, other in enumerate(self.others)
        )
        return replace(self, images=copies, others=others)

    def first(self) -> "Inputs":
        """Return the inputs for the first image alone."""
        return self.repeat_to(1)

    def repeat_to(self, count: int) -> "Inputs":
        """Return the inputs for ``count`` images: the first ones, repeated if there are fewer."""
        rows = torch.arange(count) % len(self.images)
        return self.with_copies(take_rows(self.images, rows), rows)

    def place_of(self, index: int) -> int:
        """Return the position among the model's arguments of one in ``others``."""
        return index + (index >= self.position)

    def per_image(self) -> frozenset[int]:
        """Return the indices of the other arguments that are taken to have one row per image, or several."""
        return self.several | self._with_rows(lambda count: count == len(self.images))

    def multiples(self) -> frozenset[int]:
        """Return the indices of the other arguments that may have several rows per image."""
        return self._with_rows(lambda count: count > len(self.images) and count % len(self.images) == 0)

    def _with_rows(self, is_count: Callable[[int], bool]) -> frozenset[int]:
        """Return the indices of the other arguments that are not shared, with tensors of so many rows."""
        return frozenset(
            index
            for index, other in enumerate(self.others)
            if index not in self.shared
            and any(isinstance(leaf, Tensor) and leaf.dim() > 0 and is_count(len(leaf)) for leaf in tree_leaves(other))
        )

    def _rows_taker(self, index: int, rows: Tensor) -> Callable[[Tensor], Tensor]:
        """Return what takes the rows of images from an argument's tensors."""
        count = len(self.images)

        def take(tensor: Tensor) -> Tensor:
            if tensor.dim() > 0 and len(tensor) == count:
                return take_rows(tensor, rows)
            if index in self.several and tensor.dim() > 0 and len(tensor) % count == 0:
                return take_rows(tensor.unflatten(0, (count, -1)), rows).flatten(0, 1)
            return tensor

        return take


def as_channels_last(images: Tensor) -> Tensor:
    """Return images (N, C, H, W) in channels_last.

    Those of one channel lie in memory as they do in any layout, and torch leaves their strides as they are; but
    convolutions go by the strides, and so do all layers behind them.
    """
    if images.shape[1] == 1:
        return images.contiguous().squeeze(1).unsqueeze(-1).movedim(-1, 1)
    return images.contiguous(memory_format=torch.channels_last)


def _is_channels_last(images: Tensor) -> bool:
    if images.dim() != 4 or not images.is_contiguous(memory_format=torch.channels_last):
        return False
    return images.stride(1) == 1 if images.shape[1] == 1 else not images.is_contiguous()


def in_fast_layout(run: Callable[[Inputs], Result], inputs: Inputs) -> Result:
    """Return the result of ``run`` in the fast layout; in the original one if the model's views need that."""
    fast = inputs.in_fast_layout()
    try:
        return run(fast)
    except RuntimeError as error:
        if fast is inputs or "view size is not compatible" not in str(error):
            raise
    return run(inputs)


def _as_positional(arguments: object, model: nn.Module | None) -> tuple[tuple[Any, ...], list[str]]:
    """Return the positional arguments and, for a mapping, their names."""
    if isinstance(arguments, Mapping):
        return _by_name(arguments, model)
    if isinstance(arguments, list):
        return (_stacked(arguments),), []
    if isinstance(arguments, tuple):
        if not arguments:
            raise ValueError("`images` must be a tensor or a tuple of the model's arguments, got an empty tuple")
        return arguments, []
    return (arguments,), []


def _by_name(arguments: Mapping[str, object], model: nn.Module | None) -> tuple[tuple[Any, ...], list[str]]:
    if model is None:
        raise TypeError("a mapping of arguments needs the model, whose forward has their names")
    signature = inspect.signature(model.forward)
    known = [
        name for name, parameter in signature.parameters.items() if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    unknown = [name for name in arguments if name not in known]
    if unknown or not arguments:
        raise ValueError(
            f"`images` is a mapping with {list(arguments)}, but {type(model).__name__}.forward has the arguments "
            f"{known}; pass those, or a tuple of positional arguments"
        )
    missing = [
        name
        for name in known
        if name not in arguments and signature.parameters[name].default is inspect.Parameter.empty
    ]
    if missing:
        raise ValueError(
            f"`images` is a mapping with {list(arguments)}, but {type(model).__name__}.forward also needs {missing}"
        )
    bound = signature.bind(**arguments)
    bound.apply_defaults()
    names = [name for name in known if name in bound.arguments]
    last = max(names.index(name) for name in arguments)
    return tuple(bound.arguments[name] for name in names[: last + 1]), names[: last + 1]


def _stacked(images: Sequence[object]) -> Tensor:
    """Return a list of images (C, *S) as one tensor."""
    tensors = [image for image in images if isinstance(image, Tensor)]
    if not tensors or len(tensors) != len(images) or any(image.dim() < 2 for image in tensors):
        kinds = sorted({type(image).__name__ for image in images})
        raise TypeError(
            f"a list must hold images (C, ...) as tensors, got {', '.join(kinds) or 'an empty list'}; "
            "fastcam.load_images reads files and PIL images, and a tuple passes several arguments to the model"
        )
    if len({image.shape for image in tensors}) > 1:
        raise ValueError(f"a list must hold images of one size here, got {[tuple(image.shape) for image in tensors]}")
    if tensors[0].dim() > 3:
        raise TypeError(
            f"a list must hold single images (C, H, W), got tensors {tuple(tensors[0].shape)}; a tuple passes several "
            "arguments to the model"
        )
    return torch.stack(tensors)


def _explained(arguments: tuple[object, ...]) -> int:
    """Return the position of the first floating point tensor (N, C, ...); of the first argument if there is none."""
    for position, argument in enumerate(arguments):
        if isinstance(argument, Tensor) and argument.is_floating_point() and argument.dim() >= 3:
            return position
    return 0


def _channel_axis(images: Tensor, axis: int | None) -> int:
    """Return the axis of channels, which is looked for in videos alone: (N, T, C, H, W), as Hugging Face has them."""
    if axis is None:
        is_video = images.dim() == 5 and images.shape[1] not in COLOURS and images.shape[2] in COLOURS
        return 2 if is_video else 1
    if not -images.dim() < axis < images.dim() or axis % images.dim() == 0:
        raise ValueError(
            f"`channel_axis` must be an axis of the images {tuple(images.shape)} other than 0, which counts the "
            f"images, got {axis}"
        )
    return axis % images.dim()


def _position(argument: int | str, names: Sequence[str], arguments: Sequence[object]) -> int:
    """Return the position of an argument given by position or name."""
    if isinstance(argument, str):
        if argument not in names:
            known = f"named {', '.join(names)}" if names else "without names; pass a mapping to use names"
            raise ValueError(f"there is no argument {argument!r}: the arguments are {known}")
        return names.index(argument)
    if not -len(arguments) <= argument < len(arguments):
        raise ValueError(f"there is no argument {argument}: the model gets {len(arguments)}")
    return argument % len(arguments)


def check_images(images: object) -> None:
    """Check that the explained argument is a floating point tensor (N, C, ...).

    Raises:
        TypeError, ValueError: if it is not; the message says how to convert it.
    """
    if not isinstance(images, Tensor):
        raise TypeError(
            f"`images` must be a floating point tensor (N, C, ...), got {type(images).__name__}; "
            "fastcam.load_images makes it from files, PIL images and arrays"
        )
    if not images.is_floating_point():
        raise TypeError(
            f"`images` must be a floating point tensor (N, C, ...), got {images.dtype}; convert it as the model was "
            "trained, for example (images / 255 - mean) / std"
        )
    if images.dim() < 3 or images.shape[0] == 0:
        raise ValueError(f"`images` must have shape (N, C, ...) with at least one image, got {tuple(images.shape)}")
