"""Bytes of a stranger's image to a photograph: looked at before anything is allocated, and never a crash."""

import contextlib
import functools
import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from PIL import Image
from torch import Tensor

from fastcam.classifiers.preprocessing import Pixels, opened, rgb

Decoder = Literal["torchcodec", "pillow"]


@dataclass(frozen=True)
class Limits:
    """What an image may be at most.

    Attributes:
        pixels: width times height.
        bytes: of the file.
        formats: Pillow's names of the formats that are read.
    """

    pixels: int = 50_000_000
    bytes: int = 64 * 2**20
    formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")

    def check_bytes(self, count: int) -> None:
        """Refuses a file that is too large.

        Raises:
            ValueError: with the reason.
        """
        if count > self.bytes:
            raise ValueError(f"the file has {count:,} bytes, more than {self.bytes:,}")

    def check(self, image: Image.Image, count: int) -> None:
        """Refuses an image, of whose file the header alone was read, that is too large.

        Raises:
            ValueError: with the reason.
        """
        self.check_bytes(count)
        pixels = image.width * image.height
        if pixels > self.pixels:
            raise ValueError(f"the picture has {pixels:,} pixels, more than {self.pixels:,}")


def usual_decoder() -> Decoder:
    """Torchcodec where it is installed and works, else Pillow."""
    return "pillow" if _decode_jpeg() is None else "torchcodec"


def check_decoder(decoder: str) -> None:
    """Refuses a decoder that cannot be.

    Raises:
        ValueError: with a sentence.
    """
    if decoder not in get_args(Decoder):
        raise ValueError(f"`decoder` must be one of {', '.join(get_args(Decoder))}, got {decoder!r}")
    if decoder == "torchcodec" and _decode_jpeg() is None:
        raise ValueError("`decoder` torchcodec needs the package, 0.16 or newer: pip install torchcodec")


@functools.cache
def _decode_jpeg() -> Callable[..., Tensor] | None:
    try:
        from torchcodec import decoders
    except (ImportError, RuntimeError, OSError):  # not there, or without the libraries it needs
        return None
    return getattr(decoders, "decode_jpeg", None)  # since 0.16


def pixels(data: bytes, limits: Limits, decoder: Decoder) -> Pixels:
    """The photograph's upright pixels, (H, W, 3).

    Args:
        data: the encoded image.
        limits: what it may be at most.
        decoder: of JPEG files; any other format is read by Pillow.

    Raises:
        ValueError: with the reason in one sentence, whatever is wrong with the bytes.
    """
    decode_jpeg = _decode_jpeg() if decoder == "torchcodec" else None
    if decode_jpeg is not None and _header(data, limits) == "JPEG":
        with contextlib.suppress(RuntimeError, ValueError):  # Pillow says better what is wrong with it
            return decode_jpeg(data, mode="RGB").permute(1, 2, 0).numpy()
    return np.array(decode(data, limits))


def _header(data: bytes, limits: Limits) -> str | None:
    """The format, where it has the usual colours."""
    with _told(), opened(io.BytesIO(data), limits.formats) as image:
        limits.check(image, len(data))
        return image.format if image.mode in ("RGB", "L") else None


def decode(data: bytes, limits: Limits) -> Image.Image:
    """The photograph, upright and in RGB, read by Pillow.

    Raises:
        ValueError: with the reason in one sentence, whatever is wrong with the bytes.
    """
    with _told(), opened(io.BytesIO(data), limits.formats) as image:
        limits.check(image, len(data))
        return rgb(image)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Whatever Pillow makes of the bytes becomes a sentence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of doubtful metadata and of sizes below our own limit
            yield
    except ValueError:
        raise
    except Exception as error:  # Pillow's parsers raise whatever the bytes make of them: KeyError, IndexError, ...
        raise ValueError(f"this picture cannot be read: {type(error).__name__}: {error}") from error
