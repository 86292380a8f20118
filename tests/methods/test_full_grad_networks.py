"""FullGrad's account of the score on more networks: exact where it must be, with a gap that is told where it is not."""

import copy

import pytest
import timm
import torch
from timm.layers import freeze_batch_norm_2d
from torch import Tensor, nn

import fastcam
from tests.integration.peer_networks import images, mobilenet_v2, swin, vgg11, vit
from tests.support.conv_net import conv_net, images_for
from tests.support.frozen_norms import FREEZE

pytestmark = pytest.mark.usefixtures("one_thread")


def account(explanation: fastcam.Explanation) -> Tensor:
    details = explanation.details
    return details["input_term"] + sum(details["bias_terms"].values())


@pytest.mark.parametrize("build", [vgg11, mobilenet_v2])
def test_biases_of_convolutions_and_of_batch_norms_alone(build):
    explanation = fastcam.explain(build(), images(), "full_grad", [3, 7])
    torch.testing.assert_close(account(explanation), explanation.scores, rtol=1e-10, atol=1e-12)
    assert explanation.details["completeness_gap"].abs().max() < 1e-12
    assert explanation.details["input_term"].abs().min() > 1e-6


@pytest.mark.parametrize("freeze", FREEZE)
def test_frozen_batch_norms_have_biases_too(freeze):
    model = FREEZE[freeze](copy.deepcopy(mobilenet_v2()))
    explanation = fastcam.explain(model, images(), "full_grad", [3, 7])
    torch.testing.assert_close(account(explanation), explanation.scores, rtol=1e-10, atol=1e-12)
    if freeze != "own":  # which adds more to the variance
        torch.testing.assert_close(explanation.raw, fastcam.explain(mobilenet_v2(), images(), "full_grad", [3, 7]).raw)


@pytest.mark.parametrize("is_frozen", [False, True])
def test_activations_inside_of_batch_norms(is_frozen):
    """The gradient of a norm's bias is that in front of the activation which the norm holds itself."""
    model = timm.create_model("regnetx_002").double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            nn.init.normal_(module.bias, 0, 0.3)
    model = freeze_batch_norm_2d(model).eval() if is_frozen else model
    explanation = fastcam.explain(model, images(), "full_grad", [3, 7])
    torch.testing.assert_close(account(explanation), explanation.scores, rtol=1e-9, atol=1e-12)
    assert abs(explanation.details["bias_terms"]["stem.bn"]).min() > 1e-3


@pytest.mark.parametrize("build", [lambda: mobilenet_v2(nn.ReLU6), vit, swin], ids=["ReLU6", "vit", "swin"])
def test_the_gap_is_told(build):
    """Where ReLU6 cuts above it is no part of x dy/dx; nor are norms of layers, soft maxima and tables of positions."""
    explanation = fastcam.explain(build(), images(), "full_grad", [3, 7])
    gap = explanation.details["completeness_gap"]
    torch.testing.assert_close(gap, account(explanation) - explanation.scores)
    assert gap.abs().min() > 1e-3
    assert explanation.status == ["ok", "ok"]


def test_windows_belong_to_their_images():
    """Swin's linear layers see (N * windows, T, C): the terms of a batch are those of its images."""
    together = fastcam.explain(swin(), images(), "full_grad", [3, 7])
    for row, target in enumerate([3, 7]):
        alone = fastcam.explain(swin(), images()[row : row + 1], "full_grad", target)
        torch.testing.assert_close(together.raw[row : row + 1], alone.raw)
        for layer, term in alone.details["bias_terms"].items():
            torch.testing.assert_close(together.details["bias_terms"][layer][row : row + 1], term)


class Twice(nn.Module):
    """A convolution and a batch norm that run twice, and a linear layer over the channels of a map."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.norm, self.mix, self.classifier = nn.BatchNorm2d(6), nn.Linear(6, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.again(self.norm(self.first(x)).relu())).relu()
        x = self.mix(self.again(x).relu().movedim(1, -1)).relu().movedim(-1, 1)
        return self.classifier(x.mean((2, 3)))


@pytest.mark.parametrize("frozen", [False, True])
def test_layers_that_run_twice_count_twice(frozen):
    model = Twice().double().eval().requires_grad_(not frozen)
    model.norm.running_mean.normal_()
    model.norm.running_var.uniform_(0.5, 2)
    explanation = fastcam.explain(model, images_for().double(), "full_grad", [3, 1])
    torch.testing.assert_close(account(explanation), explanation.scores, rtol=1e-10, atol=1e-12)
    assert set(explanation.details["bias_terms"]) == {"first", "again", "norm", "mix", "classifier"}


def test_the_score_of_a_neuron():
    model = conv_net().double()
    target = fastcam.targets.Neuron("features", 2, "sum")
    explanation = fastcam.explain(model, images_for().double(), "full_grad", target)
    torch.testing.assert_close(account(explanation), explanation.scores, rtol=1e-10, atol=1e-12)
    assert set(explanation.details["bias_terms"]) == {"stem.0", "stem.1", "features.0", "features.1"}
