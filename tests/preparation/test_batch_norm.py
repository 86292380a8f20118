"""Batch norms fold into convolutions exactly where that leaves the function and the named activations as they were."""

import copy

import pytest
import torch
from torch import Tensor, nn

from fastcam.model.inputs import Inputs
from fastcam.preparation.batch_norm import fold_batch_norms
from tests.support.conv_net import CONVOLUTIONS, NORMS, Call, conv_net, images_for
from tests.support.frozen_norms import FREEZE
from tests.support.networks import in_double, timm_network, torchvision_network

TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def lively(model: nn.Module) -> nn.Module:
    """Batch norms with statistics and weights that are not trivial, everything in float64."""
    torch.manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
    return model.eval().double()


def folded(model: nn.Module, images: Tensor, *keep: str):
    """A folded copy, what was folded, and the largest difference of outputs, as a share of their range."""
    found = copy.deepcopy(model)
    report = fold_batch_norms(found, Inputs.of(images), [found.get_submodule(name) for name in keep])
    with torch.no_grad():
        before, after = model(images), found(images)
    return found, report, ((before - after).abs().max() / (before.max() - before.min())).item()


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("kind", [CONVOLUTIONS, TRANSPOSED])
def test_every_kind_of_convolution(axes, bias, affine, kind):
    model = lively(nn.Sequential(kind[axes](3, 4, 3, bias=bias, groups=1), NORMS[axes](4, affine=affine), nn.ReLU()))
    found, report, difference = folded(model, images_for(axes).double())
    assert difference < 1e-14
    assert (report.count, report.remaining, report.changed) == (1, 0, ("0",))
    assert report.merged_biases == (("0",) if bias else ())
    assert type(found[1]) is nn.Identity


def test_the_formula():
    model = lively(nn.Sequential(nn.Conv2d(3, 4, 3, groups=1), nn.BatchNorm2d(4)))
    found, _, _ = folded(model, images_for().double())
    scale = model[1].weight / (model[1].running_var + model[1].eps).sqrt()
    torch.testing.assert_close(found[0].weight, model[0].weight * scale[:, None, None, None])
    torch.testing.assert_close(found[0].bias, (model[0].bias - model[1].running_mean) * scale + model[1].bias)


@pytest.mark.parametrize(
    ("name", "count", "left"),
    [
        *(("resnet18", 20, 0), ("vgg11_bn", 8, 0), ("mobilenet_v2", 52, 0), ("densenet121", 59, 62)),
        *(("efficientnet_b0", 49, 0), ("shufflenet_v2_x0_5", 56, 0), ("convnext_tiny", 0, 0)),
    ],
)
def test_architectures(name, count, left):
    model = in_double(torchvision_network(name))
    _, report, difference = folded(model, torch.randn(2, 3, 64, 64, dtype=torch.float64))
    assert (report.count, report.remaining) == (count, left)
    assert difference < 1e-9


def test_a_norm_that_is_an_activation_too():
    model = in_double(timm_network("efficientnet_lite0"))
    found, report, difference = folded(model, torch.randn(2, 3, 64, 64, dtype=torch.float64))
    assert report.count == 49
    assert difference < 1e-9
    assert isinstance(found.bn1.act, nn.ReLU6)


@pytest.mark.parametrize("freeze", FREEZE)
def test_frozen_norms(freeze):
    model = FREEZE[freeze](lively(copy.deepcopy(torchvision_network("resnet18"))))
    _, report, difference = folded(model, torch.randn(2, 3, 64, 64, dtype=torch.float64))
    assert (report.count, report.remaining) == (20, 0)
    assert difference < 1e-12


class SamePadding(nn.Conv2d):
    """Pads as it likes, then convolves."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.pad(x, (0, 1, 0, 1)))


class Standardized(nn.Conv2d):
    """Convolves with weights of its own making."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


@pytest.mark.parametrize(("kind", "count"), [(SamePadding, 1), (Standardized, 0)])
def test_convolutions_of_other_classes(kind, count):
    model = lively(nn.Sequential(kind(3, 4, 3), nn.BatchNorm2d(4)))
    _, report, difference = folded(model, images_for().double())
    assert report.count == count
    assert difference < 1e-14


def test_the_model_goes_on_as_it_was_told():
    model = conv_net()
    found, _, _ = folded(model, images_for())
    assert not any(module.training for module in found.modules())
    found.stem[0].weight.requires_grad_(False)
    again, _, _ = folded(model.requires_grad_(False), images_for())
    assert not any(parameter.requires_grad for parameter in again.parameters())


class Twice(nn.Module):
    """One convolution whose output goes two ways, a norm after one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x + self.norm(x)


class Shared(nn.Module):
    """One norm behind two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.a(x)) + self.norm(self.b(x))


class Again(nn.Module):
    """One convolution that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(self.conv(x)))


class Hidden(nn.Module):
    """A convolution without a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


LEFT_ALONE = {
    "used twice": Twice,
    "a norm that runs twice": Shared,
    "a convolution that runs twice": Again,
    "something between": lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)),
    "in place between": lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.BatchNorm2d(4)),
    "no statistics": lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)),
    "an output": lambda: nn.Sequential(nn.Conv2d(3, 4, 1), Call(lambda x: (x, x)), Call(lambda pair: pair[0])),
    "weight norm": lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 1)), nn.BatchNorm2d(4)),
    "no graph": lambda: nn.Sequential(Hidden(), nn.BatchNorm2d(4)),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_left_alone(name):
    model = lively(LEFT_ALONE[name]())
    _, report, difference = folded(model, images_for().double())
    assert report.count == 0
    assert difference == 0


def test_hooks_see_what_they_saw():
    model = lively(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
    model[0].register_forward_hook(lambda *_: None)
    _, report, _ = folded(model, images_for().double())
    assert report.count == 0


def test_what_is_kept_returns_what_it_did():
    model = lively(conv_net())
    images = images_for().double()
    found, report, _ = folded(model, images, "stem.0")
    assert report.changed == ("features.0",)
    with torch.no_grad():
        assert torch.equal(found.stem[0](images), model.stem[0](images))


def test_containers_that_end_in_the_convolution():
    model = lively(nn.Sequential(nn.Sequential(nn.ReLU(), nn.Conv2d(3, 4, 1)), nn.BatchNorm2d(4)))
    assert set(folded(model, images_for().double())[1].changed) == {"0", "0.1"}
    assert folded(model, images_for().double(), "0")[1].count == 0
