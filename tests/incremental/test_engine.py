"""Choice of the engine, error messages of models that need whole forward passes, and groups of windows."""

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
    """Depends on a number read from the image, which its operations do not show."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 7)

    def forward(self, images):
        return self.fc(self.conv(images).mean((2, 3))) * float(images.abs().mean())


class Choosing(Hidden):
    """Selects some features by their values."""

    def forward(self, images):
        features = self.conv(images)
        return self.fc(features.mean((2, 3))) + features[features > 0].mean()


class Remembering(Hidden):
    """Computes a mean in numpy."""

    def forward(self, images):
        mean = torch.tensor([float(value) for value in images.detach().numpy().mean((1, 2, 3))])
        return self.fc(self.conv(images).mean((2, 3))) * mean[:, None]


class Drawing(Hidden):
    """Applies dropout to attention in evaluation mode."""

    def forward(self, images):
        tokens = self.conv(images).flatten(2).mT
        return self.fc(nn.functional.scaled_dot_product_attention(tokens, tokens, tokens, dropout_p=0.5).mean(1))


class TwoInputs(nn.Module):
    """Takes a number per image as a second input."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = small_network("mlp")

    def forward(self, images, numbers):
        return self.inner(images * numbers.view(-1, 1, 1, 1)) + numbers[:, None]


class Viewing(nn.Module):
    """Writes into a view."""

    def forward(self, images):
        images = images * 1.0
        images[:, 0] = 0
        return images.flatten(1)[:, :7]


def vit():
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=7).eval()
    nn.init.normal_(model.heads[0].weight)
    return model


def test_other_models_fall_back_to_whole_passes_and_log_the_reason(caplog):
    images = images_of(1, 3, 32, 32)
    for model in (vit(), Viewing().eval()):
        caplog.clear()
        with caplog.at_level(logging.INFO, "fastcam"):
            actual = fastcam.explain(model, images, "occlusion", 1, window=8, stride=8)
        dense = fastcam.explain(model, images, "occlusion", 1, window=8, stride=8, engine="dense")
        assert torch.equal(actual.native, dense.native)
        assert "occlusion runs the whole model for every window: " in caplog.text


