"""Decoding of untrusted image files: the header is checked before memory is allocated, every error is a ValueError."""

import contextlib
import functools
import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from PIL import Image
from torch import Tensor

from fastcam.classifiers.preprocessing import Pixels, Preprocessing, check_pixels, open_photograph, to_rgb
from fastcam.dataset.jpeg_header import ORIENTATION, is_upright, read_header

Decoder: TypeAlias = Literal["torchcodec", "pillow", "scaled", "gpu"]
Size: TypeAlias = tuple[int, int]  # (width, height)
SCALED_MARGIN = 2  # of a scaled photograph over what it is resized to; the rest is left to the antialiased resizing
_TURNED = (5, 6, 7, 8)  # values of the orientation where width and height are exchanged
_END_OF_JPEG = b"\xff\xd9"  # a file without it is damaged, or has something behind the picture


@dataclass(frozen=True)
class Limits:
    """Limits of the images that are read.

    Attributes:
        pixels: maximum of width times height.
        bytes: maximum size of the file.
        formats: Pillow's names of the accepted formats.
    """

    pixels: int = 50_000_000
    bytes: int = 64 * 2**20
    formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> "Limits":
        """Return the limits from their JSON object."""
        return cls(**{**fields, "formats": tuple(fields["formats"])})

    def check_bytes(self, count: int) -> None:
        """Refuse a file that is too large.

        Raises:
            ValueError: for more than ``bytes`` bytes.
        """
        if count > self.bytes:
            raise ValueError(f"the file has {count:,} bytes, more than {self.bytes:,}")

    def check(self, size: tuple[int, int], count: int) -> None:
        """Refuse an image that is too large, from its header.

        Args:
            size: (width, height), in pixels.
            count: bytes of the file.

        Raises:
            ValueError: for too many bytes or pixels.
        """
        self.check_bytes(count)
        check_pixels(size, self.pixels)


def default_decoder() -> Decoder:
    """Return "torchcodec" if it is installed and works, else "pillow"."""
    return "pillow" if find_decode_jpeg() is None else "torchcodec"


def on_processor(decoder: Decoder) -> Decoder:
    """Return the decoder that makes the same picture without a GPU, up to rounding."""
    return default_decoder() if decoder == "gpu" else decoder


def check_decoder(decoder: str) -> None:
    """Refuse an unknown decoder, or one that is not installed.

    Raises:
        ValueError: for such a decoder.
    """
    if decoder not in get_args(Decoder):
        raise ValueError(f"`decoder` must be one of {', '.join(get_args(Decoder))}, got {decoder!r}")
    if decoder in ("torchcodec", "gpu") and find_decode_jpeg() is None:
        raise ValueError(f"`decoder` {decoder} needs torchcodec, 0.16 or newer: pip install torchcodec")


@functools.cache
def find_decode_jpeg() -> Callable[..., Tensor] | None:
    """Return torchcodec's JPEG decoder, if it is installed."""
    try:
        from torchcodec import decoders
    except (ImportError, RuntimeError, OSError):  # not installed, or its libraries are missing
        return None
    return getattr(decoders, "decode_jpeg", None)  # new in 0.16


def decode_pixels(data: bytes, limits: Limits, decoder: Decoder) -> Pixels:
    """Return the pixels of an encoded image, upright, (H, W, 3) uint8.

    Args:
        data: the encoded image.
        limits: limits of the image.
        decoder: of JPEG files; Pillow reads all other formats.

    Raises:
        ValueError: for data that cannot be decoded or exceed the limits.
    """
    decode_jpeg = find_decode_jpeg() if decoder in ("torchcodec", "gpu") else None
    if decode_jpeg is not None and _is_jpeg(data, limits):
        with contextlib.suppress(RuntimeError, ValueError):  # Pillow's error message is better
            return decode_jpeg(data, mode="RGB").permute(1, 2, 0).numpy()
    return np.array(decode_image(data, limits))


def decode_scaled(data: bytes, limits: Limits, preprocessing: Preprocessing) -> tuple[Pixels, Size]:
    """Return the pixels of an encoded image, upright, (h, w, 3) uint8, and the size of the whole.

    A JPEG file is decoded at 1/2, 1/4 or 1/8 of its size, by libjpeg from fewer coefficients of each block: the
    smallest at which both sides are still twice as long as they are resized to. Where the sides are no multiples of
    that, the last row or column lies in part beyond the photograph, and the pixels that are returned are resized
    already. All else is decoded whole.

    Args:
        data: the encoded image.
        limits: limits of the image, whole.
        preprocessing: of the pixels that are returned.

    Raises:
        ValueError: for data that cannot be decoded or exceed the limits.
    """
    with _without_warnings(), open_photograph(io.BytesIO(data), limits.formats) as image:
        limits.check(image.size, len(data))
        is_turned = image.getexif().get(ORIENTATION) in _TURNED
        whole = _turned(image.size) if is_turned else image.size
        resized = preprocessing.resized_size(whole)
        width, height = _turned(resized) if is_turned else resized
        drafted = image.draft(None, (max(1, SCALED_MARGIN * width), max(1, SCALED_MARGIN * height)))
        if drafted is not None and drafted[1][2:] != image.size:  # the part of the pixels that the photograph takes
            resampling = Image.Resampling[preprocessing.interpolation.upper()]
            return np.array(to_rgb(image.resize((width, height), resampling, drafted[1]))), whole
        return np.array(to_rgb(image)), whole


def is_for_device(data: bytes, limits: Limits) -> bool:
    """Whether a device is to decode a file: an ordinary JPEG file within the limits, whole and upright.

    Raises:
        ValueError: for an ordinary JPEG file beyond the limits.
    """
    header = read_header(data) if "JPEG" in limits.formats else None
    if header is None:
        return False
    limits.check((header.width, header.height), len(data))
    return data.endswith(_END_OF_JPEG) and is_upright(data)


def _turned(size: Size) -> Size:
    """Return a size with its sides exchanged."""
    return size[1], size[0]


def _is_jpeg(data: bytes, limits: Limits) -> bool:
    """Whether the data are an RGB or grey JPEG file, whose size is checked here."""
    header = read_header(data) if "JPEG" in limits.formats else None
    if header is not None:
        limits.check((header.width, header.height), len(data))
        return True
    with _without_warnings(), open_photograph(io.BytesIO(data), limits.formats) as image:
        limits.check(image.size, len(data))
        return image.format == "JPEG" and image.mode in ("RGB", "L")


def decode_image(data: bytes, limits: Limits) -> Image.Image:
    """Return an encoded image, upright and in RGB, decoded by Pillow.

    Raises:
        ValueError: for data that cannot be decoded or exceed the limits.
    """
    with _without_warnings(), open_photograph(io.BytesIO(data), limits.formats) as image:
        limits.check(image.size, len(data))
        return to_rgb(image)


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Hide warnings about metadata, and about sizes within the limits."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
