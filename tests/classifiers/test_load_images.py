"""``fastcam.load_images``: the tensor that the command line gives the model, from whatever holds an image."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import fastcam
from fastcam.classifiers import Preprocessing, models
from fastcam.classifiers.preprocessing import IMAGENET_MEAN, IMAGENET_STD

SMALL = Preprocessing(8, (6, 4), (0.5, 0.25, 0.0), (0.5, 0.5, 1.0), "nearest")


@pytest.fixture
def photograph():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8))


@pytest.fixture
def paths(tmp_path, photograph):
    """A photograph, and the same one as a camera held sideways writes it."""
    sideways = Image.Exif()
    sideways[0x0112] = 6  # turn by 90 degrees, clockwise
    photograph.save(tmp_path / "upright.png")
    photograph.rotate(90, expand=True).save(tmp_path / "sideways.png", exif=sideways)
    return [tmp_path / "upright.png", tmp_path / "sideways.png"]


def test_values_by_hand():
    pixels = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    expected = (pixels[1:7, 2:6].astype(np.float64) / 255 - SMALL.mean) / SMALL.std
    loaded = fastcam.load_images(pixels, SMALL)
    assert loaded.dtype == torch.float32
    assert np.abs(loaded[0].permute(1, 2, 0).double().numpy() - expected).max() < 1e-6


def test_all_kinds_are_the_same_image(paths, photograph):
    expected = SMALL(photograph)[None]
    array = np.asarray(photograph)
    opaque = np.dstack([array, np.full(array.shape[:2], 255, np.uint8)])
    for image in (paths[0], str(paths[0]), paths[1], photograph, array, opaque, Image.open(paths[1])):
        assert torch.equal(fastcam.load_images(image, SMALL), expected)
        assert torch.equal(fastcam.load_images([image, array], SMALL), expected.repeat(2, 1, 1, 1))
    assert torch.equal(fastcam.load_images(np.stack([array, array]), SMALL), expected.repeat(2, 1, 1, 1))
    grey = fastcam.load_images(array[:, :, 0], SMALL)
    assert torch.equal(grey, SMALL(Image.fromarray(array[:, :, 0]).convert("RGB"))[None])
    assert fastcam.load_images(array, mean=[0.5], std=[0.5]).shape == (1, 1, 224, 224)


@pytest.mark.parametrize(
    "name",
    [
        "torchvision:resnet18",
        "torchvision:resnet50",
        "torchvision:efficientnet_b1",
        "torchvision:inception_v3",
        "timm:mobilenetv3_small_050",
        "timm:test_vit",
    ],
)
def test_known_models_bring_their_own(name, photograph):
    classifier = models.load(name)
    expected = classifier.preprocessing(photograph)[None]
    compiled = torch.compile(classifier.model, backend="eager")
    for model in (name, classifier, classifier.model, nn.DataParallel(classifier.model), compiled):
        assert torch.equal(fastcam.load_images(photograph, model), expected)


def test_a_changed_head_leaves_what_the_whole_family_shares(photograph):
    from torchvision.models import resnet50, vgg11

    vgg = fastcam.load_images(photograph, vgg11(weights=None, num_classes=2, init_weights=False))
    assert torch.equal(vgg, models.load("torchvision:vgg11").preprocessing(photograph)[None])
    with pytest.raises(ValueError, match=r"the preprocessing of ResNet is not known: pass .*'torchvision:resnet18'"):
        fastcam.load_images(photograph, resnet50(weights=None, num_classes=2))  # 232 pixels or 256 before the crop


def test_numbers_in_place_of_the_models(photograph):
    own = nn.Identity()
    own.preprocessing = SMALL
    changed = Preprocessing(16, (12, 12), (0.0,) * 3, SMALL.std, "nearest")
    assert torch.equal(fastcam.load_images(photograph, own, size=12, mean=(0.0,) * 3), changed(photograph)[None])
    by_default = Preprocessing(37, (32, 16), IMAGENET_MEAN, IMAGENET_STD)
    assert torch.equal(fastcam.load_images(photograph, nn.Identity(), size=(32, 16)), by_default(photograph)[None])


@pytest.mark.parametrize(
    ("image", "error", "words"),
    [
        ("nowhere.jpg", ValueError, "image 0, 'nowhere.jpg': there is no such file"),
        ([np.zeros((2, 2, 3), np.uint8), "bad.png"], ValueError, "image 1, 'bad.png': this is not a picture"),
        (".", ValueError, "image 0, '.': this is a folder"),
        (np.zeros((4, 4, 3)), ValueError, r"must be uint8 .*, got float64 \(4, 4, 3\)"),
        (np.zeros((3, 4, 5), np.uint8), ValueError, r"\(H, W, 3\) or \(H, W, 4\), got uint8 \(3, 4, 5\)"),
        ([], ValueError, "at least one image, got none"),
        (torch.zeros(1, 3, 4, 4), TypeError, "paths, PIL images or uint8 arrays, one or a list, got Tensor"),
        ([torch.zeros(3, 4, 4)], TypeError, "image 0 must be a path, a PIL image or a uint8 array, got Tensor"),
        (None, TypeError, "got NoneType"),
    ],
)
def test_mistakes_in_one_sentence(tmp_path, monkeypatch, image, error, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.png").write_bytes(b"bad")
    with pytest.raises(error, match=words):
        fastcam.load_images(image, SMALL)


@pytest.mark.parametrize(
    ("model", "options", "error", "words"),
    [
        (None, {}, ValueError, "the preprocessing of these images is not known"),
        (nn.Identity(), {}, ValueError, "the preprocessing of Identity is not known"),
        ("resnet18", {}, ValueError, "a model is torchvision:NAME"),
        ("torchvision:resnet19", {}, ValueError, "did you mean resnet1"),
        (3, {}, TypeError, "a model, its name .*, got int"),
        (None, {"size": 0}, ValueError, "`size` must be one or two positive whole numbers, got 0"),
        (None, {"size": (3, 4, 5)}, ValueError, r"`size` must be .*, got \(3, 4, 5\)"),
        (None, {"size": 3.5}, ValueError, r"`size` must be .*, got 3.5"),
        (None, {"mean": 0.5}, ValueError, "`mean` must be a list of numbers, got 0.5"),
        (None, {"std": (0.0,) * 3}, ValueError, "`std` above 0"),
    ],
)
def test_unknown_preprocessing_in_one_sentence(photograph, model, options, error, words):
    with pytest.raises(error, match=words):
        fastcam.load_images(photograph, model, **options)
