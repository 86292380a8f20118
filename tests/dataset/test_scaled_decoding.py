"""Photographs decoded at a fraction of their size: nearly the inputs and maps of whole ones, in the same places."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

import fastcam
import fastcam.dataset
from fastcam.classifiers.preprocessing import Preprocessing, read_photograph
from fastcam.cli import demo
from fastcam.dataset import Limits
from fastcam.dataset.decode import decode_image, decode_scaled
from fastcam.dataset.loading import Loader
from fastcam.dataset.sources import source_of
from tests.dataset.small import SETTINGS, network

pytestmark = pytest.mark.usefixtures("one_thread")


def photograph(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """A photograph with detail at every scale: the real one over noise."""
    real = next(iter(demo.photographs().values())).convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    noise = np.random.default_rng(0).normal(0, 3, (height, width, 3))
    return Image.fromarray((np.asarray(real) + noise).clip(0, 255).astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, kind: str = "JPEG", orientation: int = 1) -> bytes:
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[274] = orientation
    image.save(buffer, kind, exif=exif, quality=92)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("size", "part"),  # resized to 64 on the shorter side
    [((1030, 1030), 8), ((1020, 1020), 4), ((600, 512), 4), ((600, 511), 2), ((300, 256), 2), ((300, 255), 1)],
)
def test_the_fraction(size, part, monkeypatch):
    """At least twice as long as resized to, and no longer than that needs."""
    data, decoded, load = encoded(photograph(*size)), [], JpegImageFile.load
    monkeypatch.setattr(JpegImageFile, "load", lambda image: (load(image), decoded.append(image.size))[0])
    pixels, whole = decode_scaled(data, Limits(), Preprocessing(64, (56, 56)))
    assert whole == size
    assert decoded[0] == (-(-size[0] // part), -(-size[1] // part))
    is_multiple = size[0] % part == size[1] % part == 0
    assert pixels.shape[1::-1] == (decoded[0] if is_multiple else (64 * size[0] // size[1], 64))


@pytest.mark.parametrize("size", [(701, 403), (704, 400)])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("preprocessing", [Preprocessing(64, (56, 48)), Preprocessing(64, (64, 64), keep_aspect=False)])
def test_inputs_are_nearly_those_of_the_whole(orientation, preprocessing, size):
    data = encoded(photograph(*size), orientation=orientation)
    pixels, whole = decode_scaled(data, Limits(), preprocessing)
    upright = decode_image(data, Limits())
    assert whole == upright.size
    assert min(pixels.shape[:2]) == (200 if size == (704, 400) else 64)
    difference = (preprocessing(pixels) - preprocessing(upright)).abs() * 255 * 0.225
    assert float(difference.mean()) < 0.6  # of 255 steps of a colour
    assert float(difference.max()) < 6


@pytest.mark.parametrize(("mode", "kind"), [("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "PNG"), ("RGB", "WEBP")])
def test_other_modes_and_formats(mode, kind):
    """Grey and CMYK files are scaled too; other formats are decoded whole."""
    data = encoded(photograph(701, 403, mode), kind)
    preprocessing = Preprocessing(64, (56, 56))
    pixels, _ = decode_scaled(data, Limits(), preprocessing)
    assert pixels.shape[:2] == ((64, 111) if kind == "JPEG" else (403, 701))
    difference = (preprocessing(pixels) - preprocessing(decode_image(data, Limits()))).abs() * 255 * 0.225
    assert float(difference.mean()) < 0.6


def test_a_line_is_no_photograph_to_scale():
    pixels, whole = decode_scaled(encoded(photograph(900, 1)), Limits(), Preprocessing(64, (56, 56)))
    assert (pixels.shape, whole) == ((1, 900, 3), (900, 1))


def test_limits_are_of_the_whole():
    data = encoded(photograph(600, 500))
    with pytest.raises(ValueError, match="300,000 pixels, more than 299,999"):
        decode_scaled(data, Limits(pixels=299_999), Preprocessing(64, (56, 56)))
    with pytest.raises(ValueError, match="cannot be read"):
        decode_scaled(data[: len(data) // 2], Limits(), Preprocessing(64, (56, 56)))


def test_a_run(tmp_path):
    """The size of the whole is known, and another decoder is another run."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(encoded(photograph(603, 401), orientation=6))
    (item,) = source_of(tmp_path / "in").items(0, 1)
    loaded = Loader(SETTINGS["preprocessing"], Limits(), "scaled")(item)
    assert loaded.size == (603, 401)
    fastcam.dataset.run(tmp_path / "in", network(), tmp_path / "out", decoder="scaled", **SETTINGS)
    assert fastcam.dataset.open(tmp_path / "out").identity["decoder"] == "scaled"
    with pytest.raises(ValueError, match="decoder"):
        fastcam.dataset.run(tmp_path / "in", network(), tmp_path / "out", decoder="pillow", **SETTINGS)


def test_maps_of_a_trained_network(tmp_path):
    """Twelve megapixels, real weights: the ranks of the maps' values are those of the whole photograph."""
    file = tmp_path / "photo.jpg"
    file.write_bytes(encoded(photograph(4000, 3000)))
    pixels, _ = decode_scaled(file.read_bytes(), Limits(), demo.PREPROCESSING)
    inputs = torch.stack([demo.PREPROCESSING(read_photograph(file)), demo.PREPROCESSING(pixels)])
    found = fastcam.explain(
        demo.efficientnet_lite0(), inputs, "layer_cam", int(demo.efficientnet_lite0()(inputs)[0].argmax())
    )
    ranks = found.maps.flatten(1).argsort(1).argsort(1).double()
    assert float(torch.corrcoef(ranks)[0, 1]) > 0.999
    assert float((found.scores[0] - found.scores[1]).abs()) < 0.05 * float(found.scores[0].abs())
