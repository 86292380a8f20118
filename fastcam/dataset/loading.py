"""Loading of images as model inputs: on threads, in order."""

import hashlib
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from PIL import Image
from torch import Tensor

from fastcam.classifiers.preprocessing import INTERPOLATIONS_ON_DEVICES, Pixels, Preprocessing
from fastcam.dataset.decode import Decoder, Limits, Size, decode_pixels, decode_scaled, is_for_device
from fastcam.dataset.jpeg_header import read_header
from fastcam.dataset.records import Span
from fastcam.dataset.sources import Item
from fastcam.dataset.sources.remote import UnreachableError

MAX_IMAGES_PER_TASK = 8  # of a thread
MIN_TASKS = 16  # for an even load of the threads


Content: TypeAlias = bytes | Tensor | Image.Image  # an encoded image, or the sample of a PyTorch dataset


@dataclass(frozen=True)
class Converted:
    """What the models see of an image.

    Attributes:
        tensors: the input (C, *S) of each model; or its pixels (H, W, C) uint8, see :attr:`Loader.pixels`; or the file
            (bytes,) uint8 that a device decodes.
        size: (width, height) of the upright photograph; None for a sample that is a tensor.
        seconds: that decoding and preprocessing took.
    """

    tensors: tuple[Tensor, ...]
    size: Size | None
    seconds: tuple[float, float]


@dataclass(frozen=True)
class LoadedImage:
    """A model input, or the reason why there is none.

    Attributes:
        item: the image in the source.
        label: the dataset's own label, if any.
        sha256: of the encoded bytes, or of the values of a PyTorch dataset's sample.
        tensor: (C, *S), or pixels (H, W, C) uint8 of which floats are made on the device, or the file (bytes,) uint8
            that it decodes; or None.
        reason: one line, if there is no tensor.
        seconds: that reading, decoding and preprocessing took.
        size: (height, width) of the upright photograph; None for a sample that is a tensor.
        more: the same for further models.
    """

    item: Item
    label: str | None
    sha256: str | None
    tensor: Tensor | None
    reason: str = ""
    seconds: tuple[float, float, float] = (0.0, 0.0, 0.0)
    size: tuple[int, int] | None = None
    more: tuple[Tensor, ...] = ()

    @property
    def is_encoded(self) -> bool:
        """Whether the tensor holds a file that a device decodes."""
        is_bytes = self.tensor is not None and self.tensor.dtype == torch.uint8 and self.tensor.dim() == 1
        return is_bytes and self.size is not None

    def seen_by(self, model: int) -> "LoadedImage":
        """Return the image with the input of one of several models."""
        return self if model == 0 or self.tensor is None else replace(self, tensor=self.more[model - 1])