@pytest.mark.parametrize(
    ("model", "images", "reason"),
    [
        (small_network("gap").train(), images_of(2, 3, 9, 11), "training mode"),
        (small_network("gap", axes=1), images_of(2, 3, 13), "two axes"),
        (Viewing().eval(), images_of(1, 3, 32, 32), r"the model writes into a view, by aten\.fill_"),
        (Hidden().eval(), images_of(2, 3, 32, 32), "the model reads numbers computed from the images"),
        (Choosing().eval(), images_of(2, 3, 32, 32), "computes a tensor whose shape depends on the images' values"),
        (Drawing().eval(), images_of(2, 3, 32, 32), "the model draws random numbers"),
        (Remembering().eval(), images_of(2, 3, 32, 32), "it depends on more than the model's operations"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # about the training mode
def test_reasons(model, images, reason):
    with pytest.raises(ValueError, match=f'engine="incremental" cannot be used: .*{reason}'):
        fastcam.explain(model, images, "occlusion", 1, window=4, stride=4, engine="incremental")


def test_masks_and_unknown_engines_raise():
    images = images_of(2, 3, 9, 11)
    mask = torch.ones(3, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="must be a rectangle"):
        fastcam.explain(small_network("gap"), images, "occlusion", 1, window=mask, engine="incremental")
    with pytest.raises(ValueError, match="`engine` must be one of auto, incremental, dense; got 'fast'"):
        fastcam.explain(small_network("gap"), images, "occlusion", 1, engine="fast")


def test_models_that_read_numbers_use_whole_passes():
    torch.manual_seed(0)
    model, images = Hidden().eval(), images_of(1, 3, 32, 32)
    actual, dense = (
        fastcam.explain(model, images, "occlusion", 1, window=12, stride=10, batch_size=1, engine=engine)
        for engine in ("auto", "dense")
    )
    assert torch.equal(actual.native, dense.native)


def test_several_inputs():
    images, numbers = images_of(2, 3, 12, 10), torch.tensor([1.5, -0.5])
    actual, dense = (
        fastcam.explain(TwoInputs().eval(), (images, numbers), "occlusion", 1, window=3, stride=2, engine=engine)
        for engine in ("incremental", "dense")
    )
    assert difference(actual, dense) < 1e-5


class Mixed(nn.Module):
    """Adds float64 features to float32 features."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 7)

    def forward(self, images):
        return self.fc((self.conv(images) + images.double().mean(1, keepdim=True) / 3).relu().mean((2, 3)).float())


def test_several_precisions():
    torch.manual_seed(0)
    actual, dense = both(Mixed().eval(), images_of(2, 3, 24, 30), window=5, stride=4)
    assert difference(actual, dense) < 1e-6


def test_gradient_modes_and_autocast_of_the_caller():
    model, images = small_network("mlp"), images_of(2, 3, 24, 30)
    expected, _ = both(model, images, window=5, stride=4)
    for mode in (torch.inference_mode(), torch.no_grad(), torch.enable_grad()):
        with mode:
            actual, _ = both(model, images.clone(), window=5, stride=4)
        assert torch.equal(actual.native, expected.native)
    with torch.autocast("cpu", torch.bfloat16):
        actual, dense = both(model, images, window=5, stride=4)
    assert difference(actual, dense) < 0.05


def test_batch_sizes():
    model, images = small_network("mlp"), images_of(2, 3, 24, 30)
    expected = None
    for size in (1, 3, "auto"):
        actual, dense = both(model, images, window=5, stride=4, batch_size=size)
        assert difference(actual, dense) < 1e-5
        expected = actual.native if expected is None else expected
        assert torch.allclose(actual.native, expected, atol=1e-6)


def test_buckets_hold_every_window_once():
    """There are fewer buckets than patch sizes, and they cost less than one group."""
    model, some = torchvision_network("resnet18"), windows(13, 32, 16)
    sweep = Sweep(model, photographs()[:1], torch.zeros(1, 3, 224, 224))
    buckets = sweep.buckets(some)
    assert sorted(torch.cat(buckets).tolist()) == list(range(169))
    assert 3 < len(buckets) < 40
    work = sweep.analysis.work
    apart, together = sum(sweep.plan(some[bucket]).cost(work) for bucket in buckets), sweep.plan(some).cost(work)
    least = sum(sweep.plan(window[None]).cost(work) for window in some)
    assert least < apart < least + 0.4 * (together - least)


def test_folding_and_packing_leave_the_model_unchanged():
    model = copy.deepcopy(torchvision_network("resnet18"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sweep = Sweep(model, photographs()[:1], torch.zeros(1, 3, 224, 224))
    assert not any("batch_norm" in operation.name for operation in sweep.analysis.operations)
    sweep(windows(3, 32, 16))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_window_outside_changes_nothing():
    model, image = small_network("gap").double(), images_of(1, 3, 24, 26).double()
    outside = torch.tensor([[[24, 0], [5, 5]], [[30, 40], [5, 5]], [[0, 26], [5, 5]]])
    sweep = Sweep(model, image, torch.zeros_like(image))
    with torch.no_grad():
        torch.testing.assert_close(sweep(outside), model(image).expand(3, -1), rtol=0, atol=1e-14)


def test_gain_counts_multiplications():
    """One convolution of 3 x 3: a window of 1 x 1 changes 3 x 3 of 24 x 26 positions."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)).eval()
    image = images_of(1, 3, 24, 26)
    sweep = Sweep(model, image, torch.zeros_like(image))
    inside = torch.tensor([[[8, 8], [1, 1]], [[9, 12], [1, 1]]])
    assert sweep.gain(inside) == pytest.approx((24 * 26 * 135 + 20) / (9 * 135 + 20))
