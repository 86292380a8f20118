"""Preprocessing as torchvision and timm do it, and photographs of every kind."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastcam.classifiers import models, preprocessing
from fastcam.classifiers.preprocessing import Preprocessing, read_photograph, write_png

skimage_data = pytest.importorskip("skimage.data")


@pytest.fixture(scope="module")
def coffee():
    return Image.fromarray(skimage_data.coffee()).crop((0, 0, 599, 401))  # odd margins on both sides


def one_level_apart(preprocessing, found, expected):
    """Torch's resampling rounds now and then to the level next to Pillow's."""
    apart = (found - expected).abs() * 255 * min(preprocessing.std)
    assert apart.max() < 1.001
    assert (apart > 1e-3).float().mean() < 0.01
    return True


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_b0", "inception_v3"])
def test_preprocessing_is_torchvisions(name, coffee):
    from torchvision.models import get_model_weights

    weights = get_model_weights(name).DEFAULT
    transforms, ours = weights.transforms(), models.torchvision_preprocessing(weights)
    assert one_level_apart(ours, ours(coffee), transforms(coffee))


@pytest.mark.parametrize(
    "name", ["resnet18.a1_in1k", "mobilenetv3_small_050", "efficientvit_b0", "vit_base_patch16_siglip_224"]
)
def test_preprocessing_is_timms(name, coffee):
    import timm

    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    transforms = timm.data.create_transform(**config)
    ours = models.timm_preprocessing(config)
    assert one_level_apart(ours, ours(coffee), transforms(coffee))


def test_squashing_uses_the_whole_photograph():
    photograph = Image.new("RGB", (90, 30), "black")
    photograph.paste("white", (0, 0, 45, 30))
    squashed = Preprocessing(16, (16, 16), interpolation="nearest", keep_aspect=False).crop(photograph)
    assert np.asarray(squashed)[:, :, 0].tolist() == [[255] * 8 + [0] * 8] * 16


def test_normalisation_by_hand():
    picture = Image.new("RGB", (2, 3), (255, 127, 0))
    tensor = Preprocessing(4, (2, 2), (127 / 255,) * 3, (128 / 255,) * 3).tensor(picture)
    assert tensor.shape == (3, 3, 2)
    assert tensor[:, 0, 0].tolist() == pytest.approx([1, 0, -127 / 128], abs=1e-6)


def test_one_mean_makes_grey_input():
    preprocessing = Preprocessing(4, (4, 4), (0.5,), (0.25,))
    tensor = preprocessing(Image.new("RGB", (5, 5), (51, 51, 51)))
    assert tensor.shape == (1, 4, 4)
    assert tensor.unique().tolist() == pytest.approx([-1.2], abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            {"shorter_side": 200},
            "`shorter_side` must be at least as large as the crop, got 200 for a crop of 224 x 224",
        ),
        ({"mean": (0.5, 0.5)}, "`mean` and `std` must be three numbers each"),
        ({"std": (1.0, 0.0, 1.0)}, "`std` above 0"),
        ({"interpolation": "cubic"}, "`interpolation` must be one of .* got 'cubic'"),
    ],
)
def test_impossible_preprocessing_is_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        Preprocessing(**arguments)


def test_grey_and_palette_and_cmyk_become_rgb(tmp_path):
    Image.new("L", (3, 2), 90).save(tmp_path / "grey.png")
    Image.new("RGB", (3, 2), (10, 200, 30)).quantize(4).save(tmp_path / "palette.png")
    Image.new("CMYK", (3, 2), (0, 255, 255, 0)).save(tmp_path / "cmyk.tif")
    assert read_photograph(tmp_path / "grey.png").getpixel((1, 1)) == (90, 90, 90)
    assert read_photograph(tmp_path / "palette.png").getpixel((1, 1)) == (10, 200, 30)
    assert read_photograph(tmp_path / "cmyk.tif").getpixel((1, 1)) == (255, 0, 0)


@pytest.mark.parametrize(("alpha", "color"), [(0, (255, 255, 255)), (255, (200, 0, 0)), (51, (244, 204, 204))])
def test_transparency_lies_over_white(tmp_path, alpha, color):
    Image.new("RGBA", (2, 2), (200, 0, 0, alpha)).save(tmp_path / "alpha.png")
    assert read_photograph(tmp_path / "alpha.png").getpixel((0, 0)) == color


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257, 12850, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    assert np.asarray(read_photograph(tmp_path / "deep.png"))[0, :, 1].tolist() == [0, 1, 50, 255]


def test_float_grey_in_0_to_1_is_scaled_and_others_are_refused(tmp_path):
    Image.fromarray(np.array([[0, 0.2, 1]], np.float32)).save(tmp_path / "float.tif")
    assert np.asarray(read_photograph(tmp_path / "float.tif"))[0, :, 0].tolist() == [0, 51, 255]
    Image.fromarray(np.array([[-3, 1]], np.float32)).save(tmp_path / "signed.tif")
    with pytest.raises(ValueError, match="its values, -3 to 1, are no 16-bit grey values"):
        read_photograph(tmp_path / "signed.tif")


def test_exif_orientation_is_applied(tmp_path):
    picture = Image.new("RGB", (4, 2), "black")
    picture.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to look at it
    picture.save(tmp_path / "turned.png", exif=exif)
    seen = np.asarray(read_photograph(tmp_path / "turned.png"))[:, :, 0]
    assert seen.tolist() == [[0, 255], [0, 0], [0, 0], [0, 0]]


def test_files_that_are_no_photographs_get_one_sentence(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.jpg").touch()
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:900])
    reasons = {
        "text.png": "not a picture",
        "empty.jpg": "not a picture",
        "cut.png": "cannot be read",
        "no.png": "no such",
    }
    for name, reason in reasons.items():
        with pytest.raises(ValueError, match=reason) as caught:
            read_photograph(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    file = tmp_path / "map.png"
    write_png(Image.new("RGB", (2, 2), "red"), file)

    class Broken(Image.Image):
        def save(self, *arguments, **keywords):
            Path(arguments[0]).write_bytes(b"half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_png(Broken(), file)
    assert Image.open(file).getpixel((0, 0)) == (255, 0, 0)
    assert [each.name for each in tmp_path.iterdir()] == ["map.png"]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resizing_to_the_same_size_changes_nothing(interpolation):
    """It is left out, and torch's own resampling shows that nothing is lost."""
    pixels = np.random.default_rng(0).integers(0, 256, (21, 34, 3), dtype=np.uint8)
    planes = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    resampled = torch.nn.functional.interpolate(planes, (21, 34), mode=interpolation, antialias=True)
    assert np.array_equal(resampled[0].permute(1, 2, 0).numpy(), pixels)
    assert np.array_equal(preprocessing.resize(pixels, (34, 21), interpolation), pixels)
    assert not np.array_equal(preprocessing.resize(pixels, (21, 34), interpolation)[:21, :21], pixels[:, :21])


@pytest.mark.parametrize("mean", [(0.485, 0.456, 0.406), (0.5,)])
def test_every_value_is_normalised_in_single_precision(mean):
    """In the order (value / 255 - mean) / std, so that the same picture gives the same bits everywhere."""
    settings = Preprocessing(16, (16, 16), mean, (0.229,) * len(mean))
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    pixels = np.stack([values] * 3, -1) if len(mean) == 3 else values
    found = settings.tensor(Image.fromarray(pixels))
    for plane, average in zip(found.numpy(), mean, strict=True):
        assert np.array_equal(plane, (values / np.float32(255) - np.float32(average)) / np.float32(0.229))
    assert found.dtype == torch.float32
    assert found.is_contiguous()
