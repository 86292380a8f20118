"""Statistics and highest activations of a pass: all at once in float64, in parts, merged, and by a full sort."""

import pytest
import torch
from torch import nn

from fastcam import inspect
from fastcam.inspect import sketch
from fastcam.inspect.moments import plane_moments
from fastcam.inspect.top import TopActivations
from tests.support.conv_net import Call, conv_net
from tests.support.model_state import snapshot
from tests.support.networks import timm_network, torchvision_network

pytestmark = pytest.mark.usefixtures("one_thread")


def images_of(count=23, size=(12, 10)):
    return 2 * torch.randn(count, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_moments_of_planes(dtype):
    maps = torch.randn(3, 5, 7, 6, generator=torch.Generator().manual_seed(0)).relu().to(dtype)
    maps[0, 1] = 0
    found, flat = plane_moments(maps), maps.double().flatten(2)
    tolerance = {"rtol": 1e-10 if dtype == torch.float64 else 1e-5, "atol": 1e-6, "check_dtype": False}
    torch.testing.assert_close(found.mean, flat.mean(2), **tolerance)
    torch.testing.assert_close(found.squares, (flat - flat.mean(2, keepdim=True)).square().sum(2), **tolerance)
    assert found.zeros.tolist() == (flat == 0).sum(2).tolist()
    assert found.zeros[0, 1] == found.count == 42
    torch.testing.assert_close(found.maximum.double(), flat.amax(2), rtol=0, atol=0)
    assert found.place.tolist() == flat.argmax(2).tolist()


def test_statistics_in_parts_are_those_of_all_values():
    model, images = conv_net().double(), images_of()
    before = snapshot(model)
    whole = model.features(model.stem(images)).detach().transpose(0, 1).flatten(1)
    parts = inspect.survey(model, images.split(4), "features", k=5)
    assert snapshot(model) == before
    seen = parts["features"].statistics
    assert parts.images == seen.images == 23
    assert seen.count == whole.shape[1]
    torch.testing.assert_close(seen.mean, whole.mean(1), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(seen.deviation, whole.std(1, correction=0), rtol=1e-10, atol=0)
    torch.testing.assert_close(seen.zero_share, (whole == 0).double().mean(1), rtol=0, atol=0)
    torch.testing.assert_close(seen.maximum, whole.amax(1), rtol=0, atol=0)
    over = seen.over_channels()
    assert over["mean"] == pytest.approx(whole.mean().item())
    assert over["deviation"] == pytest.approx(whole.std(correction=0).item())
    once = inspect.survey(model, images, "features", k=5)["features"]
    assert torch.equal(once.statistics.bins, seen.bins)
    torch.testing.assert_close(once.statistics.squares, seen.squares, rtol=1e-10, atol=0)
    torch.testing.assert_close(once.top.values, parts["features"].top.values, rtol=1e-12, atol=0)
    assert torch.equal(once.top.images, parts["features"].top.images)


def test_surveys_add_up_in_any_order():
    model, images = conv_net().double(), images_of()
    parts = []
    for first, part in zip((0, 9, 14), images.tensor_split([9, 14]), strict=True):
        surveyor = inspect.Surveyor(model, "features", 4, first)
        surveyor(part)
        parts.append(surveyor.survey)
    forward, backward = parts[0] + parts[1] + parts[2], parts[2] + (parts[1] + parts[0])
    whole = inspect.survey(model, images.split(7), "features", k=4)
    for found in (forward, backward):
        assert found.images == 23
        for name in ("mean", "squares", "zeros", "maximum", "bins"):
            torch.testing.assert_close(
                *(getattr(each["features"].statistics, name) for each in (found, whole)), rtol=1e-10, atol=1e-12
            )
        assert torch.equal(found["features"].top.images, whole["features"].top.images)
        assert torch.equal(found["features"].top.places, whole["features"].top.places)
    assert (inspect.Survey() + whole) is whole
    with pytest.raises(ValueError, match="do not add up"):
        whole + inspect.survey(model, images, "stem")


def test_the_highest_are_those_of_a_full_sort():
    model, images = conv_net().double(), images_of()
    maps = model.features(model.stem(images)).detach().flatten(2)
    top = inspect.survey(model, images.split(5), "features", k=6)["features"].top
    values, places = maps.max(2)
    order = values.argsort(dim=0, descending=True, stable=True)[:6]
    for channel in range(maps.shape[1]):
        if values[:, channel].unique().numel() < len(images):
            continue  # ties: a test of their own
        assert top.images[channel].tolist() == order[:, channel].tolist()
        torch.testing.assert_close(top.values[channel], values[order[:, channel], channel], rtol=1e-12, atol=0)
        assert top.places[channel].tolist() == places[order[:, channel], channel].tolist()
        row, column = top.position(channel, 0)
        image = top.images[channel, 0]
        assert maps.unflatten(2, top.size)[image, channel, row, column] == maps[image, channel].amax()


def test_copies_and_ties():
    """An image that is there twice is shown once; other equal values stay, in a fixed order."""
    maps = torch.zeros(6, 1, 2, 2)
    maps[:, 0] = torch.tensor([[[0, 3.0], [0, 0]]] * 3 + [[[0, 0], [3.0, 0]], [[1.0, 0], [0, 0]], [[0, 0], [0, 0]]])
    forward = TopActivations.of(5, plane_moments(maps), (2, 2), 0)
    assert forward.images.tolist() == [[0, 3, 4, 5, -1]]
    assert forward.values.tolist() == [[3, 3, 1, 0, -torch.inf]]
    parts = [TopActivations.of(5, plane_moments(maps[[i]]), (2, 2), i) for i in (4, 2, 5, 0, 3, 1)]
    joined = parts[0]
    for part in parts[1:]:
        joined = joined + part
    assert joined.images.tolist() == forward.images.tolist()
    broken = maps.clone()
    broken[0] = torch.nan
    assert TopActivations.of(5, plane_moments(broken), (2, 2), 0).images.tolist() == [[1, 3, 4, 5, -1]]


def test_dead_and_nearly_dead_channels():
    weight = torch.tensor([1.0, -1.0, 1.0])[:, None, None, None]
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU())
    model[0].weight.data, model[0].bias.data = weight, torch.tensor([0.0, -1.0, -99.0])
    images = torch.rand(8, 1, 20, 20)
    images[3, 0, 4, 4] = 100.0  # the third channel sees this alone
    seen = inspect.survey(model, images.split(3), "1")["1"].statistics
    assert seen.is_dead.tolist() == [False, True, False]
    assert seen.is_nearly_dead().tolist() == [False, False, True]
    assert seen.over_channels()["dead"] == 1
    text = str(inspect.survey(model, images, "1"))
    assert text.splitlines()[1].split()[-2:] == ["1", "1"]
    assert "of 8 images" in text


def test_quantiles():
    """To 3.2 % of the value, of any values; those of planes are of sampled positions, all positions in the end."""
    generator = torch.Generator().manual_seed(2)
    values = torch.randn(3, 5000, generator=generator).exp() * torch.tensor([[1.0], [-5.0], [0.01]])
    values[0, :2000] = 0
    values[1, 7] = torch.nan
    counts = sketch.count(values)
    assert counts.sum(1).tolist() == [5000, 4999, 5000]
    for share in (0.0, 0.1, 0.5, 0.9, 1.0):
        expected = torch.stack([row[~row.isnan()].quantile(share, interpolation="nearest") for row in values])
        torch.testing.assert_close(
            sketch.quantile(counts, share), expected.double(), rtol=sketch.RELATIVE_ERROR + 1e-6, atol=0
        )
    assert sketch.quantile(torch.zeros(1, sketch.BINS), 0.5).isnan().all()
    ramp = torch.arange(1, 1025.0).reshape(1, 1, 32, 32).expand(64, 1, 32, 32)
    seen = inspect.survey(nn.Sequential(nn.Identity()), ramp.split(10), "0")["0"].statistics
    assert seen.quantile(0.25).item() == pytest.approx(256, rel=0.04)


def test_tokens_vectors_and_stages():
    vit, images = timm_network("vit_tiny_patch16_224"), torch.randn(2, 3, 224, 224)
    found = inspect.survey(vit, images, ["blocks.1", "head"], k=1)
    assert found["blocks.1"].top.size == (14, 14)  # without the class token
    assert len(found["blocks.1"].statistics) == 192
    assert found["head"].top.size == (1,)
    torch.testing.assert_close(
        found["head"].top.values[:, 0].float(), vit(images).amax(0).detach(), atol=1e-5, rtol=1e-4
    )
    stages = inspect.find_stages(torchvision_network("resnet18"), images[:1])
    assert stages == ["relu", "layer1", "layer2", "layer3", "layer4"]


def test_what_cannot_be_surveyed():
    model, images = conv_net(), torch.randn(2, 3, 12, 10)
    with pytest.raises(TypeError, match="a floating point tensor"):
        inspect.survey(model, [images[0, 0]], "features")
    with pytest.raises(ValueError, match="has no maps"):
        inspect.survey(Call(lambda x: x.mean((1, 2, 3))), images)
    with pytest.raises(ValueError, match="`k` must be a whole number"):
        inspect.survey(model, images, k=-1)

    class Skips(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1)

        def forward(self, x):
            return self.used(x)

    with pytest.raises(RuntimeError, match="layer 'unused' was not reached"):
        inspect.survey(Skips(), images, ["used", "unused"])
