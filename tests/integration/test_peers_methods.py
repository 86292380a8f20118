"""The methods through the network and by perturbation beside captum 0.9.0, grad-cam 1.5.7 and torchcam 0.5.0.

Where the definitions agree, float64 maps agree to 1e-4 of their range (in float32 a rectifier near its kink may fall to
either side of it). Where they do not:

- captum, guided backpropagation, deconvnet: rules for `nn.ReLU` modules alone; here for functions (DenseNet), in-place
  calls and ReLU6 (MobileNetV2) too.
- captum, Guided Grad-CAM: upsamples the map to the nearest neighbour; the paper bilinearly.
- captum, riemann_trapezoid: weights of n steps sum to (n - 1) / n; here to one.
- captum, SmoothGrad: noise of a given deviation; the paper's is a share of the image's range.
- captum, Saliency in a NoiseTunnel: means of absolute values; the paper's mean is signed.
- grad-cam, Ablation-CAM: a channel becomes the layer's minimum less 1e7 unless that is 0; the paper's becomes 0.
- grad-cam, FullGrad: scales channel by channel (here rescale="channel"); the authors sample by sample.
- grad-cam, Score-CAM: upsamples with aligned corners.
- grad-cam, guided backpropagation: explains the first image of a batch alone.
- torch-cam, Score-CAM: scales channels to [0, 1] before upsampling, the paper after.
"""

import contextlib
import io

import captum.attr
import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from pytorch_grad_cam import AblationCAM, FullGrad
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torchcam.methods import ScoreCAM

import fastcam
from tests.support.networks import in_double, torchvision_network
from tests.support.tiers import slow

pytestmark = pytest.mark.usefixtures("one_thread")

TARGETS = [5, 77]
NETWORKS = {
    "convolutional": lambda: torchvision_network("alexnet"),
    "residual": lambda: torchvision_network("resnet18"),
    "dense": lambda: torchvision_network("densenet121"),
    "inverted residual": lambda: torchvision_network("mobilenet_v2"),
    "ViT": lambda: timm.create_model("vit_tiny_patch16_224", img_size=64, embed_dim=48, depth=4),
    "Swin": lambda: timm.create_model("swin_tiny_patch4_window7_224", img_size=56, embed_dim=24),
}


SOME = ["residual", "ViT"]


@pytest.fixture(params=[*SOME, *slow(*(name for name in NETWORKS if name not in SOME))])
def case(request) -> tuple[str, nn.Module, Tensor]:
    torch.manual_seed(0)
    model = in_double(NETWORKS[request.param]()).eval()
    return request.param, model, torch.randn(2, 3, *[56 if request.param == "Swin" else 64] * 2, dtype=torch.float64)


def assert_agree(ours: Tensor, theirs: Tensor) -> None:
    """To 1e-4 of the range, image by image."""
    for mine, other in zip(ours.detach().double(), theirs.detach().double(), strict=True):
        span = (other.max() - other.min()).item()
        assert span > 0
        assert (mine - other).abs().max().item() <= 1e-4 * span


def test_captum_gradients(case):
    _, model, images = case
    ours = fastcam.explain(model, images, ["saliency", "input_x_gradient"], TARGETS)
    theirs = captum.attr.Saliency(model).attribute(images, torch.tensor(TARGETS), abs=False)
    assert_agree(ours["saliency"].attributions, theirs)
    theirs = captum.attr.InputXGradient(model).attribute(images, torch.tensor(TARGETS))
    assert_agree(ours["input_x_gradient"].attributions, theirs)


@pytest.mark.parametrize("name", ["convolutional", "residual"])  # the others have rectifiers that captum does not see
def test_captum_relu_rules(name):
    model, images = in_double(NETWORKS[name]()), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    ours = fastcam.explain(model, images, ["guided_backprop", "deconvnet"], TARGETS)
    pairs = {"guided_backprop": captum.attr.GuidedBackprop, "deconvnet": captum.attr.Deconvolution}
    for method, peer in pairs.items():
        assert_agree(ours[method].attributions, peer(_out_of_place(model)).attribute(images, torch.tensor(TARGETS)))


