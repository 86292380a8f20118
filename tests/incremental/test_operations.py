"""Occlusion from patches through less common operations, one by one and in random networks."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.incremental.sweeps import both, difference, localities, windows

pytestmark = pytest.mark.usefixtures("one_thread")


class Between(nn.Module):
    """A convolution, a function, and a head that depends on every position."""

    def __init__(self, function, channels=4, after=None) -> None:
        super().__init__()
        self.stem, self.function = nn.Conv2d(3, channels, 3, padding=1), function
        self.late = nn.Conv2d(after or channels, 4, 3, padding=1)
        self.fc = nn.LazyLinear(7)

    def forward(self, images):
        features = self.function(torch.tanh(self.stem(images)))
        return self.fc(torch.tanh(self.late(features)).flatten(1))


def between(function, after=None):
    torch.manual_seed(0)
    model = Between(function, after=after).double().eval()
    model(images_of(1))  # sizes the lazy layer
    return model


def images_of(count=2):
    return torch.randn(count, 3, 40, 47, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def shuffled(x):
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def channels_last_block(x):
    normed = F.layer_norm(x.permute(0, 2, 3, 1), (4,))
    return x + (F.gelu(F.linear(normed, WEIGHT)) * SCALE).permute(0, 3, 1, 2)


def tokens(x):
    rows = x.flatten(2).transpose(1, 2)
    return F.linear(F.layer_norm(rows, (4,)), WEIGHT).transpose(1, 2).reshape(x.shape)


def norm_over_channels(x):
    mean = x.mean(1, keepdim=True)
    return (x - mean) / ((x - mean).pow(2).mean(1, keepdim=True) + 1e-6).sqrt()


WEIGHT = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
SCALE = torch.tensor([0.5, -1.0, 2.0, 0.1], dtype=torch.float64)
ONES = torch.ones(4, 1, 3, 3, dtype=torch.float64)

PATCHED = {
    "average ceil": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
    "average": lambda x: F.avg_pool2d(x, (2, 3), (1, 2)),
    "max ceil": lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    "max dilated": lambda x: F.max_pool2d(x, 3, 1, 1, dilation=2),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (13, 16)),
    "nearest": lambda x: F.interpolate(F.avg_pool2d(x, 2), scale_factor=2),
    "bilinear": lambda x: F.interpolate(x, (31, 55), mode="bilinear"),
    "aligned corners": lambda x: F.interpolate(x, (61, 40), mode="bilinear", align_corners=True),
    "bicubic": lambda x: F.interpolate(x, (60, 60), mode="bicubic"),
    "antialias": lambda x: F.interpolate(x, (23, 20), mode="bilinear", antialias=True),
    "reflect": lambda x: F.pad(x, (2, 3, 1, 4), mode="reflect"),
    "replicate": lambda x: F.pad(x, (2, 3, 1, 4), mode="replicate"),
    "zeros": lambda x: F.pad(x, (2, 3, 1, 4)),
    "cut": lambda x: F.pad(x, (-2, 3, -5, 0))[..., 1:-1],
    "every second": lambda x: x[:, :, ::2, 1::2],
    "transposed": lambda x: F.relu(x.transpose(2, 3)).transpose(2, 3),
    "shuffled": shuffled,
    "channels last": channels_last_block,
    "tokens": tokens,
    "norm over channels": norm_over_channels,
    "softmax": lambda x: F.softmax(x, 1) * x.amax(1, keepdim=True),
    "gated": lambda x: F.glu(torch.cat([x, x.sigmoid()], 1), 1),
    "split": lambda x: torch.cat([a * b for a, b in [x.chunk(2, 1)]] + [torch.maximum(*x.split(2, 1))], 1),
    "constants": lambda x: x * SCALE.view(1, 4, 1, 1) - 2,
    "itself": lambda x: x + x * x,
    "reach": lambda x: x + F.conv2d(x, ONES, padding=3, dilation=3, groups=4),
    "circular": lambda x: F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), ONES, groups=4),
}
WHOLE = {
    "group norm": lambda x: F.group_norm(x, 2),
    "gates": lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(),
    "adaptive max": lambda x: F.adaptive_max_pool2d(x, (13, 16)),
    "positions": lambda x: x * torch.linspace(0, 1, 47, dtype=x.dtype),
    "transposed convolution": lambda x: F.conv_transpose2d(x, ONES, stride=2, groups=4),
    "attention": lambda x: F.scaled_dot_product_attention(*[x.flatten(2).transpose(1, 2)] * 3).mT.reshape(x.shape),
    "rolled": lambda x: x.roll(20, 3),
}
AFTER = {"softmax": 4, "gated": 4, "split": 4}


@pytest.mark.parametrize("name", [*PATCHED, *WHOLE])
def test_operations(name):
    function = PATCHED[name] if name in PATCHED else WHOLE[name]
    model = between(function, AFTER.get(name))
    assert difference(*both(model, images_of(), window=6, stride=7)) < 1e-12


@pytest.mark.parametrize("name", PATCHED)
def test_patches_continue_after_the_operation(name):
    """The late convolution still runs on patches."""
    model = between(PATCHED[name], AFTER.get(name))
    patched = localities(model, images_of(1), windows(3, 4, 6) + torch.tensor([[12], [0]]))
    assert patched[0] is not None
    assert patched[-1] is not None


class InPlace(nn.Module):
    """Writes in place into tensors read before and tensors read again."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.fc = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 7)

    def forward(self, images):
        first = self.one(images)
        second = self.two(first)
        first.relu_()
        second += first
        second.mul_(0.7).clamp_(min=-0.2)
        return self.fc(second.mean((2, 3)))


