"""The same maps as pytorch-grad-cam, torch-cam and Captum, wherever their definitions are the same.

Compared are raw, signed maps at the layer's size, before anybody's normalisation or upsampling (torch-cam rectifies
first). Every map must agree, in float32, within a share of its own range that is stated below.

Where definitions differ, and what is done about it here:

- pytorch-grad-cam adds 1e-6 to Grad-CAM++'s denominator, which is larger than 2 G^2 for the gradients of a common
  network. The score is scaled so that G is of order ten or more; torch-cam's Grad-CAM++ is another formula.
- The sign of a principal component is open; fastcam fixes it, pytorch-grad-cam does not.
- pytorch-grad-cam and torch-cam are wrong where the module after the target layer works in place; Captum is right.
- Captum averages over all axes but the first two, so that it has nothing to say about tokens.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastcam
from tests.support.networks import efficientnet_lite0, photographs, timm_network, torchvision_network
from tests.support.tiers import slow

captum = pytest.importorskip("captum.attr")
torchcam = pytest.importorskip("torchcam.methods")
pytorch_grad_cam = pytest.importorskip("pytorch_grad_cam")
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

AGREEMENT = 1e-5  # of a map's range
AGREEMENT_OF_QUOTIENTS = 1e-4  # XGrad-CAM and Grad-CAM++ divide by sums that may lie close to zero
CLASSES = [7, 42]  # of the first and second photograph


@dataclass(frozen=True)
class Case:
    """A network, the layer that the peers are compared at, and how its tokens become a map."""

    build: Callable[[], nn.Module]
    layer: str
    reshape: Callable[[Tensor], Tensor] | None = None
    classifier: str | None = None  # the linear layer, where the network ends in average pooling and one


CASES = {
    "resnet18": Case(partial(torchvision_network, "resnet18"), "layer4", classifier="fc"),
    "vgg11": Case(partial(torchvision_network, "vgg11"), "features"),
    "mobilenet_v2": Case(partial(torchvision_network, "mobilenet_v2"), "features", classifier="classifier.1"),
    "efficientnet_b0": Case(partial(torchvision_network, "efficientnet_b0"), "features", classifier="classifier.1"),
    "efficientnet_lite0": Case(efficientnet_lite0, "_bn1"),
    "densenet121": Case(partial(torchvision_network, "densenet121"), "features.denseblock4"),
    "convnext_tiny": Case(partial(torchvision_network, "convnext_tiny"), "features"),
    "swin_t": Case(partial(torchvision_network, "swin_t"), "permute", classifier="head"),
    "timm swin_tiny": Case(
        partial(timm_network, "swin_tiny_patch4_window7_224"), "layers.3.blocks.1.norm1", fastcam.swin_reshape
    ),
    "timm vit_tiny": Case(partial(timm_network, "vit_tiny_patch16_224"), "blocks.11.norm1", fastcam.vit_reshape),
}

SOME = ["resnet18", "efficientnet_lite0", "densenet121", "timm vit_tiny"]  # of each kind, one


def among(wanted):
    """The networks that are wanted; those of a kind that another one stands for in the slow tier."""
    names = [name for name, case in CASES.items() if wanted(case)]
    return [name for name in names if name in SOME] + slow(*(name for name in names if name not in SOME))


NETWORKS = among(lambda case: True)
PYTORCH_GRAD_CAM = {
    "grad_cam": pytorch_grad_cam.GradCAM,
    "xgrad_cam": pytorch_grad_cam.XGradCAM,
    "hires_cam": pytorch_grad_cam.HiResCAM,
    "layer_cam": pytorch_grad_cam.LayerCAM,
    "grad_cam_elementwise": pytorch_grad_cam.GradCAMElementWise,
    "eigen_cam": pytorch_grad_cam.EigenCAM,
    "eigen_grad_cam": pytorch_grad_cam.EigenGradCAM,
}
TORCHCAM = {"grad_cam": torchcam.GradCAM, "xgrad_cam": torchcam.XGradCAM, "layer_cam": torchcam.LayerCAM}


def score(output: Tensor) -> Tensor:
    """The logit of each image's class."""
    return output.gather(1, torch.tensor(CLASSES)[:, None])[:, 0]


