"""The header of a JPEG file, beside Pillow's."""

import io
import random

import numpy as np
import pytest
from PIL import Image

from fastcam.dataset import Limits
from fastcam.dataset.decode import decode_pixels
from fastcam.dataset.jpeg_header import read_header
from tests.dataset.small import jpeg, picture


def encoded(mode: str = "RGB", size: tuple[int, int] = (33, 47), **options) -> bytes:
    buffer = io.BytesIO()
    picture(mode, size).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"progressive": True},
        {"optimize": True},
        {"subsampling": 0},
        {"comment": b"\xff\xc0 no frame"},
        {"dpi": (9, 9)},
    ],
    ids=str,
)
def test_ordinary_files(mode, channels, options):
    assert read_header(encoded(mode, **options)) == (33, 47, channels)


def test_segments_before_the_frame():
    """A thumbnail in the metadata has a frame of its own, which is not the picture's."""
    exif = Image.Exif()
    exif[0x010E] = "a description " * 100
    data = encoded(exif=exif.tobytes())
    thumbnail = b"Exif\0\0" + encoded(size=(5, 4))
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    for changed in (data, data[:2] + segment + data[2:], data[:2] + b"\xff\xff" + data[2:]):
        assert read_header(changed) == (33, 47, 3)
        assert decode_pixels(changed, Limits(), "pillow").shape == (47, 33, 3)


def several_pictures() -> bytes:
    buffer = io.BytesIO()
    picture("RGB").save(buffer, "MPO", save_all=True, append_images=[picture("RGB")])
    return buffer.getvalue()


ordinary = encoded()
frame = ordinary.index(b"\xff\xc0")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8",
        b"\xff\xd8\xff",
        b"\x89PNG",
        ordinary[: frame + 9],
        encoded("CMYK"),
        several_pictures(),
        ordinary[:frame] + b"\xff\xc9" + ordinary[frame + 2 :],  # another coding
        ordinary[: frame + 4] + b"\x0c" + ordinary[frame + 5 :],  # 12 bits
        ordinary[: frame + 5] + b"\0\0" + ordinary[frame + 7 :],  # no height
        ordinary[:2] + b"\xff\xe0\0\1" + ordinary[2:],  # a length of 1
        ordinary[:2] + b"\xff\x00\0\2" + ordinary[2:],  # no marker: decoders look for the next one behind it
        ordinary[:2] + b"\xff\xd9\0\2" + ordinary[2:],
        ordinary[:2] + b"." + ordinary[2:],
    ],
    ids=range(14),
)
def test_all_others_are_left_to_pillow(data):
    assert read_header(data) is None


def test_damaged_files_have_pillows_size_or_none():
    """Where both read a header they read the same, so that the limits hold for what is decoded."""
    chance, agreed, files = random.Random(4), 0, [jpeg(index) for index in range(3)]
    for _ in range(4000):
        data = bytearray(chance.choice(files))
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(700)] = chance.randrange(256)
        header = read_header(bytes(data))
        try:
            with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
                size = image.size
        except Exception:
            continue
        if header is not None:
            assert (header.width, header.height) == size
            agreed += 1
    assert agreed > 1000


def test_limits_are_looked_at_before_decoding():
    wide = bytearray(ordinary)
    wide[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    with pytest.raises(ValueError, match="the picture has 4,294,836,225 pixels, more than 50,000,000"):
        decode_pixels(bytes(wide), Limits(), "torchcodec")
    with pytest.raises(ValueError, match=r"not a picture in one of PNG"):
        decode_pixels(ordinary, Limits(formats=("PNG",)), "torchcodec")
    assert np.array_equal(decode_pixels(ordinary, Limits(), "torchcodec").shape, (47, 33, 3))