def test_operations_in_place():
    torch.manual_seed(0)
    assert difference(*both(InPlace().double().eval(), images_of(), window=5, stride=6)) < 1e-12


@st.composite
def networks(draw):
    """A small network of convolutions and poolings, some with a branch."""
    torch.manual_seed(draw(st.integers(0, 1000)))
    layers, channels = [], 3
    for _ in range(draw(st.integers(1, 4))):
        kernel, stride, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
        padding = draw(st.integers(0, kernel // 2))
        kind = draw(st.sampled_from(["conv", "depthwise", "max", "average", "branch", "norm", "resize"]))
        if kind == "conv":
            after = draw(st.sampled_from([2, 4, 6]))
            mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
            layers.append(nn.Conv2d(channels, after, kernel, stride, padding, dilation, padding_mode=mode))
            channels = after
        elif kind == "depthwise":
            layers.append(nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels))
        elif kind == "max":
            layers.append(nn.MaxPool2d(kernel, stride, padding, ceil_mode=draw(st.booleans())))
        elif kind == "average":
            include = draw(st.booleans())
            layers.append(nn.AvgPool2d(kernel, stride, padding, draw(st.booleans()), include))
        elif kind == "branch":
            layers.append(Branch(channels, draw(st.booleans())))
            channels *= 1 if layers[-1].adds else 2
        elif kind == "resize":
            layers.append(nn.Upsample(scale_factor=draw(st.sampled_from([0.7, 1.5, 2.0])), mode="bilinear"))
        else:
            layers.append(nn.BatchNorm2d(channels))
        layers.append(draw(st.sampled_from([nn.ReLU(), nn.SiLU(), nn.Identity(), nn.Sigmoid()])))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 4)).double().eval()


class Branch(nn.Module):
    """Two paths with different receptive fields, added or concatenated."""

    def __init__(self, channels: int, adds: bool) -> None:
        super().__init__()
        self.near, self.far = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 5, padding=2)
        self.adds = adds

    def forward(self, features):
        near, far = self.near(features), self.far(features)
        return near + far if self.adds else torch.cat([near, far], 1)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(networks(), st.integers(26, 40), st.integers(26, 40), st.integers(1, 12), st.integers(3, 9))
def test_random_networks(model, height, width, window, stride):
    images = torch.randn(1, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            model(images)
    except RuntimeError:
        return  # maps too small for the next layer
    actual, expected = both(model, images, target=(1,), window=window, stride=stride)
    scale = expected.details["grid"].abs().max()
    assert (actual.details["grid"] - expected.details["grid"]).abs().max() <= 1e-12 * scale
