"""Recorded layers: what hooks of one's own would see, and nothing left behind."""

import threading

import pytest
import torch
from torch import nn

import fastcam
from tests.support.conv_net import conv_net

pytestmark = pytest.mark.usefixtures("one_thread")


def hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def test_outputs_and_gradients():
    model, images = conv_net(inplace=True), torch.randn(2, 3, 12, 10)
    expected, kept = {}, {}
    stem, features = model.stem[0], model.features
    handles = [
        stem.register_forward_hook(lambda m, i, o: expected.update({"stem.0": o.detach().clone()})),
        features.register_forward_hook(lambda m, i, o: kept.update(features=o)),
    ]
    model(images)[:, 1].sum().backward()  # fills `expected`
    for handle in handles:
        handle.remove()
    with fastcam.recording(model, ["stem.0", model.features], gradients=True) as seen:
        assert len(seen) == 0
        output = model(images)
        output[:, 1].sum().backward()
    assert list(seen) == ["stem.0", "features"]
    torch.testing.assert_close(seen["stem.0"], expected["stem.0"], rtol=0, atol=0)  # in-place layers follow
    assert seen["features"].shape == seen.gradients["features"].shape
    handle = features.register_forward_hook(lambda m, i, o: kept.update(features=o.clone()) or kept["features"].clone())
    (gradient,) = torch.autograd.grad(model(images)[:, 1].sum(), kept["features"])
    handle.remove()
    torch.testing.assert_close(seen.gradients["features"], gradient)
    assert not seen["features"].requires_grad
    assert hooks(model) == 0


def test_several_runs_and_several_tensors():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.pair = nn.Linear(3, 3), Pair()

        def forward(self, x):
            return self.pair(self.layer(self.layer(x)))

    class Pair(nn.Module):
        def forward(self, x):
            return {"a": x, "b": (2 * x, "text")}

    model, rows = Twice(), torch.randn(4, 3)
    with fastcam.recording(model, ["layer", "pair"]) as seen:
        model(rows)
        model(rows[:1])
    torch.testing.assert_close(seen["layer"], model.layer(model.layer(rows[:1])).detach())
    assert [len(run[0]) for run in seen.runs["layer"]] == [4, 4, 1, 1]
    assert len(seen.runs["pair"][0]) == 2
    with pytest.raises(KeyError, match="returned 2 tensors: they are in `runs`"):
        seen["pair"]
    seen.clear()
    assert len(seen) == 0


def test_nothing_is_left_after_an_error():
    model = conv_net()
    with pytest.raises(RuntimeError), fastcam.recording(model, "features"):
        model(torch.randn(1, 5, 12, 10))
    assert hooks(model) == 0


def test_other_threads_are_not_recorded():
    model = conv_net()
    with fastcam.recording(model, "features") as seen:
        thread = threading.Thread(target=lambda: model(torch.randn(5, 3, 12, 10)))
        thread.start()
        thread.join()
        assert len(seen) == 0
        model(torch.randn(1, 3, 12, 10))
    assert len(seen.runs["features"]) == 1


def test_what_cannot_be_recorded():
    model = conv_net()
    for layers, text in (
        ("feature", "did you mean 'features'"),
        ([], "at least one layer"),
        (nn.ReLU(), "that is not"),
    ):
        with pytest.raises(ValueError, match=text), fastcam.recording(model, layers):
            pass
    with (
        pytest.raises(ValueError, match="compiled code ignores hooks"),
        fastcam.recording(torch.compile(model), "features"),
    ):
        pass
    with fastcam.recording(model, "features") as seen:
        pass
    with pytest.raises(KeyError, match="has not run yet"):
        seen["features"]
    with pytest.raises(KeyError, match="was not recorded, only features"):
        seen["stem"]
