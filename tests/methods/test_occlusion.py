"""Occlusion and RISE against plain loops."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastcam
from fastcam.methods.baselines import baseline_images
from tests.support.conv_net import SIZES, conv_net, images_for
from tests.support.networks import in_double

pytestmark = pytest.mark.usefixtures("one_thread")

K = [[0, 4, 2], [1, 1, 3]]
DISC = (torch.arange(5) - 2)[:, None] ** 2 + (torch.arange(5) - 2) ** 2 <= 4


def starts(length: int, window: int, stride: int) -> list[int]:
    """Multiples of the stride, up to the first window that reaches the border."""
    found = [0]
    while found[-1] + window < length:
        found.append(found[-1] + stride)
    return found


def loop(model: nn.Module, images: Tensor, score, shape: Tensor, stride, filling: Tensor) -> tuple[Tensor, Tensor]:
    """The map by one forward pass per window and the mean over the windows on every pixel; and the grid of scores."""
    size = images.shape[2:]
    clean = score(model(images))
    total, count, grid = torch.zeros(len(images), *size).double(), torch.zeros(size).double(), []
    places = [starts(n, w, s) for n, w, s in zip(size, shape.shape, stride, strict=True)]
    for start in itertools.product(*places):
        hidden = torch.zeros(size, dtype=torch.bool)
        for offset in shape.nonzero().tolist():
            position = tuple(s + o for s, o in zip(start, offset, strict=True))
            if all(p < n for p, n in zip(position, size, strict=True)):
                hidden[position] = True
        grid.append(score(model(torch.where(hidden, filling, images))))
        total[:, hidden] += (clean - grid[-1])[:, None]
        count[hidden] += 1
    return total / count.clamp(min=1), torch.stack(grid, 1).unflatten(1, [len(each) for each in places])


def network(**options) -> nn.Module:
    return in_double(conv_net(**options))


@torch.no_grad()
def check(images: Tensor, model: nn.Module, window, stride, baseline=0.0, **options) -> fastcam.Explanation:
    axes = images.dim() - 2
    explanation = fastcam.explain(
        model, images, "occlusion", 1, window=window, stride=stride, baseline=baseline, **options
    )
    sides = (window,) * axes if isinstance(window, int) else window
    shape = window if isinstance(window, Tensor) else torch.ones(sides, dtype=torch.bool)
    steps = (stride,) * axes if isinstance(stride, int) else stride
    filling = baseline_images(images, baseline)
    expected, grid = loop(model, images, lambda output: output[:, 1], shape, steps, filling)
    torch.testing.assert_close(explanation.raw, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(explanation.details["grid"], grid, rtol=1e-9, atol=1e-12)
    return explanation


@pytest.mark.parametrize("window", [3, 4, (5, 2), (12, 10), (1, 10), DISC, torch.eye(4, dtype=torch.bool)], ids=str)
@pytest.mark.parametrize("stride", [1, 3, (2, 5), 7])
def test_windows_and_strides(window, stride):
    check(images_for().double(), network(), window, stride)


@pytest.mark.parametrize(
    "baseline",
    [0.7, [0.1, 0.2, -0.3], torch.ones(3, 12, 10), torch.ones(2, 3, 12, 10), "blur", "noise"],
    ids=["number", "colour", "image", "one per image", "blur", "noise"],
)
@pytest.mark.parametrize("window", [4, DISC], ids=["square", "disc"])
def test_baselines(baseline, window):
    check(images_for().double(), network(), window, 3, baseline)


@pytest.mark.parametrize(
    ("axes", "window"),
    [(1, 5), (3, (2, 3, 4)), (1, torch.tensor([True, False, True])), (3, torch.ones(2, 2, 2).tril().bool())],
    ids=["signal", "volume", "comb", "wedge"],
)
def test_signals_and_volumes(axes, window):
    check(images_for(axes).double(), network(axes=axes), window, 2)


@pytest.mark.parametrize("channels", [1, 7])
def test_grey_and_many_channels(channels):
    model = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))
    check(torch.randn(2, channels, 9, 8).double(), model.double().eval(), 3, 2)


def test_default_window_and_stride():
    images = torch.randn(1, 3, 224, 223)
    explanation = fastcam.explain(conv_net(), images, "occlusion", 1)
    same = fastcam.explain(conv_net(), images, "occlusion", 1, window=32, stride=16)
    assert torch.equal(explanation.raw, same.raw)
    assert explanation.details["grid"].shape == (1, 13, 13)


def test_pixels_under_no_window():
    explanation = fastcam.explain(conv_net(), images_for(), "occlusion", 1, window=2, stride=5)
    covered = torch.zeros(12, 10, dtype=torch.bool)
    for y, x in itertools.product(starts(12, 2, 5), starts(10, 2, 5)):
        covered[y : y + 2, x : x + 2] = True
    assert not covered.all()
    assert explanation.raw[:, ~covered].eq(0).all()


@torch.no_grad()
def test_grids_of_probabilities_and_top_classes():
    """Zeiler and Fergus, figures d and e."""
    model, images = network(), images_for().double()
    details = fastcam.explain(model, images, "occlusion", K, window=6, stride=4).details
    probabilities, classes = torch.empty(2, 3, 3, 2), torch.empty(2, 3, 2)
    for (i, y), (j, x) in itertools.product(enumerate(starts(12, 6, 4)), enumerate(starts(10, 6, 4))):
        hidden = images.clone()
        hidden[:, :, y : y + 6, x : x + 6] = 0
        output = model(hidden)
        probabilities[:, :, i, j] = output.softmax(1).gather(1, torch.tensor(K)).float()
        classes[:, i, j] = output.argmax(1)
    torch.testing.assert_close(details["probability"].float(), probabilities)
    assert torch.equal(details["top_class"].float(), classes)
    as_target = fastcam.explain(model, images, "occlusion", fastcam.targets.Probability(K), window=6, stride=4)
    torch.testing.assert_close(as_target.details["grid"], details["probability"])


@torch.no_grad()
@pytest.mark.parametrize("channel", [None, 2])
def test_change_of_the_total_activation_of_a_layer(channel):
    """Zeiler and Fergus, figure b."""
    model, images = network(inplace=False), images_for().double()
    target = fastcam.targets.Neuron("relu", channel, "sum")
    explanation = fastcam.explain(model, images, "occlusion", target, window=4, stride=3)

    def total(x: Tensor) -> Tensor:
        maps = model.relu(model.features(model.stem(x)))
        return (maps if channel is None else maps[:, channel]).flatten(1).sum(1)

    shape = torch.ones(4, 4, dtype=torch.bool)
    expected, grid = loop(total, images, lambda output: output, shape, (3, 3), torch.zeros_like(images))
    torch.testing.assert_close(explanation.raw, expected)
    torch.testing.assert_close(explanation.details["grid"], grid)
    assert set(explanation.details) == {"grid"}


def test_several_targets_are_the_single_ones():
    together = fastcam.explain(conv_net(), images_for(), "occlusion", K, window=4, stride=3)
    for k in range(3):
        alone = fastcam.explain(conv_net(), images_for(), "occlusion", [row[k] for row in K], window=4, stride=3)
        torch.testing.assert_close(together.raw[:, k], alone.raw, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"window": 0}, "`window` must be a positive whole number or 2 of them, got 0"),
        ({"window": (3, 3, 3)}, r"`window` must be a positive whole number or 2 of them, got \(3, 3, 3\)"),
        ({"window": 11}, r"`window` must fit into images of size \(12, 10\), got \(11, 11\)"),
        (
            {"window": torch.zeros(3, 3, dtype=torch.bool)},
            "`window` as a tensor must be bool with 2 axes and at least one True",
        ),
        ({"window": torch.ones(3, 3)}, "`window` as a tensor must be bool with 2 axes .* got torch.float32"),
        ({"stride": -1}, "`stride` must be a positive whole number or 2 of them, got -1"),
        ({"baseline": torch.zeros(5)}, "`baseline` must be a number or have shape"),
        ({"baseline": "black"}, '`baseline` must be a number, a tensor, "blur" or "noise", got \'black\''),
    ],
)
def test_bad_options(options, text):
    with pytest.raises(ValueError, match=text):
        fastcam.explain(conv_net(), images_for(), "occlusion", **options)


# --- RISE -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_rise(axes):
    """Sum of y(x M_i) M_i / (p masks), the M_i coarse grids, upsampled by whole cells and shifted by less than one."""
    model, images, masks, grid, probability = network(axes=axes), images_for(axes).double(), 9, 3, 0.4
    size = SIZES[axes]
    generator = torch.Generator().manual_seed(5)
    coarse = (torch.rand((masks, *[grid] * axes), generator=generator) < probability).double()
    cells = [-(-length // grid) for length in size]
    shifts = torch.stack([torch.randint(cell, (masks,), generator=generator) for cell in cells], 1).tolist()
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[axes]
    expected = 0
    for each, shift in zip(coarse, shifts, strict=True):
        large = F.interpolate(each[None, None], [(grid + 1) * cell for cell in cells], mode=mode)[0, 0]
        mask = large[tuple(slice(s, s + n) for s, n in zip(shift, size, strict=True))]
        expected = expected + model(images * mask)[:, 1].reshape(-1, *[1] * axes) * mask
    explanation = fastcam.explain(model, images, "rise", 1, masks=masks, grid=grid, probability=probability, seed=5)
    torch.testing.assert_close(explanation.raw, expected / (masks * probability), rtol=1e-9, atol=1e-12)


def test_rise_finds_the_pixel_that_counts():
    class Peeks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :, 20, 9].sum(1, keepdim=True)

    raw = fastcam.explain(Peeks().eval(), torch.ones(1, 3, 35, 28), "rise", 0, masks=500).raw[0]
    y, x = divmod(raw.argmax().item(), 28)
    assert abs(y - 20) <= 2
    assert abs(x - 9) <= 2


@pytest.mark.parametrize("options", [{"masks": 0}, {"grid": 0}, {"probability": 0}, {"probability": 1.5}])
def test_bad_options_of_rise(options):
    with pytest.raises(ValueError, match=r"`masks` and `grid` must be positive .* `probability` in \(0, 1\]"):
        fastcam.explain(conv_net(), images_for(), "rise", **options)
