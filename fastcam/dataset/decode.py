"""Bytes of a stranger's image to a photograph: looked at before anything is allocated, and never a crash."""

import io
import warnings
from dataclasses import dataclass

from PIL import Image

from fastcam.pictures import opened, rgb


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


def decode(data: bytes, limits: Limits) -> Image.Image:
    """The photograph, upright and in RGB.

    Raises:
        ValueError: with the reason in one sentence, whatever is wrong with the bytes.
    """
    limits.check_bytes(len(data))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of doubtful metadata and of sizes below our own limit
            with opened(io.BytesIO(data), limits.formats) as image:
                pixels = image.width * image.height
                if pixels > limits.pixels:
                    raise ValueError(f"the picture has {pixels:,} pixels, more than {limits.pixels:,}")
                return rgb(image)
    except ValueError:
        raise
    except Exception as error:  # Pillow's parsers raise whatever the bytes make of them: KeyError, IndexError, ...
        raise ValueError(f"this picture cannot be read: {type(error).__name__}: {error}") from error
