"""Photographs in, model inputs and PNG files out; PIL, NumPy and torch at run time, nothing else."""

import contextlib
import functools
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]

Pixels = np.ndarray[Any, Any]  # uint8, upright

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """From a photograph to a classifier's input: resize, crop the centre, normalise.

    The default is what most ImageNet classifiers were trained for.

    Attributes:
        shorter_side: the photograph's shorter side after resizing, in pixels.
        size: (height, width) of the crop from the centre, in pixels.
        mean: per colour, on the scale [0, 1]; three numbers, or one for a model of grey images.
        std: per colour, on the scale [0, 1], as many as ``mean``.
        interpolation: "nearest", "bilinear", "bicubic" or "lanczos".
        keep_aspect: False resizes both sides to ``shorter_side``, whatever the photograph's shape.

    Raises:
        ValueError: for sizes, colours or an interpolation that cannot be.
    """

    shorter_side: int = 256
    size: tuple[int, int] = (224, 224)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: Interpolation = "bilinear"
    keep_aspect: bool = True

    def __post_init__(self) -> None:
        if min(self.size) < 1 or self.shorter_side < max(self.size):
            raise ValueError(
                f"`shorter_side` must be at least as large as the crop, got {self.shorter_side} for a crop of "
                f"{self.size[0]} x {self.size[1]}"
            )
        if len(self.mean) not in (1, 3) or len(self.std) != len(self.mean) or min(self.std) <= 0:
            raise ValueError(
                f"`mean` and `std` must be three numbers each (or one each), `std` above 0, got {self.mean} "
                f"and {self.std}"
            )
        if self.interpolation not in get_args(Interpolation):
            raise ValueError(f"`interpolation` must be one of {get_args(Interpolation)}, got {self.interpolation!r}")

    def crop(self, photograph: Image.Image) -> Image.Image:
        """What the model sees of a photograph, as an RGB picture (grey for a model of grey images)."""
        return Image.fromarray(self._cropped(self._pixels(photograph)))

    def tensor(self, picture: Image.Image) -> Tensor:
        """A cropped picture as input of the model, (3, H, W) float32; colours only, no resizing."""
        return self._normalized(self._pixels(picture))

    def __call__(self, photograph: Image.Image | Pixels) -> Tensor:
        """A photograph, or its upright (H, W, 3) pixels, as input of the model: ``tensor(crop(photograph))``."""
        if not isinstance(photograph, Image.Image) and len(self.mean) == 1:
            photograph = Image.fromarray(photograph)
        pixels = self._pixels(photograph) if isinstance(photograph, Image.Image) else photograph
        return self._normalized(self._cropped(pixels))

    def _pixels(self, picture: Image.Image) -> Pixels:
        """(H, W, 3), or (H, W) for a model of grey images."""
        return np.array(picture.convert("RGB" if len(self.mean) == 3 else "L"))

    def _cropped(self, pixels: Pixels) -> Pixels:
        resized = resize(pixels, self._resized((pixels.shape[1], pixels.shape[0])), self.interpolation)
        height, width = self.size
        # Rounded like torchvision's CenterCrop, or the map of a photograph with odd margins moves by one pixel.
        top, left = round((resized.shape[0] - height) / 2), round((resized.shape[1] - width) / 2)
        return resized[top : top + height, left : left + width]

    def _normalized(self, pixels: Pixels) -> Tensor:
        """Looked up: there are no more than 256 values of each colour."""
        found = np.empty((len(self.mean), *pixels.shape[:2]), np.float32)
        for plane, table, values in zip(found, self._tables, np.atleast_3d(pixels).transpose(2, 0, 1), strict=True):
            np.take(table, values, out=plane)
        return torch.from_numpy(found)

    @functools.cached_property
    def _tables(self) -> Pixels:
        """What each of the 256 values becomes, for every colour."""
        mean, std = np.array([self.mean, self.std], np.float32)[..., None]
        return (np.arange(256, dtype=np.float32) / 255 - mean) / std

    def _resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) after resizing."""
        width, height = size
        side = self.shorter_side
        if not self.keep_aspect:
            return side, side
        return (side, side * height // width) if width <= height else (side * width // height, side)


def read_photograph(file: str | Path | BinaryIO, formats: tuple[str, ...] | None = None) -> Image.Image:
    """A photograph as it is meant to be seen, in RGB.

    Turned as its EXIF data say; transparency over white; 16-bit grey values scaled to 8 bits; palettes and CMYK
    converted.

    Args:
        file: a path, or a file open for reading.
        formats: Pillow's names of the formats that are read; None for all it knows.

    Raises:
        ValueError: with one sentence, for a file that is missing, no picture or damaged.
    """
    with opened(file, formats) as image:
        return rgb(image)


@contextlib.contextmanager
def opened(file: str | Path | BinaryIO, formats: tuple[str, ...] | None = None) -> Iterator[Image.Image]:
    """A photograph of which the header alone was read; whatever is wrong with it then comes as a ValueError too.

    Raises:
        ValueError: as :func:`read_photograph`.
    """
    try:
        with Image.open(file, formats=formats) as image:
            yield image
    except FileNotFoundError:
        raise ValueError("there is no such file") from None
    except UnidentifiedImageError:
        known = "a format that Pillow reads" if formats is None else f"one of {', '.join(formats)}"
        raise ValueError(f"this is not a picture in {known}") from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise ValueError(f"this picture cannot be read: {error}") from None


def rgb(image: Image.Image) -> Image.Image:
    """An opened photograph, decoded and upright, in RGB."""
    image.load()
    return _rgb(ImageOps.exif_transpose(image))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _deep_grey(image).convert("RGB")
    if image.has_transparency_data:
        colors = image.convert("RGBA")
        white = Image.new("RGBA", colors.size, "white")
        return Image.alpha_composite(white, colors).convert("RGB")
    return image.convert("RGB")


def _deep_grey(image: Image.Image) -> Image.Image:
    """Grey values beyond 8 bits; Pillow's own conversion would clip them to white."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 65535:
        raise ValueError(f"its values, {values.min():g} to {values.max():g}, are no 16-bit grey values")
    scale = 255.0 if image.mode == "F" and values.max() <= 1 else 255 / 65535
    return Image.fromarray(np.round(values * scale).astype(np.uint8))


def resize(pixels: Pixels, size: tuple[int, int], interpolation: Interpolation) -> Pixels:
    """Pixels (H, W, 3) or (H, W) at another size, (width, height).

    Torch's resampling of bytes is Pillow's, to one level in a few of a thousand pixels, and several times faster.
    """
    if interpolation not in ("bilinear", "bicubic"):
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling[interpolation.upper()]))
    planes = torch.from_numpy(np.atleast_3d(pixels)).permute(2, 0, 1)[None]
    resized = F.interpolate(planes, (size[1], size[0]), mode=interpolation, antialias=True)[0].permute(1, 2, 0)
    return resized.numpy().reshape(*resized.shape[:2], *pixels.shape[2:])


def write_png(picture: Image.Image, file: Path) -> None:
    """Writes a PNG file in one step: whoever looks sees the old file or the whole new one.

    Raises:
        OSError: where the folder cannot be written.
    """
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        picture.save(temporary, "PNG")
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
