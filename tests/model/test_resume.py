"""Running a model from a layer on: the same maps whatever the rest does in place, and no error is swallowed."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastcam
from tests.support.conv_net import Call, conv_net, images_for
from tests.support.model_state import snapshot

pytestmark = pytest.mark.usefixtures("one_thread")


class Skip(nn.Module):
    """A connection around the target layer, "act", that goes on in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.act, self.front = nn.Tanh(), nn.Identity()
        self.classifier = nn.Linear(4, 5)
        self.eval()

    def forward(self, x):
        x = self.front(self.first(x).tanh())
        y = self.act(self.second(x))
        x += y
        return self.classifier(x.sigmoid().mean((2, 3)))


def by_hand(model, images, target):
    """Ablation-CAM of "act" channel by channel with the whole model."""
    kept = []
    handle = model.act.register_forward_hook(lambda module, arguments, output: kept.append(output.detach()))
    with torch.no_grad():
        score = model(images)[:, target]
    handle.remove()
    falls = []
    for channel in range(4):
        mask = torch.ones(4).index_fill(0, torch.tensor(channel), 0)[:, None, None]
        handle = model.act.register_forward_hook(lambda module, arguments, output, mask=mask: output * mask)
        with torch.no_grad():
            falls.append(score - model(images)[:, target])
        handle.remove()
    weights = torch.stack(falls, 1) / score[:, None]
    return F.relu((weights[..., None, None] * kept[0]).sum(1))


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 3, 32, "auto"])
def test_a_connection_that_works_in_place(size, count):
    model, images = Skip().double(), images_for(count=count).double()
    before = snapshot(model)
    found = fastcam.explain(model, images, "ablation_cam", 1, "act", batch_size=size)
    assert snapshot(model) == before
    torch.testing.assert_close(found.native, by_hand(model, images, 1), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, "auto"])
@pytest.mark.parametrize("layer", ["features", "stem.1", "stem.0"])
def test_an_activation_that_works_in_place_and_one_image(layer, size):
    images = images_for(count=1).double()
    found = fastcam.explain(conv_net().double(), images, "ablation_cam", 1, layer, batch_size=size)
    plain = fastcam.explain(conv_net(inplace=False).double(), images, "ablation_cam", 1, layer, batch_size=size)
    torch.testing.assert_close(found.native, plain.native, rtol=1e-8, atol=1e-12)
    assert found.native.max() > 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError, torch.OutOfMemoryError])
@pytest.mark.parametrize("call", [2, 3, 4, 5])
def test_errors_in_front_of_the_layer_come_out(error, call):
    """The second call notes what the front does, the later ones play it."""
    calls = []

    def front(x):
        calls.append(len(x))
        if len(calls) == call:
            raise error("in front")
        return x

    model = Skip()
    model.front = Call(front).eval()
    before = snapshot(model)
    with pytest.raises(error, match="in front"):
        fastcam.explain(model, images_for(), "ablation_cam", 1, "act", batch_size=2)
    assert snapshot(model) == before
    assert len(calls) == call


@pytest.mark.parametrize("count", [1, 2])
def test_a_hook_of_the_users_own_may_detach_what_it_sees(count):
    """As grad-cam does: not allowed for views."""
    model, seen = Skip(), []
    expected = fastcam.explain(model, images_for(count=count), "ablation_cam", 1, "act")
    model.act.register_forward_hook(lambda module, arguments, output: seen.append(output))
    found = fastcam.explain(model, images_for(count=count), "ablation_cam", 1, "act")
    torch.testing.assert_close(found.native, expected.native)
    assert len(seen) > 2
    for each in seen:
        each.detach_()


def test_a_model_that_takes_another_way_each_time_is_run_whole():
    calls = []

    def front(x):
        calls.append(len(x))
        return x if len(calls) < 3 else x.abs().abs() * x.sign()

    model = Skip().double()
    plain = by_hand(model, images_for().double(), 1)
    model.front = Call(front).eval()
    found = fastcam.explain(model, images_for().double(), "ablation_cam", 1, "act")
    torch.testing.assert_close(found.native, plain, rtol=1e-8, atol=1e-12)
