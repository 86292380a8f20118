"""From items to model inputs, on threads, in order."""

import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from fastcam.classifiers.preprocessing import Preprocessing
from fastcam.dataset.decode import Decoder, Limits, pixels
from fastcam.dataset.sources import Item, Source
from fastcam.dataset.store import Span


@dataclass(frozen=True)
class Loaded:
    """An image ready for the model, or the reason why there is none.

    Attributes:
        item: what it was made from.
        label: what the dataset says it shows.
        sha256: of the encoded bytes, or of the values where a PyTorch dataset gave those.
        tensor: (C, *S), or None.
        reason: one sentence, where there is no tensor.
    """

    item: Item
    label: str | None
    sha256: str | None
    tensor: Tensor | None
    reason: str = ""


@dataclass(frozen=True)
class Loader:
    """How images are loaded.

    Attributes:
        preprocessing: from a photograph to the model's input.
        limits: what an image may be at most.
        decoder: of JPEG files.
    """

    preprocessing: Preprocessing
    limits: Limits
    decoder: Decoder = "pillow"

    def __call__(self, item: Item) -> Loaded:
        """Loads one image; whatever is wrong with it becomes the reason."""
        label, sha256 = item.label, None
        try:
            found = item.read(self.limits)
            if isinstance(found, tuple | list):
                found, *rest = found
                label = _label(rest[0]) if rest else label
            sha256 = hashlib.sha256(_content(found)).hexdigest()
            return Loaded(item, label, sha256, self._tensor(found))
        except Exception as error:  # of a stranger's file, or of the code of a user's dataset
            sentence = " ".join(str(error).split()) or type(error).__name__
            expected = isinstance(error, ValueError | OSError)
            return Loaded(item, label, sha256, None, sentence if expected else f"{type(error).__name__}: {sentence}")

    def _tensor(self, found: Any) -> Tensor:
        if isinstance(found, Tensor):
            return found
        return self.preprocessing(pixels(found, self.limits, self.decoder) if isinstance(found, bytes) else found)


def _content(found: Any) -> bytes:
    if isinstance(found, bytes):
        return found
    if isinstance(found, Tensor):
        return found.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
    if isinstance(found, Image.Image):
        return found.tobytes()
    raise TypeError(f"a sample must begin with a tensor or a PIL image, got {type(found).__name__}")


def _label(value: Any) -> str | None:
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    return str(value) if isinstance(value, str | int | float) else None


def in_order(
    source: Source, spans: Iterator[Span], loader: Loader, threads: Executor, window: int
) -> Iterator[tuple[Span, Iterator[Loaded]]]:
    """The images span by span, at most so many loaded before they are wanted, also those of the next span.

    The images of a span must be taken before the next span is.
    """
    pending: deque[tuple[Span, Future[Loaded]]] = deque()
    work = ((span, item) for span in spans for item in source.items(span.start, span.stop))

    def fill() -> None:
        while len(pending) < window:
            found = next(work, None)
            if found is None:
                return
            pending.append((found[0], threads.submit(loader, found[1])))

    def of(span: Span) -> Iterator[Loaded]:
        while pending and pending[0][0] == span:
            future = pending.popleft()[1]
            fill()
            yield future.result()

    fill()
    while pending:
        span = pending[0][0]
        yield span, of(span)
