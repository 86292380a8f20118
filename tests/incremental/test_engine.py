"""Which engine runs, what it says where it cannot, and how windows are put together."""

import copy
import logging

import pytest
import torch
import torchvision
from torch import nn

import fastcam
from fastcam.incremental import Sweep
from tests.incremental.sweeps import both, difference, windows
from tests.support.networks import photographs, small_network, torchvision_network

pytestmark = pytest.mark.usefixtures("one_thread")


def images_of(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


class Hidden(nn.Module):
    """Depends on more than its operations show: a number read from the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 7)

    def forward(self, images):
        return self.fc(self.conv(images).mean((2, 3))) * float(images.abs().mean())


class Choosing(Hidden):
    """Keeps some of its features."""

    def forward(self, images):
        features = self.conv(images)
        return self.fc(features.mean((2, 3))) + features[features > 0].mean()


class Remembering(Hidden):
    """Takes a way around torch."""

    def forward(self, images):
        mean = torch.tensor([float(each) for each in images.detach().numpy().mean((1, 2, 3))])
        return self.fc(self.conv(images).mean((2, 3))) * mean[:, None]


class Drawing(Hidden):
    """Drops some of what it attends to, although it does not train."""

    def forward(self, images):
        tokens = self.conv(images).flatten(2).mT
        return self.fc(nn.functional.scaled_dot_product_attention(tokens, tokens, tokens, dropout_p=0.5).mean(1))


class TwoInputs(nn.Module):
    """Another number for every image, beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = small_network("mlp")

    def forward(self, images, numbers):
        return self.inner(images * numbers.view(-1, 1, 1, 1)) + numbers[:, None]


class Viewing(nn.Module):
    """Writes into a view of what it has."""

    def forward(self, images):
        images = images * 1.0
        images[:, 0] = 0
        return images.flatten(1)[:, :7]


def vit():
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=7).eval()
    nn.init.normal_(model.heads[0].weight)
    return model


def test_models_that_cannot_run_whole_and_say_why(caplog):
    images = images_of(1, 3, 32, 32)
    for model in (vit(), Viewing().eval()):
        caplog.clear()
        with caplog.at_level(logging.INFO, "fastcam"):
            found = fastcam.explain(model, images, "occlusion", 1, window=8, stride=8)
        dense = fastcam.explain(model, images, "occlusion", 1, window=8, stride=8, engine="dense")
        assert torch.equal(found.native, dense.native)
        assert "occlusion runs the whole model for every window: " in caplog.text


