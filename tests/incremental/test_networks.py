"""Occlusion from what a window can change: the numbers of whole forward passes, on the networks that people use."""

import pytest
import torch
import torch.nn.functional as F

import fastcam
from tests.incremental.sweeps import both, difference, kinds, same, windows
from tests.support.networks import efficientnet_lite0, in_double, photographs, timm_network, torchvision_network

pytestmark = pytest.mark.usefixtures("one_thread")

TORCHVISION = (
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "vgg11_bn",
)


def small(height, width, dtype=torch.float64):
    """The photographs, small."""
    return F.interpolate(photographs().to(dtype), (height, width), mode="bilinear", antialias=True)


@pytest.mark.parametrize("name", TORCHVISION)
def test_networks_in_double(name):
    found, expected = both(in_double(torchvision_network(name)), small(83, 96), window=(18, 20), stride=(17, 22))
    same(found, expected, 1e-12)


def test_inception_in_double():
    same(*both(in_double(torchvision_network("inception_v3")), small(107, 96), window=21, stride=25), 1e-12)


def test_real_weights_on_photographs():
    same(*both(efficientnet_lite0(), photographs(), (281, 967), window=45, stride=36), 1e-5)


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
    for name in ("resnet18", "vgg11_bn"):
        same(*both(in_double(torchvision_network(name)), small(64, 51), **options), 1e-12)


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn"])
def test_networks_in_single(name):
    same(*both(torchvision_network(name), photographs(), (281, 967), window=70, stride=51), 1e-5)


def test_several_targets_and_the_same_maps_by_default():
    model, images = in_double(torchvision_network("vgg11_bn")), small(64, 64)
    for target in ([[1, 2], [0, 6]], fastcam.targets.Probability(2)):
        found, expected = (
            fastcam.explain(model, images, "occlusion", target, window=9, stride=12, engine=each)
            for each in ("auto", "dense")
        )
        assert 0 < difference(found, expected) < 1e-12  # not the same way


def test_the_activation_of_a_layer():
    model, images = torchvision_network("resnet18"), small(96, 96, torch.float32)
    for layer in ("layer2.0", "layer4.1"):
        target = fastcam.targets.Neuron(layer, None, "sum")
        found, expected = (
            fastcam.explain(model, images, "occlusion", target, window=16, stride=16, engine=each)
            for each in ("incremental", "dense")
        )
        assert difference(found, expected) < 1e-5


@pytest.mark.parametrize("name", ["convnext_atto", "repvgg_a0", "hrnet_w18_small", "cspresnet50"])
def test_networks_of_timm(name):
    same(*both(in_double(timm_network(name)), small(96, 96), window=18, stride=21), 1e-12)


def test_half_precision():
    model, images = torchvision_network("resnet18"), photographs()[:1]
    prepared = fastcam.prepare(model, images, precision="bf16")
    found, expected = both(prepared, images, window=64, stride=40)
    exact = fastcam.explain(model, images, "occlusion", 1, window=64, stride=40, engine="dense")
    assert difference(found, exact) < 2 * difference(expected, exact)  # as far from the truth as whole passes in bf16


def test_prepared():
    model, images = torchvision_network("resnet18"), small(96, 96, torch.float32)
    found = fastcam.explain(fastcam.prepare(model, images), images, "occlusion", 1, window=20, stride=19)
    assert difference(found, fastcam.explain(model, images, "occlusion", 1, window=20, stride=19)) < 1e-5


def test_patches_in_front_and_whole_maps_behind():
    image, some = small(96, 96)[:1], windows(6, 16, 16)
    done = kinds(in_double(torchvision_network("vgg11_bn")), image, some)
    assert [each is not None for each in done] == [True] * 6 + [False] * 2
    depthwise = kinds(torchvision_network("convnext_tiny"), photographs()[:1], some)
    assert sum(each is not None for each in depthwise) >= 4  # its linear layers and norms keep patches too
