"""What pytorch-grad-cam has besides its classes of maps: several layers or windows, concepts, choices of channels."""

import contextlib
import io

import matplotlib
import numpy as np
import pytest
import pytorch_grad_cam as peer
import torch
import torchvision
from PIL import Image
from pytorch_grad_cam.metrics import arcc as peer_arcc
from pytorch_grad_cam.utils import image as peer_image
from torch import nn

from fastcam.compat import pytorch_grad_cam as ours
from fastcam.compat.pytorch_grad_cam.metrics import arcc
from fastcam.compat.pytorch_grad_cam.utils import image
from fastcam.compat.pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

pytestmark = pytest.mark.usefixtures("one_thread")


class Smooth(nn.Module):
    """A network whose score is no piecewise linear function of the activations."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.SiLU(), nn.Conv2d(6, 8, 3, stride=2), nn.ReLU())
        self.more = nn.Sequential(nn.Conv2d(8, 8, 3), nn.SiLU())
        self.classifier = nn.Linear(8, 5)

    def forward(self, images):
        return 20 * self.classifier(self.more(self.features(images)).mean((2, 3)))


@pytest.fixture
def smooth():
    torch.manual_seed(0)
    return Smooth().eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 24)


def both(call):
    with contextlib.redirect_stderr(io.StringIO()):
        return call(ours), call(peer)


def close(found, expected, tolerance=1e-3):
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert expected.max() > expected.min()
    assert np.abs(found - expected).max() < tolerance


@pytest.mark.parametrize("base", ["GradCAM", "LayerCAM", "EigenCAM", "ScoreCAM", "GradCAMPlusPlus"])
def test_refined_maps(smooth, images, base):
    layers = [smooth.features[1], smooth.features[3]]

    def call(module, **options):
        cam = module.RefineCAM(smooth, layers, base_method=getattr(module, base), **options)
        return cam(images, [ClassifierOutputTarget(1)] * 2)

    close(call(ours, exact_peer=True), call(peer))
    turned = [
        module.RefineCAM(smooth, layers, base_method=module.GradCAM, **options)(images, None, True)
        for module, options in ((ours, {"exact_peer": True}), (peer, {}))
    ]
    close(*turned)
    eigen = ours.RefineCAM(smooth, layers, base_method=ours.GradCAM)(images, None, True)
    alone = [ours.GradCAM(smooth, [each])(images, None, eigen_smooth=True) for each in layers]
    close(eigen, image.scale_cam_image(alone[0] * alone[1]), 1e-5)


OPTIONS = [
    {},
    {"pool": "max", "smooth": False},
    {"pre_filter_ratio": 0.5, "theta": 0.1, "step_size": 11},
    {"window_size": 16, "scales": [20, 33], "use_softmax_scores": False},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("targets", [None, 3])
def test_scaled_and_sliding_windows(smooth, images, options, targets):
    given = None if targets is None else [ClassifierOutputTarget(targets)] * 2

    def call(module):
        with module.SESS(smooth, [smooth.features[3]], **{"num_scales": 3, "batch_size": 5, **options}) as cam:
            return cam(input_tensor=images, targets=given)

    close(*both(call))
    with pytest.raises(ValueError, match="one target for each of the 2 images, got 1"):
        ours.SESS(smooth, [smooth.features[3]])(images, [ClassifierOutputTarget(1)])


def test_windows_that_make_no_sense(smooth, images):
    for options, sentence in (
        ({"pool": "sum"}, "`pool`"),
        ({"pre_filter_ratio": 1}, "ratio"),
        ({"num_scales": 0}, "num"),
    ):
        with pytest.raises(ValueError, match=sentence):
            ours.SESS(smooth, [smooth.features[3]], **options)
    with pytest.raises(ValueError, match="every scale must be at least the window's side, 24; got 20"):
        ours.SESS(smooth, [smooth.features[3]], scales=[20])(images)


def test_concepts(smooth, images):
    def call(module):
        factorization = module.DeepFeatureFactorization(smooth, smooth.features[3], None, smooth.classifier)
        return factorization(images, 4)

    (concepts, places, scores), expected = both(call)
    assert np.allclose(concepts, expected[0], atol=1e-4)
    assert np.allclose(np.stack(places), np.stack(expected[1]), atol=1e-4)
    assert np.allclose(scores, expected[2], atol=1e-4)
    assert not smooth.features[3]._forward_hooks


@pytest.mark.parametrize("labels", [None, ["one", "two", "three"]])
def test_pictures_of_concepts(labels, monkeypatch):
    random = np.random.default_rng(0)
    picture, places = random.random((40, 30, 3)), random.random((3, 40, 30)).astype(np.float32)
    before = places.copy()
    found = image.show_factorization_on_image(picture, places, image_weight=0.3, concept_labels=labels)
    assert np.array_equal(places, before)
    # The tool asks for matplotlib's colours where they were before version 3.9.
    monkeypatch.setattr(matplotlib.cm, "get_cmap", lambda name: matplotlib.colormaps[name], raising=False)
    expected = peer_image.show_factorization_on_image(picture, places.copy(), image_weight=0.3, concept_labels=labels)
    assert found.shape == expected.shape
    assert found.dtype == np.uint8
    assert np.abs(found[:, :30].astype(int) - expected[:, :30]).max() <= 1
    if labels:
        assert len(np.unique(found[:, 30:].reshape(-1, 3), axis=0)) > 10  # there is something in the legend


def test_concepts_of_a_picture(smooth):
    smooth.config = type("Config", (), {"id2label": {index: f"class {index}, other" for index in range(5)}})()
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 24, 3), np.uint8))
    given = torch.randn(3, 32, 24)
    found = ours.run_dff_on_image(smooth, smooth.features[3], smooth.classifier, picture, given, n_components=3)
    assert found.shape == (32, 72, 3)
    assert np.array_equal(found[:, :24], np.array(picture))


@pytest.mark.parametrize("ratio", [0.25, 0.5])
def test_some_channels(smooth, images, ratio):
    def call(module):
        cam = module.AblationCAM(smooth, [smooth.features[3]], ratio_channels_to_ablate=ratio)
        return cam(images, [ClassifierOutputTarget(1)] * 2)

    close(*both(call))
    with pytest.raises(ValueError, match=r"must lie in \(0, 1\], got 0"):
        ours.AblationCAM(smooth, [smooth.features[3]], ratio_channels_to_ablate=0)


@pytest.mark.parametrize("ratio", [1.0, 0.3])
@pytest.mark.parametrize("kind", ["AblationLayer", "AblationLayerVit", "AblationLayerFasterRCNN"])
def test_chosen_channels(kind, ratio):
    activations = np.random.default_rng(0).random((12, 5, 6), np.float32)
    found, expected = (getattr(module, kind)().activations_to_be_ablated(activations, ratio) for module in (ours, peer))
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)


def test_arcc(smooth, images):
    targets = [ClassifierOutputTarget(1)] * 2
    cam = ours.GradCAM(smooth, [smooth.features[3]])
    maps = cam(images, targets)
    results = []
    for module in (arcc, peer_arcc):
        torch.manual_seed(0)
        results.append(module.ARCC(cam)(images, maps, targets, smooth))
        assert np.allclose(module.Complexity()(maps), np.abs(maps).mean((1, 2)))
    assert np.allclose(results[0], results[1], atol=0.02)  # ROAD fills holes with noise
    pair = [module.Coherency()(images, maps, targets, smooth, cam) for module in (arcc, peer_arcc)]
    assert np.allclose(*pair, atol=1e-5)


class Pyramid(nn.Module):
    """A detector's backbone: a dictionary of maps of several sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.front, self.more = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, stride=2)

    def forward(self, images):
        first = self.front(images)
        return {"0": first, "pool": self.more(first)}


