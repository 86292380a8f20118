"""Edges of pytorch-grad-cam's interface: feature pyramids, folded frames, rectifiers, refusals."""

import contextlib
import io
from collections import OrderedDict

import numpy as np
import pytest
import pytorch_grad_cam as peer
import torch
from pytorch_grad_cam import guided_backprop as peer_guided
from pytorch_grad_cam.sobel_cam import sobel_cam as peer_sobel
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from fastcam.compat import pytorch_grad_cam as ours
from fastcam.compat.pytorch_grad_cam import ablation_cam_multilayer, guided_backprop
from fastcam.compat.pytorch_grad_cam.sobel_cam import sobel_cam
from fastcam.compat.pytorch_grad_cam.utils import reshape_transforms

pytestmark = pytest.mark.usefixtures("one_thread")


class Pyramid(nn.Module):
    """Five levels of 256 channels each, as the tool's ablation layer expects."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleDict({name: nn.Conv2d(3, 256, 1) for name in ("0", "1", "2", "3", "pool")})

    def forward(self, images):
        return OrderedDict((name, level(images[:, :, ::2, ::2])) for name, level in self.levels.items())


class Detector(nn.Module):
    """A list with one mapping per image."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Pyramid()
        self.head = nn.Linear(1280, 1)

    def forward(self, images):
        levels = torch.cat([level.mean((2, 3)) for level in self.backbone(images).values()], 1)
        return [{"scores": row} for row in 5 + self.head(levels.tanh())]


@pytest.mark.parametrize("ratio", [0.02, 0.05])
def test_ablation_of_a_feature_pyramid(ratio):
    torch.manual_seed(0)
    model, images, maps = Detector().eval(), torch.rand(2, 3, 8, 8), []
    for module in (ours, peer):
        cam = module.AblationCAM(
            model,
            [model.backbone],
            reshape_transforms.fasterrcnn_reshape_transform,
            module.AblationLayerFasterRCNN(),
            ratio_channels_to_ablate=ratio,
        )
        with contextlib.redirect_stderr(io.StringIO()):
            maps.append(cam(images, [lambda output: output["scores"].sum()] * 2))
    assert maps[1].max() > maps[1].min()
    assert maps[0].shape == maps[1].shape
    assert np.abs(maps[0] - maps[1]).max() < 1e-3


class Clip(nn.Module):
    """(T, 3, H, W) to (1, classes)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.rnn, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 4)

    def forward(self, frames):
        return self.head(self.rnn(self.conv(frames).relu().mean((2, 3))[None])[0][:, -1])


@pytest.mark.parametrize("name", ["GradCAM", "LayerCAM", "HiResCAM"])
def test_frames_folded_into_the_batch(name):
    torch.manual_seed(0)
    model, frames = Clip().eval(), torch.rand(5, 3, 16, 16)
    found, expected = (getattr(m, name)(model, [model.conv])(frames, [ClassifierOutputTarget(1)]) for m in (ours, peer))
    assert found.shape == expected.shape == (5, 16, 16)
    assert expected.max() > expected.min()
    assert np.abs(found - expected).max() < 1e-4
    with pytest.raises(ValueError, match="for each of the 1 rows of the output, got 2"):
        getattr(ours, name)(model, [model.conv])(frames, [ClassifierOutputTarget(1)] * 2)


class Pair(nn.Module):
    """A tuple of scores and features."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images):
        features = self.conv(images)
        return features.mean((2, 3)), features


@pytest.mark.parametrize("targets", [None, [ClassifierOutputTarget(1)], [lambda row: row.sum()]])
def test_refusals_name_what_the_class_can_do(targets):
    model, images = Pair().eval(), torch.rand(1, 3, 8, 8)
    cam = ours.GradCAM(model, [model.conv])
    with pytest.raises(TypeError, match="got a tuple: explain a module that returns only the scored part"):
        cam(images, targets)
    with pytest.raises(TypeError, match=r"`input_tensor` must be a tensor .* got a tuple"):
        cam((images, images), targets)


@pytest.mark.parametrize("as_module", [False, True])
def test_guided_rectifier(as_module):
    results = []
    for module in (guided_backprop, peer_guided):
        given = torch.linspace(-2, 2, 9, dtype=torch.float64, requires_grad=True)
        relu = module.GuidedBackpropReLUasModule() if as_module else module.GuidedBackpropReLU.apply
        output = relu(given)
        output.backward(torch.tensor([1.0, -1, 2] * 3, dtype=torch.float64))
        results.append((output.detach(), given.grad))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))
    assert results[0][1].sum() > 0


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_edges_of_an_image(dtype):
    image = np.random.default_rng(0).integers(0, 256, (9, 11, 3)).astype(dtype)
    assert np.array_equal(sobel_cam(image), peer_sobel(image))


def test_star_import():
    names = {}
    exec("from fastcam.compat.pytorch_grad_cam import *", names)
    theirs = {}
    exec("from pytorch_grad_cam import *", theirs)
    assert set(theirs) <= set(names) | {"pytorch_grad_cam"}
    assert ablation_cam_multilayer.AblationCAM is ours.AblationCAM
