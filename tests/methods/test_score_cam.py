"""Score-CAM against its formula."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fastcam
from tests.support.conv_net import conv_net, images_for
from tests.support.networks import in_double

pytestmark = pytest.mark.usefixtures("one_thread")

K = [[0, 4, 2], [1, 1, 3]]
MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


@torch.no_grad()
def formula(axes: int, score, channels: int | None = None) -> Tensor:
    """ReLU(sum_k softmax_k(y(x M_k)) A_k), M_k the upsampled channel from 0 to 1; one forward pass per channel."""
    model, images = in_double(conv_net(axes=axes, inplace=False)), images_for(axes).double()
    activations = model.features(model.stem(images))
    masks = F.interpolate(activations, images.shape[2:], mode=MODES[axes], align_corners=False)
    spatial = list(range(2, masks.dim()))
    low, high = masks.amin(spatial, keepdim=True), masks.amax(spatial, keepdim=True)
    masks = (masks - low) / (high - low)
    scores = torch.stack([score(model(images * masks[:, k : k + 1])) for k in range(masks.shape[1])], 1)  # (N, C)
    if channels is not None:
        variance = activations.flatten(2).var(-1)
        kept = variance >= variance.sort(1, descending=True).values[:, channels - 1 : channels]
        scores = scores.where(kept, -torch.inf)
    weights = scores.softmax(1).reshape(*scores.shape, *[1] * axes)
    return (weights * activations).sum(1).clamp(min=0)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 5, "auto"])
def test_formula(axes, batch_size):
    model, images = in_double(conv_net(axes=axes)), images_for(axes).double()
    explanation = fastcam.explain(model, images, "score_cam", 2, "features", batch_size=batch_size)
    expected = formula(axes, lambda output: output[:, 2])
    assert expected.max() > 0
    torch.testing.assert_close(explanation.native, expected, rtol=1e-8, atol=1e-10)


def test_probability_as_score():
    model, images = in_double(conv_net()), images_for().double()
    explanation = fastcam.explain(model, images, "score_cam", fastcam.targets.Probability(2), "features")
    expected = formula(2, lambda output: output.softmax(1)[:, 2])
    torch.testing.assert_close(explanation.native, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("channels", [1, 3, 8])
def test_only_the_channels_that_vary_most(channels):
    model, images = in_double(conv_net()), images_for().double()
    explanation = fastcam.explain(model, images, "score_cam", 2, "features", channels=channels)
    expected = formula(2, lambda output: output[:, 2], channels)
    torch.testing.assert_close(explanation.native, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("channels", [None, 3])
def test_several_targets_are_the_single_ones(channels):
    together = fastcam.explain(conv_net(), images_for(), "score_cam", K, "features", channels=channels)
    for k in range(3):
        single = [row[k] for row in K]
        alone = fastcam.explain(conv_net(), images_for(), "score_cam", single, "features", channels=channels)
        torch.testing.assert_close(together.native[:, k], alone.native, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("channels", [0, 9, 2.5])
def test_bad_number_of_channels(channels):
    with pytest.raises(ValueError, match=rf"`channels` must be a whole number in \[1, 8\] or None, got {channels}"):
        fastcam.explain(conv_net(), images_for(), "score_cam", 2, "features", channels=channels)


def test_a_constant_channel_is_a_black_image():
    model = in_double(conv_net())
    with torch.no_grad():
        model.features[1].weight[3] = 0
    explanation = fastcam.explain(model, images_for().double(), "score_cam", 2, "features")
    assert explanation.status == ["ok", "ok"]
