"""Loading of images as model inputs: on threads, in order."""

import hashlib
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from fastcam.classifiers.preprocessing import Pixels, Preprocessing
from fastcam.dataset.decode import Decoder, Limits, Size, decode_pixels, decode_scaled
from fastcam.dataset.records import Span
from fastcam.dataset.sources import Item
from fastcam.dataset.sources.remote import UnreachableError

MAX_IMAGES_PER_TASK = 8  # of a thread
MIN_TASKS = 16  # for an even load of the threads


@dataclass(frozen=True)
class LoadedImage:
    """A model input, or the reason why there is none.

    Attributes:
        item: the image in the source.
        label: the dataset's own label, if any.
        sha256: of the encoded bytes, or of the values of a PyTorch dataset's sample.
        tensor: (C, *S), or None.
        reason: one line, if there is no tensor.
        seconds: that reading, decoding and preprocessing took.
        size: (height, width) of the upright photograph; None for a sample that is a tensor.
        more: inputs of further models.
    """

    item: Item
    label: str | None
    sha256: str | None
    tensor: Tensor | None
    reason: str = ""
    seconds: tuple[float, float, float] = (0.0, 0.0, 0.0)
    size: tuple[int, int] | None = None
    more: tuple[Tensor, ...] = ()

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
    """

    preprocessing: Preprocessing
    limits: Limits
    decoder: Decoder = "pillow"
    more: tuple[Preprocessing, ...] = ()

    def __call__(self, item: Item) -> LoadedImage:
        """Load one image; any error becomes the reason.

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
            read = time.perf_counter()
            pixels, size = self._decoded(content, self.preprocessing)
            decoded = time.perf_counter()
            tensor = pixels if isinstance(pixels, Tensor) else self.preprocessing(pixels)
            more = tuple(self._further(content, pixels, each) for each in self.more)
            seconds = (read - start, decoded - read, time.perf_counter() - decoded)
            shape = None if size is None else size[::-1]
            return LoadedImage(item, label, sha256, tensor, seconds=seconds, size=shape, more=more)
        except UnreachableError:
            raise
        except Exception as error:  # damaged files, or errors in the code of the user's dataset
            reason = " ".join(str(error).split()) or type(error).__name__
            expected = isinstance(error, ValueError | OSError)
            return LoadedImage(item, label, sha256, None, reason if expected else f"{type(error).__name__}: {reason}")

    def _further(
        self, content: bytes | Tensor | Image.Image, pixels: Tensor | Image.Image | Pixels, preprocessing: Preprocessing
    ) -> Tensor:
        """Return the input of a further model, of the same pixels unless their number follows from the input."""
        if self.decoder == "scaled":
            pixels, _ = self._decoded(content, preprocessing)
        return pixels if isinstance(pixels, Tensor) else preprocessing(pixels)

    def _decoded(
        self, content: bytes | Tensor | Image.Image, preprocessing: Preprocessing
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


def _check_type(image: object) -> bytes | Tensor | Image.Image:
    if isinstance(image, bytes | Tensor | Image.Image):
        return image
    raise TypeError(f"a sample must begin with a tensor or a PIL image, got {type(image).__name__}")


def _content_bytes(image: bytes | Tensor | Image.Image) -> bytes:
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
    items: Callable[[int, int], Iterator[Item]], spans: Iterator[Span], loader: Loader, threads: Executor, window: int
) -> Iterator[tuple[Span, Iterator[LoadedImage]]]:
    """Yield each span and its images, loaded ahead on threads, across span boundaries.

    The images of a span must be consumed before the next span is requested.

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

    def images_of(span: Span) -> Iterator[LoadedImage]:
        while pending and pending[0][0] == span:
            future = pending.popleft()[1]
            fill()
            yield from future.result()

    fill()
    while pending:
        span = pending[0][0]
        yield span, images_of(span)


def _load(loader: Loader, items: Sequence[Item]) -> list[LoadedImage]:
    return [loader(item) for item in items]


def _groups(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    """Yield so many items together, and the rest."""
    while group := list(itertools.islice(items, size)):
        yield group
