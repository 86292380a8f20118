"""Models of several inputs, signals, volumes, grey and many-channel images, for every method."""

import captum.attr
import pytest
import torch
from torch import Tensor, nn

import fastcam
from tests.support.conv_net import conv_net, images_for, suited
from tests.support.engine_cases import METHODS

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIONS = {"rise": {"masks": 9}, "integrated_gradients": {"steps": 5}, "smooth_grad": {"samples": 3}}
AGES = torch.tensor([[0.3, -1.0], [2.0, 0.5], [-0.7, 1.1]])


class WithMetadata(nn.Module):
    """Pixels, two numbers an image, one row for all, and a word."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.net, self.embed = net, nn.Linear(2, 5)

    def forward(self, images: Tensor, ages: Tensor, offset: Tensor, word: str) -> Tensor:
        assert word == "adults"
        return self.net(images) * (1 + self.embed(ages).tanh()) + offset


class Closure(nn.Module):
    """The same with everything but the pixels built in."""

    def __init__(self, model: WithMetadata, *others) -> None:
        super().__init__()
        self.model, self.others = model, others

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images, *self.others)


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("cam", "gmp_cam")])  # not their head
def test_several_inputs(method):
    """One image at a time through the closure, which could not tell the rows of a batch of copies."""
    model, images, offset = WithMetadata(conv_net()).eval(), images_for(count=3), torch.ones(5)
    options = OPTIONS.get(method, {})
    inputs = (images, AGES, offset, "adults")
    found = fastcam.explain(model, inputs, method, [1, 4, 0], "net.relu", batch_size=4, **options)
    assert torch.equal(found.images, images)
    for i in range(3):
        one = Closure(model, AGES[i : i + 1], offset, "adults").eval()
        expected = fastcam.explain(one, images[i : i + 1], method, [[1, 4, 0][i]], "model.net.relu", **options)
        torch.testing.assert_close(found.native[i], expected.native[0], rtol=1e-4, atol=1e-6)


def test_captum_with_additional_arguments():
    model, images = WithMetadata(conv_net()).eval().double(), images_for(count=3).double()
    others = (AGES.double(), torch.ones(5).double())
    class_ = torch.tensor([1, 4, 0])
    found = fastcam.explain(model, (images, *others, "adults"), "integrated_gradients", class_, steps=6)
    peer = captum.attr.IntegratedGradients(model)
    expected = peer.attribute(
        images, 0.0, class_, additional_forward_args=(others[0], others[1].expand(3, 5), "adults"), n_steps=6
    )
    torch.testing.assert_close(found.attributions, expected, rtol=1e-6, atol=1e-9)


def test_two_branches_of_images():
    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = conv_net()

        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return self.net(left) * self.net(right).detach()

    model, left, right = Twins().eval(), images_for(), images_for(seed=5)
    found = fastcam.explain(model, (left, right), "saliency", 1).attributions
    leaf = left.clone().requires_grad_()
    (expected,) = torch.autograd.grad(model(leaf, right)[:, 1].sum(), leaf)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize("method", METHODS)
def test_signals_and_volumes(method, axes):
    model, layer = conv_net(axes=axes, pooling="max" if method == "gmp_cam" else "mean"), suited(method)[1]
    images, options = images_for(axes), OPTIONS.get(method, {})
    explanation = fastcam.explain(model, images, method, [[0, 3], [1, 4]], layer, **options)
    assert explanation.maps.shape == (2, 2, *images.shape[2:])
    assert all("non-finite" not in status for status in explanation.status)
    assert any("ok" in status for status in explanation.status)
    single = fastcam.explain(model, images[1:], method, 4, layer, **options)
    torch.testing.assert_close(explanation.native[1, 1], single.native[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 7])
@pytest.mark.parametrize("method", [name for name in METHODS if name != "gmp_cam"])
def test_grey_and_many_channels(method, channels):
    """A first layer that turns so many channels into three: pixels behind it get the map they get without it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(channels, 3, 1), conv_net()).eval()
    images = torch.randn(2, channels, 12, 10)
    explanation = fastcam.explain(model, images, method, 1, "1.relu", **OPTIONS.get(method, {}))
    assert explanation.maps.shape == (2, 12, 10)
    assert explanation.status == ["ok", "ok"]
    if explanation.attributions is not None:
        assert explanation.attributions.shape == images.shape


@pytest.mark.parametrize(
    ("inputs", "error", "text"),
    [
        ((), ValueError, "`images` must be a tensor or a tuple of the model's arguments, got an empty tuple"),
        (("adults", "young"), TypeError, r"`images` must be a floating point tensor \(N, C, ...\), got str"),
        (
            (torch.ones(3), AGES),
            ValueError,
            r"`images` must have shape \(N, C, ...\) with at least one image, got \(3,\)",
        ),
    ],
)
def test_mistakes(inputs, error, text):
    with pytest.raises(error, match=text):
        fastcam.explain(conv_net(), inputs)


class Layouts(nn.Module):
    """A network that notes in what memory layout its convolutions return maps."""

    def __init__(self, channels):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.body, self.head = nn.Conv2d(channels, 4, 3), nn.Conv2d(4, 5, 3), nn.Linear(5, 3)
        self.seen = set()

    def forward(self, x):
        for layer in (self.stem, self.body):
            x = layer(x).relu()
            self.seen.add(x.stride(1) == 1)
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("occlusion", {"window": 3, "stride": 3, "engine": "dense"}),
        ("score_cam", {"target_layer": "body"}),
        ("rise", {"masks": 8, "grid": 3}),
        ("integrated_gradients", {"steps": 4}),
    ],
)
def test_copies_are_channels_last_whatever_their_channels(method, options, channels):
    """In memory one channel looks the same in any layout: convolutions go by the strides."""
    model, images = Layouts(channels).eval(), torch.randn(2, channels, 12, 10)
    found = fastcam.explain(model, images, method, 1, **options)
    assert model.seen == {True} or method == "score_cam"  # whose first pass is in the images' own layout
    model.seen.clear()
    alone = fastcam.explain(model, images[:1], method, 1, **options)
    torch.testing.assert_close(found.native[:1], alone.native, rtol=1e-4, atol=1e-5)
    assert True in model.seen
