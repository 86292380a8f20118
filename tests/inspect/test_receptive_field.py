"""Receptive fields against the support of gradients, and against numbers known from the literature."""

import copy

import pytest
import torch
from torch import nn

from fastcam import inspect
from tests.support.networks import timm_network, torchvision_network

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("name", "layer", "side"),
    [
        ("resnet18", "conv1", 7),
        ("resnet18", "layer1", 43),
        ("resnet18", "layer2", 99),
        ("resnet18", "layer3", 211),
        ("vgg11", "features", 150),
        ("alexnet", "features", 195),
    ],
)
def test_known_sides(name, layer, side):
    """Araujo, Norris and Sim, "Computing receptive fields of convolutional neural networks", Distill 2019."""
    field = inspect.receptive_field(torchvision_network(name), layer, (448, 448))
    middle = len(field.rows) // 2
    left, top, right, bottom = field.box(middle, middle)
    assert (right - left, bottom - top) == (side, side)
    assert not field.is_whole
    assert str(field) == f"{side} x {side} pixels of 448 x 448"


def support(model, layer, size, position, dtype=torch.float64):
    """left, top, right, bottom of the pixels that reach a unit in any of several random images."""
    model = model.to(dtype)
    generator = torch.Generator().manual_seed(0)
    reached = torch.zeros(size, dtype=torch.bool)
    for _ in range(3):
        images = torch.randn(4, 3, *size, dtype=dtype, generator=generator).requires_grad_()
        seen = []
        handle = model.get_submodule(layer).register_forward_hook(lambda m, i, o, seen=seen: seen.append(o))
        model(images)
        handle.remove()
        unit = seen[0][:, :, position[0], position[1]]
        weights = torch.randn(unit.shape, dtype=dtype, generator=generator)
        (gradient,) = torch.autograd.grad((unit * weights).sum(), images)
        reached |= (gradient != 0).any(0).any(0)
    rows, columns = (reached.any(axis).nonzero()[:, 0] for axis in (1, 0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


NETWORKS = {
    "resnet18": "layer2",
    "resnext50_32x4d": "layer1",
    "wide_resnet50_2": "layer1",
    "vgg11": "features.10",
    "alexnet": "features",
    "squeezenet1_1": "features.7",
    "densenet121": "features.denseblock1",
    "mobilenet_v2": "features.6",
    "mnasnet0_5": "layers.9",
    "shufflenet_v2_x0_5": "stage2",
    "googlenet": "inception3a",
    "inception_v3": "Mixed_5b",
    "regnet_x_400mf": "trunk_output.block2",
    "convnext_tiny": "features.1",
}
TIMM = {
    "repvgg_a0": "stages.1",
    "res2net50_14w_8s": "layer1",
    "darknet53": "stages.1",
    "hardcorenas_a": "blocks.1",
    "vovnet39a": "stages.0",
    "cspresnet50": "stages.0",
}


def smooth(model):
    """Activations whose derivative is zero nowhere, and pooling that reads the whole window."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ReLU | nn.ReLU6 | nn.Hardswish):
                setattr(module, name, nn.Softplus())
            elif isinstance(child, nn.MaxPool2d):
                kernel, stride, padding = child.kernel_size, child.stride, child.padding
                setattr(module, name, nn.AvgPool2d(kernel, stride, padding, child.ceil_mode))
    return model


@pytest.mark.parametrize("name", [*NETWORKS, *TIMM])
def test_the_support_of_gradients(name):
    size = (100, 92)
    known = torchvision_network(name) if name in NETWORKS else timm_network(name)
    model, layer = smooth(copy.deepcopy(known)).double(), {**NETWORKS, **TIMM}[name]
    field = inspect.receptive_field(model.float(), layer, size)
    height, width = len(field.rows), len(field.columns)
    for position in ((height // 2, width // 2), (0, width - 1)):
        expected = (0, 0, size[1], size[0]) if field.is_whole else field.box(*position)
        assert support(model, layer, size, position) == list(expected)


def test_gates_are_said():
    model = torchvision_network("efficientnet_b0")
    field = inspect.receptive_field(model, "features.2", (224, 224))
    assert field.is_whole
    assert "through its gates" in str(field)
    left, top, right, bottom = field.box(20, 20)
    assert right - left == bottom - top < 60
    whole = inspect.receptive_field(model, "features.2", (224, 224), with_gates=True)
    assert whole.box(20, 20) == (0, 0, 224, 224)
    stem = inspect.receptive_field(model, "features.0", (224, 224))
    assert not stem.is_whole


def test_whole_images():
    vit = timm_network("vit_tiny_patch16_224")
    assert inspect.receptive_field(vit, "blocks.0", (224, 224)).box(0, 0) == (0, 0, 224, 224)
    net = torchvision_network("resnet18")
    assert inspect.receptive_field(net, "avgpool", (64, 48)).box(0, 0) == (0, 0, 48, 64)


def test_grey_images_in_any_dtype():
    for dtype in (torch.float64, torch.bfloat16):
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3, stride=2)).to(dtype)
        assert inspect.receptive_field(model, "2", (12, 12), 1).box(1, 2) == (4, 2, 9, 7)


def test_what_is_not_known():
    class Draws(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.never = nn.Conv2d(3, 2, 3), nn.Conv2d(3, 2, 3)

        def forward(self, x):
            return self.layer(x + torch.bernoulli(x.sigmoid()))

    with pytest.raises(RuntimeError, match="the receptive field of 'layer' is not known: the model draws random"):
        inspect.receptive_field(Draws(), "layer", (12, 12))
    net = torchvision_network("googlenet")
    with pytest.raises(RuntimeError, match=r"layer 'aux1\.conv\.conv' was not reached"):
        inspect.receptive_field(net, "aux1.conv.conv", (64, 64))
