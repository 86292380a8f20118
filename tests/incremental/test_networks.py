"""Occlusion from patches gives the scores of whole forward passes, on common networks."""

import pytest
import torch
import torch.nn.functional as F

import fastcam
from tests.incremental.sweeps import assert_same, both, difference, localities, windows
from tests.support.networks import efficientnet_lite0, in_double, photographs, timm_network, torchvision_network
from tests.support.tiers import slow

pytestmark = pytest.mark.usefixtures("one_thread")

# One network of every kind of connection; the others are of the same kinds.
TORCHVISION = (
    *("googlenet", "mobilenet_v3_small", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1"),
    *slow("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "mobilenet_v2", "regnet_y_400mf"),
    *slow("resnet50", "resnext50_32x4d", "vgg11_bn"),
)


def small(height, width, dtype=torch.float64):
    """Return the photographs, resized."""
    return F.interpolate(photographs().to(dtype), (height, width), mode="bilinear", antialias=True)


@pytest.mark.parametrize("name", TORCHVISION)
def test_networks_in_double(name):
    actual, expected = both(in_double(torchvision_network(name)), small(67, 80), window=(15, 17), stride=(18, 23))
    assert_same(actual, expected, 1e-12)


@pytest.mark.slow
def test_inception_in_double():
    assert_same(*both(in_double(torchvision_network("inception_v3")), small(107, 96), window=21, stride=25), 1e-12)


def test_real_weights_on_photographs():
    assert_same(*both(efficientnet_lite0(), photographs(), (281, 967), window=45, stride=36), 1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"window": 1, "stride": 11},
        {"window": 32, "stride": 9},
        {"window": (5, 20), "stride": (13, 7), "baseline": "blur"},
        {"window": 7, "stride": 12, "baseline": torch.tensor([0.5, -1.0, 0.2])},
        {"window": 16, "stride": 16, "baseline": "noise"},
    ],
)
def test_windows_and_baselines(options):
    assert_same(*both(in_double(torchvision_network("resnet18")), small(48, 51)[:1], **options), 1e-12)


@pytest.mark.parametrize("name", ["resnet18", *slow("vgg11_bn")])
def test_networks_in_single(name):
    assert_same(*both(torchvision_network(name), photographs(), (281, 967), window=90, stride=67), 1e-5)


def test_several_targets_and_the_same_maps_by_default():
    model, images = in_double(torchvision_network("resnet18")), small(96, 96)
    for target in ([[1, 2], [0, 6]], fastcam.targets.Probability(2)):
        actual, expected = (
            fastcam.explain(model, images, "occlusion", target, window=16, stride=8, engine=engine)
            for engine in ("auto", "dense")
        )
        assert 0 < difference(actual, expected) < 1e-12  # the engines differ


def test_the_activation_of_a_layer():
    model, images = torchvision_network("resnet18"), small(96, 96, torch.float32)
    for layer in ("layer2.0", "layer4.1"):
        target = fastcam.targets.Neuron(layer, None, "sum")
        actual, expected = (
            fastcam.explain(model, images, "occlusion", target, window=16, stride=16, engine=engine)
            for engine in ("incremental", "dense")
        )
        assert difference(actual, expected) < 1e-5


@pytest.mark.parametrize("name", ["convnext_atto", *slow("repvgg_a0", "hrnet_w18_small", "cspresnet50")])
def test_networks_of_timm(name):
    assert_same(*both(in_double(timm_network(name)), small(96, 96), window=18, stride=21), 1e-12)


def test_half_precision():
    model, images = torchvision_network("resnet18"), small(64, 64, torch.float32)[:1]
    prepared = fastcam.prepare(model, images, precision="bf16", tolerance=2.0)
    actual, expected = both(prepared, images, window=32, stride=32)
    exact = fastcam.explain(model, images, "occlusion", 1, window=32, stride=32, engine="dense")
    assert difference(actual, exact) < 2 * difference(expected, exact)  # about as accurate as whole passes in bf16


def test_prepared():
    model, images = torchvision_network("resnet18"), small(96, 96, torch.float32)
    actual = fastcam.explain(fastcam.prepare(model, images), images, "occlusion", 1, window=20, stride=19)
    assert difference(actual, fastcam.explain(model, images, "occlusion", 1, window=20, stride=19)) < 1e-5


def test_patches_in_early_layers_and_whole_maps_in_late_layers():
    image, some = small(96, 96)[:1], windows(6, 16, 16)
    early = localities(in_double(torchvision_network("vgg11_bn")), image, some)
    assert [locality is not None for locality in early] == [True] * 6 + [False] * 2
    depthwise = localities(torchvision_network("convnext_tiny"), photographs()[:1], some)
    assert sum(locality is not None for locality in depthwise) >= 4  # its linear layers and norms keep patches too