@dataclass(frozen=True)
class Loader:
    """The conversion of images to model inputs.

    Attributes:
        preprocessing: converts a photograph to the model's input.
        limits: limits of the images.
        decoder: of JPEG files.
        more: the same for further models that see the image.
        pixels: leave photographs as pixels (H, W, C) uint8, a quarter of the bytes, which become floats on the device.
    """

    preprocessing: Preprocessing
    limits: Limits
    decoder: Decoder = "pillow"
    more: tuple[Preprocessing, ...] = ()
    pixels: bool = False

    def __call__(self, item: Item, convert: "Callable[[Content], Converted] | None" = None) -> LoadedImage:
        """Load one image; any error becomes the reason.

        Args:
            item: the image.
            convert: does what :meth:`convert` does, elsewhere.

        Raises:
            UnreachableError: where the store of all images does not answer.
        """
        label, sha256, start = item.label, None, time.perf_counter()
        try:
            image = item.read(self.limits)
            if isinstance(image, tuple | list):
                image, *rest = image
                label = _label_text(rest[0]) if rest else label
            content = _check_type(image)
            sha256 = hashlib.sha256(_content_bytes(content)).hexdigest()
            read = time.perf_counter() - start
            found = (convert or self.convert)(content)
            size = None if found.size is None else found.size[::-1]
            tensor, *more = found.tensors
            seconds = (read, *found.seconds)
            return LoadedImage(item, label, sha256, tensor, seconds=seconds, size=size, more=tuple(more))
        except UnreachableError:
            raise
        except Exception as error:  # damaged files, or errors in the code of the user's dataset
            return LoadedImage(item, label, sha256, None, reason_of(error))

    def convert(self, content: Content) -> Converted:
        """Return what the models see of an image.

        Raises:
            ValueError: for data that cannot be decoded or exceed the limits.
        """
        start = time.perf_counter()
        if self.decoder == "gpu" and isinstance(content, bytes) and self._is_for_device(content):
            file = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            header = read_header(content)
            size = None if header is None else (header.width, header.height)
            return Converted((file,) * (1 + len(self.more)), size, (time.perf_counter() - start, 0.0))
        pixels, size = self._decoded(content, self.preprocessing)
        decoded = time.perf_counter()
        tensors = [self._input(pixels, self.preprocessing)]
        for preprocessing in self.more:
            if self.decoder == "scaled":  # the number of pixels follows from the input
                pixels, _ = self._decoded(content, preprocessing)
            tensors.append(self._input(pixels, preprocessing))
        return Converted(tuple(tensors), size, (decoded - start, time.perf_counter() - decoded))

    def _is_for_device(self, content: bytes) -> bool:
        kinds = (self.preprocessing, *self.more)
        can = all(len(each.mean) == 3 and each.interpolation in INTERPOLATIONS_ON_DEVICES for each in kinds)
        return can and is_for_device(content, self.limits)

    def _input(self, pixels: Tensor | Image.Image | Pixels, preprocessing: Preprocessing) -> Tensor:
        """Return what a model sees of a decoded photograph, or the tensor of a sample."""
        if isinstance(pixels, Tensor):
            return pixels
        return preprocessing.pixels(pixels) if self.pixels else preprocessing(pixels)

    def _decoded(
        self, content: Content, preprocessing: Preprocessing
    ) -> tuple[Tensor | Image.Image | Pixels, Size | None]:
        """Return what is preprocessed, and the size of the whole photograph; None for a sample that is a tensor."""
        if isinstance(content, Tensor):
            return content, None
        if isinstance(content, Image.Image):
            return content, content.size
        if self.decoder == "scaled":
            return decode_scaled(content, self.limits, preprocessing)
        pixels = decode_pixels(content, self.limits, self.decoder)
        return pixels, (pixels.shape[1], pixels.shape[0])


def reason_of(error: Exception) -> str:
    """Return one line on why an image could not be loaded."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return reason if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {reason}"


def _check_type(image: object) -> Content:
    if isinstance(image, bytes | Tensor | Image.Image):
        return image
    raise TypeError(f"a sample must begin with a tensor or a PIL image, got {type(image).__name__}")


def _content_bytes(image: Content) -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, Tensor):
        return image.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
    return image.tobytes()


def _label_text(label: object) -> str | None:
    if isinstance(label, Tensor) and label.numel() == 1:
        label = label.item()
    return str(label) if isinstance(label, str | int | float) else None


def load_in_order(
    items: Callable[[int, int], Iterator[Item]],
    spans: Iterator[Span],
    loader: Callable[[Item], LoadedImage],
    threads: Executor,
    window: int,
) -> Iterator[tuple[Span, LoadedImage]]:
    """Yield images with their spans, in order, loaded ahead on threads, across span boundaries.

    Args:
        items: yields the images from a position to another.
        spans: the spans to load.
        loader: loads one image.
        threads: run the loader.
        window: maximum number of images loaded ahead.
    """
    # Several images a task: handing a task to a thread costs as much as reading a small picture.
    size = max(1, min(MAX_IMAGES_PER_TASK, window // MIN_TASKS))
    pending: deque[tuple[Span, Future[list[LoadedImage]]]] = deque()
    tasks = ((span, group) for span in spans for group in _groups(items(span.start, span.stop), size))

    def fill() -> None:
        while len(pending) * size < window:
            task = next(tasks, None)
            if task is None:
                return
            span, group = task
            pending.append((span, threads.submit(_load, loader, group)))

    fill()
    while pending:
        span, future = pending.popleft()
        fill()
        for image in future.result():
            yield span, image


def _load(loader: Callable[[Item], LoadedImage], items: Sequence[Item]) -> list[LoadedImage]:
    return [loader(item) for item in items]


def _groups(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    """Yield so many items together, and the rest."""
    while group := list(itertools.islice(items, size)):
        yield group
