"""What is drawn: filters of real weights, channels, and what excites a neuron, cut out exactly."""

import numpy as np
import pytest
import torch
from torch import nn

import fastcam
from fastcam import inspect
from fastcam.inspect import pictures
from tests.support.networks import efficientnet_lite0, photographs

pytestmark = pytest.mark.usefixtures("one_thread")


def test_channels_side_by_side():
    maps = torch.arange(24.0).reshape(2, 3, 4)
    maps[1] = 5.0
    picture = inspect.channel_grid(maps, columns=2, cell=8)
    assert picture.shape == (6, 2 * 8 + 2, 3)  # squares of 2 x 2 pixels, a gap of 2
    colors = fastcam.render.colors("viridis")
    assert (picture[0, 0] == colors[0]).all()
    assert (picture[-1, 7] == colors[255]).all()
    assert (picture[:, 10:] == colors[0]).all()  # a constant channel
    with pytest.raises(ValueError, match="of channels"):
        inspect.channel_grid(maps[0])


def test_filters_of_real_weights():
    """Zero is grey, each filter scaled by its own magnitude; colours for a layer that sees colours."""
    model = efficientnet_lite0()
    weights = model._conv_stem.weight.detach().numpy()
    picture = inspect.filters(model, cell=3, columns=4)
    assert picture.shape == (8 * 3 + 7 * 2, 4 * 3 + 3 * 2, 3)
    first = weights[0] / np.abs(weights[0]).max()
    np.testing.assert_allclose(picture[:3, :3] / 255, np.moveaxis(0.5 + first / 2, 0, -1), atol=0.003)
    colourful = np.ptp(picture.reshape(-1, 3).astype(int), axis=1)
    assert (colourful > 60).mean() > 0.2  # some filters look for colours
    grey = inspect.filters(model, "_blocks.0._depthwise_conv", cell=3)
    assert (grey == grey[..., :1]).all()
    with pytest.raises(ValueError, match=r"layer '_fc' has no filters \(O, I, h, w\)"):
        inspect.filters(model, "_fc")
    with pytest.raises(ValueError, match="no convolution"):
        inspect.filters(nn.Linear(2, 2))


def test_what_excites_a_neuron():
    model, images = efficientnet_lite0(), photographs()
    seen = inspect.survey(model, images, "_blocks.4", k=2)["_blocks.4"]
    field = inspect.receptive_field(model, "_blocks.4", (224, 224))
    with fastcam.recording(model, "_blocks.4") as recorded, torch.no_grad():
        model(images)
    maps = recorded["_blocks.4"]
    found = inspect.excitations(seen, field, [3, 7])
    assert [(each.channel, each.rank) for each in found] == [(3, 0), (3, 1), (7, 0), (7, 1)]
    for each in found:
        assert maps[(each.image, each.channel, *each.position)] == maps[each.image, each.channel].amax()
        assert each.value == pytest.approx(maps[each.image, each.channel].amax().item())
        left, top, right, bottom = each.box
        outside = images.clone()
        noise = torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(0))
        outside[each.image] = noise
        outside[each.image, :, top:bottom, left:right] = images[each.image, :, top:bottom, left:right]
        with fastcam.recording(model, "_blocks.4") as changed, torch.no_grad():
            model(outside)
        unit = changed["_blocks.4"][(each.image, each.channel, *each.position)].item()
        assert unit == pytest.approx(each.value, rel=1e-4)  # what lies outside of the box does not reach the unit
    assert found[0].value >= found[1].value
    with pytest.raises(ValueError, match="has channels 0 to 39, got 40"):
        inspect.excitations(seen, field, [40])
    with pytest.raises(ValueError, match="kept no images"):
        inspect.excitations(inspect.survey(model, images, "_blocks.4")["_blocks.4"], field)


@pytest.mark.parametrize("projection", ["guided_backprop", None])
def test_sheets(projection):
    model, images = efficientnet_lite0(), photographs()
    seen = inspect.survey(model, images, "_blocks.2", k=3)["_blocks.2"]
    bytes_of = (images * 128 + 127).byte().permute(0, 2, 3, 1).numpy()
    asked = []

    def load(number):
        asked.append(number)
        return images[number], bytes_of[number]

    sheet = np.asarray(inspect.sheet(model, seen, load, [0, 5], (224, 224), projection))
    rows = 2 if projection is None else 4
    assert sheet.shape[0] == 24 + rows * (pictures.CELL + 6)
    assert set(asked) == {0, 1}
    assert (sheet == 255).mean() < 0.8


def test_gradients_are_drawn_around_grey():
    values = np.zeros((1, 3, 3), np.float32)
    values[0, 0, 0], values[0, 1, 1], values[0, 2, 2] = 1, -2, 100
    picture = pictures.symmetric(values, share=0.8)
    assert picture.shape == (3, 3, 3)
    assert picture[0, 1].tolist() == [128] * 3
    assert picture[1, 1, 0] < 128 < picture[0, 0, 0] <= picture[2, 2, 0] == 255
