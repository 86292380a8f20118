"""The same attributions as Captum, for methods that go through the whole network.

Every map must agree within 1e-4 of its range. Where definitions differ:

| method                 | what Captum does                     | what fastcam does, and why                          |
| ---------------------- | ------------------------------------ | --------------------------------------------------- |
| guided, deconvnet      | sees modules `nn.ReLU` only          | every rectifier: functions, ReLU6, SiLU, GELU too   |
| Guided Grad-CAM        | Grad-CAM enlarged by "nearest"       | bilinear, as the paper says                         |
| `riemann_trapezoid`    | weights 1/n, adding up to (n - 1)/n  | 1/(n - 1): the trapezoidal rule; completeness holds |
| NoiseTunnel            | one standard deviation for all       | a share of every image's range: the paper           |
| NoiseTunnel            | noise of torch's global generator    | of a seed, whatever the batch                       |
| NoiseTunnel + Saliency | averages absolute values             | averages gradients: the paper's M_c                 |
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


@pytest.mark.parametrize("name", NETWORKS)
def test_captum_gradients(name):
    model = NETWORKS[name]()
    signed = captum.Saliency(model).attribute(images().requires_grad_(), CLASSES, abs=False)
    assert error(attributions(name, "saliency"), signed) <= AGREEMENT
    absolute = captum.Saliency(model).attribute(images().requires_grad_(), CLASSES)
    assert error(fastcam.explain(model, images(), "saliency", CLASSES).raw, absolute.amax(1)) <= AGREEMENT
    product = captum.InputXGradient(model).attribute(images().requires_grad_(), CLASSES)
    assert error(attributions(name, "input_x_gradient"), product) <= AGREEMENT


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


QUADRATURES = {
    "gauss_legendre": "gausslegendre",
    "riemann_left": "riemann_left",
    "riemann_middle": "riemann_middle",
    "riemann_right": "riemann_right",
    "trapezoid": "riemann_trapezoid",
}


@pytest.mark.parametrize(
    ("name", "quadrature"),
    [(name, "gauss_legendre") for name in NETWORKS] + [("swin", quadrature) for quadrature in list(QUADRATURES)[1:]],
)
def test_captum_integrated_gradients(name, quadrature):
    model, start, steps = NETWORKS[name](), images().flip(0) / 2, 4
    peer, delta = captum.IntegratedGradients(model).attribute(
        images(), start, CLASSES, n_steps=steps, method=QUADRATURES[quadrature], return_convergence_delta=True
    )
    options = {"steps": steps, "quadrature": quadrature, "baseline": start}
    found = fastcam.explain(model, images(), "integrated_gradients", CLASSES, **options)
    if quadrature == "trapezoid":
        peer = peer * steps / (steps - 1)
    else:
        scale = found.attributions.abs().sum()
        assert (found.details["completeness_gap"] - delta).abs().max() <= 1e-5 * scale
    assert error(found.attributions, peer) <= AGREEMENT


@pytest.mark.parametrize(
    ("inner", "kind", "smoothing", "nt_type"),
    [
        ("saliency", captum.Saliency, "mean", "smoothgrad"),
        ("saliency", captum.Saliency, "square", "smoothgrad_sq"),
        ("saliency", captum.Saliency, "variance", "vargrad"),
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
    signed = {"abs": False} if inner == "saliency" else {}
    peer = captum.NoiseTunnel(kind(model)).attribute(x, nt_type, samples, target=CLASSES, **signed)
    options = {"inner": inner, "kind": smoothing, "samples": samples, "level": level, "seed": 5}
    assert error(attributions("resnet18", "smooth_grad", **options), peer) <= AGREEMENT


@pytest.mark.parametrize(
    ("name", "window", "stride"),
    [(name, (32, 28), (20, 28)) for name in NETWORKS] + [("vit", (30, 30), (30, 30)), ("swin", (9, 64), (5, 3))],
)
def test_captum_occlusion(name, window, stride):
    model, x = NETWORKS[name](), images()
    colour = torch.tensor([0.5, -0.2, 0.1])
    baseline = colour[:, None, None].expand_as(x).contiguous()
    with torch.no_grad():
        peer = captum.Occlusion(model).attribute(x, (3, *window), (3, *stride), baseline, CLASSES)
    found = fastcam.explain(model, x, "occlusion", CLASSES, window=window, stride=stride, baseline=colour)
    assert error(found.raw, peer[:, 0]) <= AGREEMENT
