"""Convolutions that run backwards over few positions: the gradients of all."""

import threading

import pytest
import torch
import torchvision
from torch import nn

import fastcam
from fastcam import targets
from fastcam.model import few_positions as module
from fastcam.model.few_positions import few_positions

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIONS = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 1},
    {"kernel_size": (5, 3), "padding": (2, 0), "stride": (2, 3)},
    {"kernel_size": 3, "padding": 4, "dilation": 2, "groups": 2, "bias": False},
    {"kernel_size": 2, "stride": 3, "padding": 1},
    {"kernel_size": 1, "padding": 3},
]
# First and last rows and columns of the positions with a gradient; the whole, a corner, an edge, one, none.
RECTANGLES = [(0, 99, 0, 99), (0, 1, 0, 1), (3, 4, 0, 99), (2, 3, 1, 4), (0, 0, 0, 0), (16, 99, 13, 99)]


@pytest.mark.parametrize("rectangle", RECTANGLES)
@pytest.mark.parametrize("options", OPTIONS)
def test_one_convolution(options, rectangle):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 6, **options), nn.ReLU(inplace=True)).double()
    top, bottom, left, right = rectangle
    found = []
    for context in (few_positions(model), threading.Lock()):  # the lock changes nothing
        images = torch.rand(2, 4, 17, 14, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
        with context:
            output = model(images)
        # Each image has its own rectangle.
        score = output[0, :, top:bottom, left:right].square().sum() + output[1, :, :1, :1].sum()
        found.append(torch.autograd.grad(score, images)[0])
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-13)
    assert not model[0]._forward_hooks


KINDS = [
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    pytest.param("retinanet_resnet50_fpn", marks=pytest.mark.slow),
    pytest.param("fasterrcnn_resnet50_fpn_v2", marks=pytest.mark.slow),
    pytest.param("fcos_resnet50_fpn", marks=pytest.mark.slow),
    pytest.param("ssdlite320_mobilenet_v3_large", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("kind", KINDS)
def test_detectors(kind, monkeypatch):
    torch.manual_seed(0)
    options = {} if "ssd" in kind else {"min_size": 96, "max_size": 128}
    options["box_score_thresh" if "rcnn" in kind else "score_thresh"] = 0.0
    model = torchvision.models.get_model(kind, weights=None, weights_backbone=None, num_classes=3, **options)
    model = model.double().eval()
    images = torch.rand(2, 3, 96, 120, generator=torch.Generator().manual_seed(2)).double()
    layers = {"mobilenet_v3_large_320_fpn": "backbone.body.10", "mobilenet": "backbone.features.0"}
    layer = next((name for part, name in layers.items() if part in kind), "backbone.body.layer3")
    target = targets.Detections(0.0, most=3)
    found = fastcam.explain(model, images, ["layer_cam", "grad_cam"], target, layer)
    monkeypatch.setattr(module, "_is_plain", lambda convolution: False)
    expected = fastcam.explain(model, images, ["layer_cam", "grad_cam"], target, layer)
    for name, each in found.items():
        assert expected[name].is_found.any()
        assert expected[name].native.abs().max() > 0
        scale = float(expected[name].native.abs().max())
        torch.testing.assert_close(each.native, expected[name].native, rtol=1e-9, atol=1e-12 * scale)


def test_what_a_user_changed_stays():
    """A convolution that a hook or another forward changes keeps the gradient of that."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3)).double()
    model[0].register_forward_hook(lambda convolution, given, output: 2 * output)
    model[1].forward = lambda images: 3 * nn.Conv2d.forward(model[1], images)
    images = torch.rand(1, 2, 9, 9).double().requires_grad_()
    (expected,) = torch.autograd.grad(model(images)[0, 0, 1, 1], images)
    with few_positions(model):
        output = model(images)
    (found,) = torch.autograd.grad(output[0, 0, 1, 1], images)
    torch.testing.assert_close(found, expected)


def test_not_a_number_is_not_lost():
    model = nn.Conv2d(1, 1, 3)
    images = torch.rand(1, 1, 9, 9).requires_grad_()
    with few_positions(model):
        output = model(images)
    (found,) = torch.autograd.grad(output[0, 0, 2, 2] * torch.nan, images)
    assert int(found.isnan().sum()) == 9


def test_half_precision():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    images = torch.rand(1, 3, 16, 16).requires_grad_()
    with few_positions(model), torch.autocast("cpu", torch.bfloat16):
        output = model(images)
    (found,) = torch.autograd.grad(output[0, 0, 2, 2].float(), images)
    (expected,) = torch.autograd.grad(model(images)[0, 0, 2, 2], images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.02 * float(expected.abs().max()))


def test_other_threads_differentiate_twice():
    model = nn.Conv2d(1, 1, 3)
    found = []

    def run():
        images = torch.rand(1, 1, 9, 9).requires_grad_()
        (first,) = torch.autograd.grad(model(images).square().sum(), images, create_graph=True)
        found.append(torch.autograd.grad(first.sum(), images)[0])

    with few_positions(model):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert found[0].abs().max() > 0