class Detector(nn.Module):
    """What a detector returns: for every image a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Pyramid()

    def forward(self, images):
        return [{"scores": each.mean((1, 2))} for each in self.backbone(images)["pool"]]


def pyramid_as_map(found):
    size = found["pool"].shape[-2:]
    return torch.cat([nn.functional.interpolate(each, size, mode="bilinear") for each in found.values()], 1)


@pytest.mark.parametrize("name", ["EigenCAM", "FEM", "KPCA_CAM"])
def test_layers_that_return_dictionaries(images, name):
    torch.manual_seed(0)
    model = Detector().eval()
    results = []
    for module in (ours, peer):
        np.random.seed(0)
        options = {"exact_peer": True} if module is ours else {}
        cam = getattr(module, name)(model, [model.backbone], pyramid_as_map, **options)
        results.append(cam(images, [lambda found: found["scores"].sum()] * 2))
    close(*results, 2e-3)
    assert not model.backbone._forward_hooks or module is peer


def test_a_detector():
    """EigenCAM of torchvision's Faster R-CNN, the tool's own transform and target."""
    torch.manual_seed(0)
    model = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=4
    ).eval()
    pictures = torch.rand(1, 3, 64, 96)
    results = []
    for module in (ours, peer):
        reshape = module.utils.reshape_transforms.fasterrcnn_reshape_transform
        target = module.utils.model_targets.FasterRCNNBoxScoreTarget([1], np.array([[2, 2, 40, 40]]))
        options = {"exact_peer": True} if module is ours else {}
        results.append(module.EigenCAM(model, [model.backbone], reshape, **options)(pictures, [target]))
    close(*results)
