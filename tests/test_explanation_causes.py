"""Why a map shows nothing."""

import pytest
import torch
from torch import Tensor, nn

import fastcam
from tests.support.conv_net import Call

pytestmark = pytest.mark.usefixtures("one_thread")


def network(weight: float = 1.0, bias: float = 0.0, pool: int = 1) -> nn.Sequential:
    """A convolution that copies the grey value into one channel, and a head with one weight for two classes."""
    convolution = nn.Conv2d(1, 1, 1, bias=False)
    head = nn.Linear(1, 2)
    with torch.no_grad():
        convolution.weight.fill_(1)
        head.weight.copy_(torch.tensor([[weight], [0.0]]))
        head.bias.fill_(bias)
    pooled = Call(lambda maps: maps.mean((2, 3)))
    return nn.Sequential(convolution, nn.AvgPool2d(pool), pooled, head).double().eval()


def images() -> Tensor:
    return torch.rand(2, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_a_map_that_shows_something():
    found = fastcam.explain(network(), images(), target=0, target_layer="0")
    assert (found.causes, found.status) == (["", ""], ["ok", "ok"])


def test_all_negative():
    found = fastcam.explain(network(weight=-1), images(), target=0, target_layer="0")
    assert (found.causes, found.status) == (["all negative"] * 2, ["constant map"] * 2)
    assert torch.equal(found.native, torch.zeros(2, 6, 6, dtype=torch.float64))
    torch.testing.assert_close(found.signed, -images()[:, 0] / 36)
    signed = fastcam.explain(network(weight=-1), images(), target=0, target_layer="0", relu=False)
    assert signed.causes == ["", ""]
    assert signed.signed is None


def test_no_gradient():
    found = fastcam.explain(network(), images(), target=1, target_layer="0")
    assert found.causes == ["no gradient"] * 2


def test_one_position():
    assert fastcam.explain(network(pool=6), images(), target=0, target_layer="1").causes == ["one position"] * 2


def test_the_same_everywhere():
    found = fastcam.explain(network(), torch.full_like(images(), 0.5), target=0, target_layer="0")
    assert found.causes == ["same everywhere"] * 2


def test_not_finite():
    pictures = images()
    pictures[1, 0, 2, 3] = torch.nan
    found = fastcam.explain(network(), pictures, target=0, target_layer="0")
    assert (found.causes, found.status) == (["", "non-finite"], ["ok", "non-finite"])


def test_every_target_has_its_own():
    found = fastcam.explain(network(), images(), target=[[0, 1], [1, 0]], target_layer="0")
    assert found.causes == [["", "no gradient"], ["no gradient", ""]]
    assert found.status == [["ok", "constant map"], ["constant map", "ok"]]


def test_an_empty_region():
    """A class that no pixel has, of one image only."""
    model = nn.Sequential(nn.Conv2d(1, 1, 1), Call(lambda maps: torch.cat([maps, 0.5 - maps], 1))).double().eval()
    with torch.no_grad():
        model[0].weight.fill_(1)
        model[0].bias.fill_(0)
    pictures = torch.stack([images()[0], torch.full_like(images()[1], 0.9)])
    found = fastcam.explain(model, pictures, target=fastcam.targets.Segmentation(1), target_layer="0", relu=False)
    assert found.causes == ["", "empty region"]


def test_rounding_of_a_large_score():
    """Of a score of 1e6 in float32, whose steps are 1/16, grey values change nothing but the last bits."""
    method, options = "occlusion", {"window": 2, "stride": 2}
    pictures = images().float()
    sure = fastcam.explain(network(weight=0.5, bias=1e6).float(), pictures, method, 0, **options)
    assert (sure.causes, sure.status) == (["rounding"] * 2, ["constant map"] * 2)
    assert torch.equal(sure.maps, torch.zeros(2, 6, 6))
    out = torch.full((2, 6, 6), 7.0)
    assert torch.equal(sure.write_maps(out), torch.zeros(2, 6, 6))
    clear = fastcam.explain(network(weight=0.5).float(), pictures, method, 0, **options)
    assert clear.causes == ["", ""]
    assert clear.maps.amax((1, 2)).tolist() == [1.0, 1.0]


def test_large_batches_have_the_causes_of_their_groups():
    many = images().repeat(20, 1, 1, 1)
    many[33] = 0.5
    found = fastcam.explain(network(), many, target=0, target_layer="0", batch_size=8)
    assert [index for index, cause in enumerate(found.causes) if cause] == [33]


def test_windows_without_effect_on_a_score_of_zero():
    """A score of zero has no rounding."""
    found = fastcam.explain(network(weight=0.0).float(), images().float(), "occlusion", 0, window=2, stride=2)
    assert found.scores.tolist() == [0.0, 0.0]
    assert found.causes == ["no gradient"] * 2