@pytest.mark.parametrize(
    ("model", "images", "sentence"),
    [
        (small_network("gap").train(), images_of(2, 3, 9, 11), "training mode"),
        (small_network("gap", axes=1), images_of(2, 3, 13), "two axes"),
        (Viewing().eval(), images_of(1, 3, 32, 32), "the model writes into a view, by aten.fill_.Scalar"),
        (Hidden().eval(), images_of(2, 3, 32, 32), "the model reads numbers that it has computed from the images"),
        (Choosing().eval(), images_of(2, 3, 32, 32), "returns as many elements as the images' values say"),
        (Drawing().eval(), images_of(2, 3, 32, 32), "the model draws random numbers"),
        (Remembering().eval(), images_of(2, 3, 32, 32), "it depends on more than its operations"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # of the training mode
def test_sentences(model, images, sentence):
    with pytest.raises(ValueError, match=f'engine="incremental" cannot be used: .*{sentence}'):
        fastcam.explain(model, images, "occlusion", 1, window=4, stride=4, engine="incremental")


def test_windows_of_any_shape_and_engines_that_are_not():
    images = images_of(2, 3, 9, 11)
    mask = torch.ones(3, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="must be a rectangle"):
        fastcam.explain(small_network("gap"), images, "occlusion", 1, window=mask, engine="incremental")
    with pytest.raises(ValueError, match="`engine` must be one of auto, incremental, dense; got 'fast'"):
        fastcam.explain(small_network("gap"), images, "occlusion", 1, engine="fast")


def test_models_that_read_numbers_run_whole():
    torch.manual_seed(0)
    model, images = Hidden().eval(), images_of(1, 3, 32, 32)
    found, dense = (
        fastcam.explain(model, images, "occlusion", 1, window=12, stride=10, batch_size=1, engine=each)
        for each in ("auto", "dense")
    )
    assert torch.equal(found.native, dense.native)


def test_several_inputs():
    images, numbers = images_of(2, 3, 12, 10), torch.tensor([1.5, -0.5])
    found, dense = (
        fastcam.explain(TwoInputs().eval(), (images, numbers), "occlusion", 1, window=3, stride=2, engine=each)
        for each in ("incremental", "dense")
    )
    assert difference(found, dense) < 1e-5


class Mixed(nn.Module):
    """Adds what is more precise to what is less."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 7)

    def forward(self, images):
        return self.fc((self.conv(images) + images.double().mean(1, keepdim=True) / 3).relu().mean((2, 3)).float())


def test_several_precisions():
    torch.manual_seed(0)
    found, dense = both(Mixed().eval(), images_of(2, 3, 24, 30), window=5, stride=4)
    assert difference(found, dense) < 1e-6


def test_whatever_mode_the_caller_is_in():
    model, images = small_network("mlp"), images_of(2, 3, 24, 30)
    expected, _ = both(model, images, window=5, stride=4)
    for mode in (torch.inference_mode(), torch.no_grad(), torch.enable_grad()):
        with mode:
            found, _ = both(model, images.clone(), window=5, stride=4)
        assert torch.equal(found.native, expected.native)
    with torch.autocast("cpu", torch.bfloat16):
        found, dense = both(model, images, window=5, stride=4)
    assert difference(found, dense) < 0.05


def test_batch_sizes():
    model, images = small_network("mlp"), images_of(2, 3, 24, 30)
    expected = None
    for size in (1, 3, "auto"):
        found, dense = both(model, images, window=5, stride=4, batch_size=size)
        assert difference(found, dense) < 1e-5
        expected = found.native if expected is None else expected
        assert torch.allclose(found.native, expected, atol=1e-6)


def test_buckets_hold_every_window_once():
    """Fewer than there are sizes of patches, and cheaper than all together."""
    model, some = torchvision_network("resnet18"), windows(13, 32, 16)
    sweep = Sweep(model, photographs()[:1], torch.zeros(1, 3, 224, 224))
    buckets = sweep.buckets(some)
    assert sorted(torch.cat(buckets).tolist()) == list(range(169))
    assert 3 < len(buckets) < 40
    work = sweep.known.work
    apart, together = sum(sweep.plan(some[each]).cost(work) for each in buckets), sweep.plan(some).cost(work)
    least = sum(sweep.plan(each[None]).cost(work) for each in some)
    assert least < apart < least + 0.4 * (together - least)


def test_weights_are_folded_and_packed_without_a_trace():
    model = copy.deepcopy(torchvision_network("resnet18"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sweep = Sweep(model, photographs()[:1], torch.zeros(1, 3, 224, 224))
    assert not any("batch_norm" in each.name for each in sweep.known.operations)
    sweep(windows(3, 32, 16))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_window_outside_changes_nothing():
    model, image = small_network("gap").double(), images_of(1, 3, 24, 26).double()
    outside = torch.tensor([[[24, 0], [5, 5]], [[30, 40], [5, 5]], [[0, 26], [5, 5]]])
    sweep = Sweep(model, image, torch.zeros_like(image))
    with torch.no_grad():
        torch.testing.assert_close(sweep(outside), model(image).expand(3, -1), rtol=0, atol=1e-14)


def test_the_gain_is_that_of_the_multiplications():
    """One convolution of 3 x 3: a window of 1 x 1 changes 3 x 3 of 24 x 26 places."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)).eval()
    image = images_of(1, 3, 24, 26)
    sweep = Sweep(model, image, torch.zeros_like(image))
    inside = torch.tensor([[[8, 8], [1, 1]], [[9, 12], [1, 1]]])
    assert sweep.gain(inside) == pytest.approx((24 * 26 * 135 + 20) / (9 * 135 + 20))