def _out_of_place(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return model


def test_captum_guided_grad_cam():
    """With captum's nearest neighbours in the place of the bilinear interpolation."""
    model, images = _out_of_place(in_double(torchvision_network("resnet18"))), torch.randn(2, 3, 64, 64).double()
    peer = captum.attr.GuidedGradCam(model, model.layer3)
    theirs = peer.attribute(images, torch.tensor(TARGETS))
    ours = fastcam.explain(model, images, ["grad_cam", "guided_backprop"], TARGETS, "layer3")
    nearest = F.interpolate(ours["grad_cam"].native[:, None], images.shape[2:], mode="nearest")
    assert_agree(nearest * ours["guided_backprop"].attributions, theirs)


@pytest.mark.parametrize(
    ("quadrature", "peer"),
    [("gauss_legendre", "gausslegendre"), *slow(*((f"riemann_{side}",) * 2 for side in ("left", "right", "middle")))],
)
def test_captum_integrated_gradients(case, quadrature, peer):
    _, model, images = case
    baseline = images.flip(-1) / 2
    options = {"steps": 4, "baseline": baseline, "quadrature": quadrature}
    ours = fastcam.explain(model, images, "integrated_gradients", TARGETS, **options)
    theirs, gap = captum.attr.IntegratedGradients(model).attribute(
        images, baseline, torch.tensor(TARGETS), n_steps=4, method=peer, return_convergence_delta=True
    )
    assert_agree(ours.attributions, theirs)
    torch.testing.assert_close(ours.details["completeness_gap"], gap, rtol=1e-4, atol=1e-8)


def test_captum_trapezoid_without_its_missing_step():
    model, images = in_double(torchvision_network("resnet18")), torch.randn(2, 3, 64, 64).double()
    ours = fastcam.explain(model, images, "integrated_gradients", TARGETS, steps=5, quadrature="trapezoid")
    peer = captum.attr.IntegratedGradients(model)
    theirs = peer.attribute(images, target=torch.tensor(TARGETS), n_steps=5, method="riemann_trapezoid")
    assert_agree(ours.attributions, theirs * 5 / 4)


def test_captum_occlusion(case):
    _, model, images = case
    ours = fastcam.explain(model, images, "occlusion", TARGETS, window=(20, 30), stride=(19, 13), baseline=0.5)
    theirs = captum.attr.Occlusion(model).attribute(
        images, (3, 20, 30), (3, 19, 13), baselines=0.5, target=torch.tensor(TARGETS)
    )
    assert_agree(ours.raw, theirs[:, 0])


def test_captum_noise_tunnel(monkeypatch):
    """With our noise in the place of captum's, sample by sample."""
    model, images = in_double(torchvision_network("resnet18")), torch.randn(2, 3, 64, 64).double()
    level, samples = 0.1, 4
    spread = level * (images.amax((1, 2, 3)) - images.amin((1, 2, 3))).reshape(2, 1, 1, 1)
    noise = [torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(i)).double() for i in range(samples)]
    copies = torch.stack([images + spread * each for each in noise], 1).flatten(0, 1)
    monkeypatch.setattr(torch, "normal", lambda *_, **__: copies - images.repeat_interleave(samples, 0))
    tunnel = captum.attr.NoiseTunnel(captum.attr.Saliency(model))
    kinds = {"mean": "smoothgrad", "square": "smoothgrad_sq", "variance": "vargrad"}
    for kind, peer in kinds.items():
        options = {"nt_type": peer, "nt_samples": samples, "stdevs": 1.0, "target": torch.tensor(TARGETS), "abs": False}
        theirs = tunnel.attribute(images, **options)
        ours = fastcam.explain(model, images, "smooth_grad", TARGETS, samples=samples, level=level, kind=kind)
        assert_agree(ours.attributions, theirs)


def scaled_output(model: nn.Module) -> nn.Module:
    """Logits so large that grad-cam's epsilons do not count."""
    return nn.Sequential(model, _Times(1e6)).eval()


class _Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


@pytest.mark.parametrize("name", ["convolutional", "residual", "dense", "inverted residual"])
def test_grad_cam_full_grad(name):
    model, images = scaled_output(NETWORKS[name]()), torch.randn(2, 3, 64, 64)
    with contextlib.redirect_stdout(io.StringIO()):  # it says that it ignores its target layers
        theirs = FullGrad(model, [])(images.clone(), [ClassifierOutputTarget(target) for target in TARGETS])
    ours = fastcam.explain(model, images, "full_grad", TARGETS, rescale="channel").numpy()
    assert np.abs(ours - theirs).max() <= 1e-3  # grad-cam rounds to float32 between its steps


def test_grad_cam_ablation():
    """Behind a ReLU, where grad-cam fills with 0."""
    model, images = torchvision_network("resnet18"), torch.randn(2, 3, 64, 64)
    peer = AblationCAM(model, [model.layer2])
    peer.batch_size = 32
    with contextlib.redirect_stderr(io.StringIO()):
        theirs = peer(images.clone(), [ClassifierOutputTarget(target) for target in TARGETS])
    ours = fastcam.explain(model, images, "ablation_cam", TARGETS, "layer2").numpy()
    assert np.abs(ours - theirs).max() <= 1e-3


def test_torchcam_score_cam():
    """Upsampled three times, a map keeps its extremes: then it is the same to scale it before or after."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=3), nn.ReLU(), nn.Conv2d(8, 6, 3, padding=1), nn.ReLU())
    model = nn.Sequential(body, nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(24, 100)).eval()
    images = torch.randn(2, 3, 27, 33)
    with ScoreCAM(model, "0", batch_size=4) as peer, torch.no_grad():
        (theirs,) = peer(TARGETS, model(images))
    ours = fastcam.explain(model, images, "score_cam", TARGETS, "0").native
    ours = (ours - ours.amin((1, 2), keepdim=True)) / (ours.amax((1, 2)) - ours.amin((1, 2)))[:, None, None]
    assert_agree(ours, theirs)
