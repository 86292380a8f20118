"""Untrusted images: decoded upright and in the right colours, or refused with a ValueError."""

import io
import random
import struct
import zlib
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from fastcam.classifiers.preprocessing import read_photograph
from fastcam.dataset import Limits
from fastcam.dataset import decode as decode_module
from fastcam.dataset.decode import Decoder, check_decoder, decode_image, decode_pixels, default_decoder
from tests.dataset.small import jpeg, picture


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("I;16", "PNG"), ("RGBA", "PNG"), ("P", "GIF"), ("RGB", "WEBP")],
)
def test_every_mode_as_in_a_file(tmp_path, mode, kind):
    data = encoded(picture(mode), kind)
    (tmp_path / "file").write_bytes(data)
    found = decode_image(data, Limits())
    assert found.mode == "RGB"
    assert np.array_equal(found, read_photograph(tmp_path / "file"))


@pytest.mark.parametrize("decoder", get_args(Decoder))
@pytest.mark.parametrize(("mode", "kind"), [("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGBA", "PNG")])
@pytest.mark.parametrize("orientation", [0, *range(1, 9)])
def test_decoders_agree(decoder, mode, kind, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    data = encoded(picture(mode), kind, exif=exif)
    assert np.array_equal(decode_pixels(data, Limits(), decoder), decode_image(data, Limits()))


@pytest.mark.parametrize("decoder", get_args(Decoder))
def test_decoders_raise_the_same_errors(decoder):
    data = jpeg(0)
    with pytest.raises(ValueError, match="this picture cannot be read: image file is truncated"):
        decode_pixels(data[:-100], Limits(), decoder)
    with pytest.raises(ValueError, match="the picture has 3,000 pixels, more than 2,999"):
        decode_pixels(data, Limits(pixels=2999), decoder)
    with pytest.raises(ValueError, match="not a picture in one of PNG"):
        decode_pixels(data, Limits(formats=("PNG",)), decoder)


def test_a_missing_decoder_is_refused(monkeypatch):
    assert default_decoder() == "torchcodec"
    monkeypatch.setattr(decode_module, "find_decode_jpeg", lambda: None)
    assert default_decoder() == "pillow"
    with pytest.raises(ValueError, match=r"`decoder` torchcodec needs torchcodec, 0\.16 or newer"):
        check_decoder("torchcodec")
    with pytest.raises(ValueError, match="`decoder` must be one of torchcodec, pillow, scaled, gpu, got 'cv2'"):
        check_decoder("cv2")


def test_sixteen_bits_keep_their_shades():
    found = np.asarray(decode_image(encoded(picture("I;16"), "PNG"), Limits()))[..., 0]
    assert abs(found.astype(int) - np.asarray(picture("L"))).max() <= 1


def test_exif_turns_the_picture():
    exif = Image.Exif()
    exif[274] = 6  # a quarter turn clockwise
    upright = decode_image(encoded(picture("RGB", (20, 30)), "PNG", exif=exif), Limits())
    assert upright.size == (30, 20)
    assert np.array_equal(upright, np.rot90(np.asarray(picture("RGB", (20, 30))), -1))


def test_limits():
    data = jpeg(0)
    with pytest.raises(ValueError, match="bytes, more than 100"):
        decode_image(data, Limits(bytes=100))
    with pytest.raises(ValueError, match="the picture has 3,000 pixels, more than 2,999"):
        decode_image(data, Limits(pixels=2999))
    assert decode_image(data, Limits(pixels=3000)).size == (60, 50)
    with pytest.raises(ValueError, match="not a picture in one of PNG"):
        decode_image(data, Limits(formats=("PNG",)))


def test_a_bomb_is_refused_by_its_header_alone():
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    with pytest.raises(ValueError, match=r"pixels|decompression bomb"):
        decode_image(bomb, Limits())
    smaller = bomb.replace(header, chunk(b"IHDR", struct.pack(">IIBBBBB", 8_000, 8_000, 8, 2, 0, 0, 0)))
    with pytest.raises(ValueError, match="has 64,000,000 pixels, more than 50,000,000"):
        decode_image(smaller, Limits())


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Return a damaged file: bytes changed, deleted, repeated or overwritten."""
    found = bytearray(data)
    for _ in range(chance.choice((1, 2, 8, 64))):
        place = chance.randrange(len(found))
        what = chance.randrange(4)
        if what == 0:
            found[place] = chance.randrange(256)
        elif what == 1 and len(found) > 2:
            del found[place : place + chance.randrange(1, 1 + len(found) // 8)]
        elif what == 2:
            found[place:place] = found[place : place + chance.randrange(1, 64)]
        else:
            found[place : place + 4] = chance.randbytes(4)
        found = found or bytearray(b"\0")
    return bytes(found)


def seeds() -> list[bytes]:
    rgb = picture("RGB")
    kinds = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
    return [encoded(rgb, kind) for kind in kinds] + [
        encoded(picture("RGBA"), "PNG"),
        encoded(picture("I;16"), "PNG"),
        encoded(picture("CMYK"), "JPEG"),
        encoded(rgb, "TIFF", compression="tiff_lzw"),
    ]


@pytest.mark.parametrize("decoder", get_args(Decoder))
@pytest.mark.parametrize("seed", range(11))
def test_mutated_files_are_pictures_or_refused(seed, decoder):
    chance = random.Random(seed)
    original = seeds()[seed]
    outcomes = {True: 0, False: 0}
    for _ in range(100):
        try:
            found = decode_pixels(mutated(original, chance), Limits(pixels=10**6), decoder)
        except ValueError:
            outcomes[False] += 1
        else:
            assert found.shape[2:] == (3,)
            outcomes[True] += 1
    assert outcomes[False] > 0