@cache
def fastcam_maps(network: str) -> dict[str, Tensor]:
    """Signed maps (N, h, w) of all methods, from one forward and at most one backward pass."""
    case = CASES[network]
    explanations = fastcam.explain(
        case.build(),
        photographs(),
        list(PYTORCH_GRAD_CAM),
        CLASSES,
        case.layer,
        relu=False,
        reshape_transform=case.reshape,
    )
    return {name: explanation.native for name, explanation in explanations.items()}


@cache
def pytorch_grad_cam_evidence(network: str) -> tuple[np.ndarray, np.ndarray]:
    """What pytorch-grad-cam captures: activations and gradients."""
    case = CASES[network]
    model = case.build()
    with pytorch_grad_cam.GradCAM(model, [model.get_submodule(case.layer)], case.reshape) as cam:
        output = cam.activations_and_grads(photographs())
        score(output).sum().backward()
        recorded = cam.activations_and_grads
        activations, gradients = recorded.activations[0].numpy(), recorded.gradients[0].numpy()
    model.zero_grad()
    return activations, gradients


def pytorch_grad_cam_map(kind: type, network: str, activations: np.ndarray, gradients: np.ndarray) -> Tensor:
    """Its map before ReLU, min-max and resizing."""
    model = CASES[network].build()
    layer = model.get_submodule(CASES[network].layer)
    with kind(model, [layer], CASES[network].reshape) as cam:
        maps = cam.get_cam_image(photographs(), layer, None, activations, gradients, eigen_smooth=False)
        return torch.from_numpy(maps)


@cache
def torchcam_maps(network: str) -> dict[str, Tensor]:
    """Rectified maps, not normalised, from one forward pass."""
    case = CASES[network]
    options = {"reshape_transform": case.reshape}
    extractors = {name: kind(case.build(), case.layer, **options) for name, kind in TORCHCAM.items()}
    output = case.build()(photographs())
    maps = {
        name: extractor(CLASSES, output, normalized=False, retain_graph=True)[0]
        for name, extractor in extractors.items()
    }
    for extractor in extractors.values():
        extractor.remove_hooks()
    return maps


def error(maps: Tensor, peer: Tensor) -> float:
    """Largest difference as a share of the range of the peer's map, over the images."""
    assert maps.shape == peer.shape
    span = peer.flatten(1).amax(1) - peer.flatten(1).amin(1)
    assert (span > 0).any(), "maps without a range test nothing"
    difference = (maps - peer).abs().flatten(1).amax(1)
    return torch.where(difference > 0, difference / span, 0).max().item()


def agreement(method: str) -> float:
    return AGREEMENT_OF_QUOTIENTS if method in ("xgrad_cam", "grad_cam_pp") else AGREEMENT


@pytest.mark.parametrize("method", PYTORCH_GRAD_CAM)
@pytest.mark.parametrize("network", NETWORKS)
def test_pytorch_grad_cam(network, method):
    maps = fastcam_maps(network)[method]
    peer = pytorch_grad_cam_map(PYTORCH_GRAD_CAM[method], network, *pytorch_grad_cam_evidence(network))
    if method == "grad_cam_elementwise":  # both rectify every product, so that there is no signed map
        assert peer.min() >= 0
    if method.startswith("eigen"):
        same = (maps * peer).sum((1, 2), keepdim=True) > 0
        peer = torch.where(same, peer, -peer)
    assert error(maps, peer) <= agreement(method)


@pytest.mark.parametrize("network", NETWORKS)
def test_pytorch_grad_cam_pp(network):
    """alpha = G^2 / (2 G^2 + S G^3 + 1e-6), S = sum A, with the score scaled until 1e-6 is nothing against 2 G^2.

    Where activations are signed, S < 0 puts a pole at G = -2 / S, next to which 1e-6 still counts: larger gradients
    stay clear of it. The peer gets what it captured in float64, for S next to zero.
    """
    case = CASES[network]
    activations, gradients = pytorch_grad_cam_evidence(network)
    size = 10 if activations.min() >= 0 else 1000
    scale = size / float(np.sqrt((gradients**2).mean()))
    pair = [each.astype(np.float64) for each in (activations, scale * gradients)]
    peer = pytorch_grad_cam_map(pytorch_grad_cam.GradCAMPlusPlus, network, *pair)
    maps = fastcam.explain(
        case.build(),
        photographs(),
        "grad_cam_pp",
        lambda output: scale * score(output),
        case.layer,
        relu=False,
        reshape_transform=case.reshape,
    ).native
    assert error(maps, peer) <= agreement("grad_cam_pp")


