"""Preprocessing of photographs to model inputs, and PNG files."""

import contextlib
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from fastcam.devices import send
from fastcam.ops import resize_crop

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]

Pixels = npt.NDArray[np.uint8]  # upright

INTERPOLATIONS_ON_DEVICES = ("bilinear", "bicubic")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_MAX_PIXELS = 500_000_000  # of a picture to write: 1.5 GB of memory
_MAX_SIDES = {"JPEG": 65_500, "WEBP": 16_383}  # of pictures to write, in pixels


@dataclass(frozen=True)
class Preprocessing:
    """The preprocessing of a photograph to a classifier's input: resize, crop the centre, normalise.

    The defaults are those of most ImageNet classifiers.

    Attributes:
        shorter_side: the photograph's shorter side after resizing, in pixels.
        size: (height, width) of the crop from the centre, in pixels.
        mean: per channel, on the scale [0, 1]; three numbers, or one for a grey-scale model.
        std: per channel, on the scale [0, 1], as many as ``mean``.
        interpolation: "nearest", "bilinear", "bicubic" or "lanczos".
        keep_aspect: False resizes both sides to ``shorter_side``, whatever the photograph's shape.

    Raises:
        ValueError: for invalid sizes, means, standard deviations or interpolations.
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

    def changed(
        self,
        *,
        size: int | tuple[int, int] | None = None,
        shorter_side: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> "Preprocessing":
        """Return a copy with these values in place of its own; ``shorter_side`` is scaled with ``size``.

        Raises:
            ValueError: for invalid values.
        """
        sides = self.size if size is None else (size, size) if isinstance(size, int) else size
        if not isinstance(sides, Sequence) or len(sides) != 2 or not all(isinstance(n, int) and n > 0 for n in sides):
            raise ValueError(f"`size` must be one or two positive whole numbers, got {size!r}")
        for name, values in (("mean", mean), ("std", std)):
            if values is not None and not isinstance(values, Sequence):
                raise ValueError(f"`{name}` must be a list of numbers, got {values!r}")
        height, width = sides
        scaled = round(self.shorter_side * max(height, width) / max(self.size))
        return replace(
            self,
            size=(height, width),
            shorter_side=scaled if shorter_side is None else shorter_side,
            mean=self.mean if mean is None else tuple(mean),
            std=self.std if std is None else tuple(std),
        )

    def crop(self, photograph: Image.Image) -> Image.Image:
        """Return the part of a photograph that the model sees, as an RGB image (grey for a grey-scale model)."""
        return Image.fromarray(self._crop_pixels(self._pixels(photograph)))

    def box(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Return (left, top, right, bottom) of the crop in a photograph (width, height), in its own pixels."""
        resized = self.resized_size(size)
        left, top = self._corner(resized)
        across, down = size[0] / resized[0], size[1] / resized[1]
        return left * across, top * down, (left + self.size[1]) * across, (top + self.size[0]) * down

    def share_cropped(self, size: tuple[int, int]) -> float:
        """Return the share of a photograph's (width, height) area that is not in the crop."""
        left, top, right, bottom = self.box(size)
        return 1 - (right - left) * (bottom - top) / (size[0] * size[1])

    def tensor(self, picture: Image.Image) -> Tensor:
        """Normalise a cropped image to the input of the model, (3, H, W) float32, without resizing."""
        return self._normalize(self._pixels(picture))

    def __call__(self, photograph: Image.Image | Pixels) -> Tensor:
        """Preprocess a photograph, or its upright (H, W, 3) pixels: ``tensor(crop(photograph))``."""
        return self._normalize(self._cropped(photograph))

    def pixels(self, photograph: Image.Image | Pixels) -> Tensor:
        """Return the part of a photograph that the model sees, (H, W, C) uint8; :meth:`normalized` gives the input."""
        return torch.from_numpy(np.ascontiguousarray(np.atleast_3d(self._cropped(photograph))))

    def pixels_of_planes(self, photographs: Sequence[Tensor]) -> Tensor:
        """Return the parts that the model sees (N, H, W, 3) uint8 of photographs (3, h, w) uint8, on their device.

        Of any sizes, all together; they are those of :meth:`pixels`, byte for byte.

        Raises:
            ValueError: for an interpolation that is not bilinear or bicubic.
        """
        mode = self.interpolation
        if mode not in INTERPOLATIONS_ON_DEVICES:
            raise ValueError(f"devices resize by {' or '.join(INTERPOLATIONS_ON_DEVICES)} interpolation, not {mode}")
        places: list[int] = []
        for planes in photographs:
            _, height, width = planes.shape
            resized = self.resized_size((width, height))
            places += [height, width, *resized[::-1], *self._corner(resized)[::-1]]
        pixels = torch.cat([planes.flatten() for planes in photographs])
        return resize_crop(pixels, places, self.size, cubic=mode == "bicubic")

    def normalized(self, pixels: Tensor) -> Tensor:
        """Return the input (N, C, H, W) of pixels (N, H, W, C) uint8, on their device.

        On the CPU it has the bits of :meth:`__call__`.
        """
        planes = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        # Divided by tensors, since GPUs multiply by the reciprocal of a number.
        whole, mean, std = (send(torch.tensor(each), pixels.device) for each in (255.0, self.mean, self.std))
        planes.div_(whole).sub_(mean[:, None, None]).div_(std[:, None, None])
        return planes

    def _cropped(self, photograph: Image.Image | Pixels) -> Pixels:
        if not isinstance(photograph, Image.Image) and len(self.mean) == 1:
            photograph = Image.fromarray(photograph)
        return self._crop_pixels(self._pixels(photograph) if isinstance(photograph, Image.Image) else photograph)

    def _pixels(self, picture: Image.Image) -> Pixels:
        """Return (H, W, 3), or (H, W) for a grey-scale model."""
        return np.array(picture.convert("RGB" if len(self.mean) == 3 else "L"))

    def _crop_pixels(self, pixels: Pixels) -> Pixels:
        resized = resize(pixels, self.resized_size((pixels.shape[1], pixels.shape[0])), self.interpolation)
        height, width = self.size
        left, top = self._corner((resized.shape[1], resized.shape[0]))
        return resized[top : top + height, left : left + width]

    def _corner(self, resized: tuple[int, int]) -> tuple[int, int]:
        """Return (left, top) of the crop in a resized photograph (width, height)."""
        height, width = self.size
        # Rounded like torchvision's CenterCrop; otherwise odd margins shift the map by one pixel.
        return round((resized[0] - width) / 2), round((resized[1] - height) / 2)

    def _normalize(self, pixels: Pixels) -> Tensor:
        """Normalise in place, so that each of the three steps passes over memory that is in the cache."""
        mean, std = np.array([self.mean, self.std], np.float32)[..., None, None]
        normalized = np.empty((len(self.mean), *pixels.shape[:2]), np.float32)
        normalized[...] = np.atleast_3d(pixels).transpose(2, 0, 1)
        normalized /= 255
        normalized -= mean
        normalized /= std
        return torch.from_numpy(normalized)

    def resized_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return (width, height) of a photograph (width, height) after resizing."""
        width, height = size
        side = self.shorter_side
        if not self.keep_aspect:
            return side, side
        return (side, side * height // width) if width <= height else (side * width // height, side)


def read_photograph(
    file: str | Path | BinaryIO, formats: tuple[str, ...] | None = None, max_pixels: int | None = None
) -> Image.Image:
    """Read a photograph as RGB.

    It is rotated by its EXIF orientation; transparency is composed over white; 16-bit grey values are scaled to 8 bits;
    palettes and CMYK are converted.

    Args:
        file: a path, or a file open for reading.
        formats: Pillow's names of the accepted formats; None for all.
        max_pixels: limit of width times height, looked at before decoding.

    Raises:
        ValueError: for a file that is missing, not an image, damaged or too large.
    """
    with open_photograph(file, formats) as image:
        check_pixels(image.size, max_pixels)
        return to_rgb(image)


@contextlib.contextmanager
def open_photograph(file: str | Path | BinaryIO, formats: tuple[str, ...] | None = None) -> Iterator[Image.Image]:
    """Open a photograph and read its header only; later decoding errors are raised as ValueError too.

    Raises:
        ValueError: as :func:`read_photograph`.
    """
    try:
        with readable_errors(), Image.open(file, formats=formats) as image:
            yield image
    except FileNotFoundError:
        raise ValueError("there is no such file") from None
    except IsADirectoryError:
        raise ValueError("this is a folder, not a picture") from None
    except UnidentifiedImageError:
        known = "a format that Pillow reads" if formats is None else f"one of {', '.join(formats)}"
        raise ValueError(f"this is not a picture in {known}") from None


def check_pixels(size: tuple[int, int], limit: int | None) -> None:
    """Refuse an image of a size that is too large.

    Raises:
        ValueError: for more than ``limit`` pixels.
    """
    pixels = size[0] * size[1]
    if limit is not None and pixels > limit:
        raise ValueError(f"the picture has {pixels:,} pixels, more than {limit:,}")


@contextlib.contextmanager
def readable_errors() -> Iterator[None]:
    """Turn the errors of Pillow's parsers into ValueErrors, but for those of missing files and unknown formats."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, UnidentifiedImageError):
        raise
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise ValueError(f"this picture cannot be read: {error}") from None
    except Exception as error:  # KeyError, IndexError, ... on damaged files
        raise ValueError(f"this picture cannot be read: {type(error).__name__}: {error}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Decode an opened photograph to upright RGB."""
    image.load()
    return _convert_to_rgb(ImageOps.exif_transpose(image))


def _convert_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _scale_grey(image).convert("RGB")
    if image.has_transparency_data:
        colors = image.convert("RGBA")
        white = Image.new("RGBA", colors.size, "white")
        return Image.alpha_composite(white, colors).convert("RGB")
    return image.convert("RGB")


def _scale_grey(image: Image.Image) -> Image.Image:
    """Scale grey values of more than 8 bits; Pillow's conversion would clip them to white."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 65535:
        raise ValueError(f"its values, {values.min():g} to {values.max():g}, are no 16-bit grey values")
    scale = 255.0 if image.mode == "F" and values.max() <= 1 else 255 / 65535
    return Image.fromarray(np.round(values * scale).astype(np.uint8))


def resize(pixels: Pixels, size: tuple[int, int], interpolation: Interpolation) -> Pixels:
    """Resize pixels (H, W, 3) or (H, W) to ``size`` (width, height).

    Torch's uint8 resampling is several times faster than Pillow's; a few pixels in a thousand differ by one level.
    """
    if size == (pixels.shape[1], pixels.shape[0]):
        return pixels
    if interpolation not in ("bilinear", "bicubic"):
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling[interpolation.upper()]))
    planes = torch.from_numpy(np.atleast_3d(pixels)).permute(2, 0, 1)[None]
    resized = F.interpolate(planes, (size[1], size[0]), mode=interpolation, antialias=True)[0].permute(1, 2, 0)
    return resized.numpy().reshape(*resized.shape[:2], *pixels.shape[2:])


def write_png(picture: Image.Image, file: Path) -> None:
    """Write a PNG file atomically.

    Raises:
        OSError: if the folder cannot be written.
    """
    write_picture(picture, file, "PNG")


def check_picture_size(file: Path, width: int, height: int) -> str:
    """Return Pillow's name of a file's format if it holds pictures of that size.

    Raises:
        ValueError: for an unknown suffix, or a picture that is too large for its format or for memory.
    """
    format = Image.registered_extensions().get(file.suffix.lower())
    if format is None:
        raise ValueError(f"{str(file)!r} must end like a picture: .png, .jpg, .webp")
    if max(width, height) > _MAX_SIDES.get(format, _MAX_PIXELS) or width * height > _MAX_PIXELS:
        most = f"{_MAX_SIDES[format]} pixels a side and " if format in _MAX_SIDES else ""
        raise ValueError(f"a {format} file may have {most}{_MAX_PIXELS} pixels, not {width} x {height}")
    return format


def write_picture(picture: Image.Image, file: Path, format: str | None = None, **options: Any) -> None:
    """Write a picture file atomically.

    Args:
        picture: to write.
        file: path.
        format: Pillow's name of the format; None takes that of the file's suffix.
        options: of the format, as ``quality=90``.

    Raises:
        OSError: if the folder cannot be written.
        ValueError: for an unknown suffix, or a picture that is too large for its format.
    """
    format = format or check_picture_size(file, *picture.size)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        picture.save(temporary, format, **options)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
