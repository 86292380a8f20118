"""The same attributions as Captum, for what `test_peers_methods` leaves out: more networks and inner methods.

Every map must agree within 1e-4 of its range. Where definitions differ:

| method                 | what Captum does                     | what fastcam does, and why                          |
| ---------------------- | ------------------------------------ | --------------------------------------------------- |
| guided, deconvnet      | sees modules `nn.ReLU` only          | every rectifier: functions, ReLU6, SiLU, GELU too   |
| Guided Grad-CAM        | Grad-CAM enlarged by "nearest"       | bilinear, as the paper says                         |
| NoiseTunnel            | one standard deviation for all       | a share of every image's range: the paper           |
| NoiseTunnel            | noise of torch's global generator    | of a seed, whatever the batch                       |
"""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastcam
from fastcam.methods.baselines import normal_noise
from tests.integration.peer_networks import (
    AGREEMENT,
    CLASSES,
    LAYERS,
    NETWORKS,
    RECTIFIED,
    attributions,
    error,
    images,
    mobilenet_v2,
    swin,
    vit,
)

captum = pytest.importorskip("captum.attr")

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Setting .*backward hooks", "ignore:Input Tensor .* required_grads"),
]


@pytest.mark.parametrize("name", RECTIFIED)
@pytest.mark.parametrize(
    ("method", "kind"), [("guided_backprop", captum.GuidedBackprop), ("deconvnet", captum.Deconvolution)]
)
def test_captum_rules_for_rectifiers(name, method, kind):
    peer = kind(NETWORKS[name]()).attribute(images().requires_grad_(), CLASSES)
    assert error(attributions(name, method), peer) <= AGREEMENT


@pytest.mark.parametrize("build", [vit, swin, partial(mobilenet_v2, nn.ReLU6)], ids=["vit", "swin", "ReLU6"])
def test_captum_leaves_other_rectifiers_alone(build):
    """Its guided backpropagation is then the plain gradient; the rule changes more than a tenth of the range."""
    peer = captum.GuidedBackprop(build()).attribute(images().requires_grad_(), CLASSES)
    several = fastcam.explain(build(), images(), ["saliency", "guided_backprop"], CLASSES)
    assert error(several["saliency"].attributions, peer) <= AGREEMENT
    assert error(several["guided_backprop"].attributions, peer) > 0.1


@pytest.mark.parametrize("name", RECTIFIED)
def test_captum_guided_grad_cam(name):
    model = NETWORKS[name]()
    guided = captum.GuidedGradCam(model, model.get_submodule(LAYERS[name]))
    peer = {
        mode: guided.attribute(images().requires_grad_(), CLASSES, interpolate_mode=mode)
        for mode in ("bilinear", "nearest")
    }
    assert error(attributions(name, "guided_grad_cam"), peer["bilinear"]) <= AGREEMENT
    cam = fastcam.explain(model, images(), "grad_cam", CLASSES, LAYERS[name]).native
    product = F.interpolate(cam[:, None], (64, 64)) * attributions(name, "guided_backprop")
    assert error(product, peer["nearest"]) <= AGREEMENT


@pytest.mark.parametrize(
    ("inner", "kind", "smoothing", "nt_type"),
    [
        ("input_x_gradient", captum.InputXGradient, "mean", "smoothgrad"),
        ("guided_backprop", captum.GuidedBackprop, "variance", "vargrad"),
    ],
)
def test_captum_noise_tunnel(inner, kind, smoothing, nt_type, monkeypatch):
    """With fastcam's noise in its hands: a share of every image's own range."""
    model, x, samples, level = NETWORKS["resnet18"](), images(), 4, 0.15
    spread = level * (x.amax((1, 2, 3), keepdim=True) - x.amin((1, 2, 3), keepdim=True))
    noise = torch.stack([normal_noise(x, 5 + index) for index in range(samples)])
    noisy = (x[:, None] + spread[:, None] * noise).flatten(0, 1)
    monkeypatch.setattr(captum.NoiseTunnel, "_add_noise_to_input", staticmethod(lambda *arguments: noisy.clone()))
    peer = captum.NoiseTunnel(kind(model)).attribute(x, nt_type, samples, target=CLASSES)
    options = {"inner": inner, "kind": smoothing, "samples": samples, "level": level, "seed": 5}
    assert error(attributions("resnet18", "smooth_grad", **options), peer) <= AGREEMENT