@pytest.mark.parametrize("method", TORCHCAM)
@pytest.mark.parametrize("network", NETWORKS)
def test_torchcam(network, method):
    assert error(fastcam_maps(network)[method].clamp(min=0), torchcam_maps(network)[method]) <= agreement(method)


@pytest.mark.parametrize("network", among(lambda case: case.reshape is None))
def test_captum(network):
    case = CASES[network]
    model = case.build()
    peer = captum.LayerGradCam(model, model.get_submodule(case.layer)).attribute(photographs(), CLASSES)
    assert error(fastcam_maps(network)["grad_cam"], peer.detach()[:, 0]) <= AGREEMENT


@pytest.mark.parametrize("network", among(lambda case: case.classifier))
def test_torchcam_cam(network):
    case = CASES[network]
    with torchcam.CAM(case.build(), case.layer, case.classifier) as extractor, torch.no_grad():
        case.build()(photographs())
        peer = extractor(CLASSES, normalized=False)[0]
    maps = fastcam.explain(case.build(), photographs(), "cam", CLASSES, case.layer).native
    assert error(maps, peer) <= AGREEMENT


def test_pytorch_grad_cam_at_the_size_of_the_photographs():
    """Its whole pipeline, ReLU, min-max, OpenCV's bilinear resize, min-max, on the highest classes of real weights."""
    model = efficientnet_lite0()
    explanation = fastcam.explain(model, photographs(), target_layer="_bn1")
    assert explanation.targets.tolist() == [282, 967]  # tiger cat, espresso
    with pytorch_grad_cam.GradCAM(model, [model.get_submodule("_bn1")]) as cam:
        peer = torch.from_numpy(cam(photographs(), targets=None))
    model.zero_grad()
    assert error(explanation.maps, peer) <= AGREEMENT


@pytest.mark.parametrize("method", ["cam", "grad_cam", "layer_cam"])
def test_torchcam_at_a_layer_that_runs_twice(method):
    """EfficientNet-Lite0's stem and head share one activation module, the automatic layer: the last run counts."""
    model = efficientnet_lite0()
    explanation = fastcam.explain(model, photographs(), method, CLASSES)
    assert explanation.layer == "_swish"
    kind = {"cam": partial(torchcam.CAM, fc_layer="_fc"), **TORCHCAM}[method]
    with kind(model, "_swish") as extractor:
        peer = extractor(CLASSES, model(photographs()), normalized=False)[0]
    assert error(explanation.native, peer.detach()) <= AGREEMENT


def inplace_network(inplace: bool) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 7, 4),
        nn.ReLU(),
        nn.Conv2d(8, 16, 5, 4),
        nn.ReLU(inplace),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(256, 50),
    ).eval()


def densenet(inplace: bool) -> nn.Module:
    """DenseNet-121 rectifies its features in place; or the same network without that."""
    model = torchvision_network("densenet121")
    if inplace:
        return model
    return nn.Sequential(
        OrderedDict(
            features=model.features,
            relu=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classifier=model.classifier,
        )
    ).eval()


@pytest.mark.parametrize(("build", "layer"), [(inplace_network, "2"), (densenet, "features")])
def test_a_layer_before_an_inplace_module(build, layer):
    """The layer returned A and dy/dA is at A. Two peers take what the next module left in A's memory."""
    model = build(True)
    module = model.get_submodule(layer)
    maps = fastcam.explain(model, photographs(), "grad_cam", CLASSES, layer, relu=False).native
    truth = fastcam.explain(build(False), photographs(), "grad_cam", CLASSES, layer, relu=False).native
    assert error(maps, truth) <= AGREEMENT

    right = captum.LayerGradCam(model, module).attribute(photographs(), CLASSES).detach()[:, 0]
    assert error(maps, right) <= AGREEMENT

    with torchcam.GradCAM(model, layer) as extractor:
        wrong = extractor(CLASSES, model(photographs()), normalized=False)[0]
    assert error(maps.clamp(min=0), wrong) > 0.1
    with pytorch_grad_cam.GradCAM(model, [module]) as cam:
        wrong = torch.from_numpy(cam(photographs(), [ClassifierOutputTarget(index) for index in CLASSES]))
    model.zero_grad()
    shown = fastcam.explain(model, photographs(), "grad_cam", CLASSES, layer).maps
    assert error(shown, wrong) > 0.1
