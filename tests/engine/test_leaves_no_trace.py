"""Whatever goes wrong, and however often: the model is as it was, and nothing grows."""

import contextlib
import gc
import threading

import pytest
import torch
from torch import Tensor, nn

import fastcam
from tests.support.conv_net import Call, conv_net, images_for
from tests.support.engine_cases import METHODS, cheap, few_objects
from tests.support.model_state import snapshot
from tests.support.tiers import slow

pytestmark = pytest.mark.usefixtures("one_thread")

TRIES = [name for name in METHODS if "scorer" in fastcam.get_method(name).needs]
DIFFERENTIATES = [
    *[name for name in METHODS if any("gradients" in need for need in fastcam.get_method(name).needs)],
    *("integrated_gradients", "smooth_grad", "full_grad"),
]


def explain(model: nn.Module, method: str, images: Tensor | None = None, target=1) -> fastcam.Explanation:
    images = images_for() if images is None else images
    return fastcam.explain(model, images, method, target, "features", batch_size=4, **cheap(method))


class Fails(nn.Module):
    """Raises at its n-th call."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.left = at

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        if self.left == 0:
            raise MemoryError("the model gave up")
        return x


class FailsBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise MemoryError("the model gave up on its way back")


def model_with(probe: nn.Module) -> nn.Module:
    """The probe stands behind the layer; a hook of the user's own is there as well."""
    model = conv_net(probe)
    model.features.register_forward_hook(lambda *_: None)
    return model


@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("method", [*TRIES, "ablation_cam", "guided_backprop", "grad_cam"])
def test_the_model_raises_at_a_later_call(method, at):
    model = model_with(Fails(10**6))
    before = snapshot(model)
    expected = explain(model, method).native
    model.probe[0].left = at
    with contextlib.suppress(MemoryError):
        found = explain(model, method).native
        assert at > 1  # it did not call so often
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    model.probe[0].left = 10**6
    assert snapshot(model) == before
    torch.testing.assert_close(explain(model, method).native, expected)


@pytest.mark.parametrize("method", DIFFERENTIATES)
def test_the_model_raises_on_its_way_back(method):
    model = model_with(Call(FailsBackward.apply))
    before = snapshot(model)
    with pytest.raises(MemoryError, match="gave up on its way back"):
        explain(model, method)
    assert snapshot(model) == before


@pytest.mark.parametrize("method", METHODS)
def test_the_target_raises(method):
    def target(output: Tensor) -> Tensor:
        raise KeyError("no such score")

    model = conv_net()
    before = snapshot(model)
    with pytest.raises((KeyError, ValueError)):
        explain(model, method, target=target)
    assert snapshot(model) == before


def test_rules_of_one_thread_do_not_reach_another():
    model, images = conv_net(nn.ReLU()), images_for()
    names = ["guided_backprop", "saliency", "deconvnet", "input_x_gradient", "full_grad", "ablation_cam"]
    expected = {name: explain(model, name, images).native for name in names}
    wrong: list[str] = []

    def repeat(name: str) -> None:
        for _ in range(15):
            if not torch.allclose(explain(model, name, images).native, expected[name], rtol=1e-4, atol=1e-6):
                wrong.append(name)

    before = snapshot(model)["hooks"]
    threads = [threading.Thread(target=repeat, args=[name]) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert snapshot(model)["hooks"] == before


def live_objects() -> int:
    gc.collect()
    return sum(issubclass(type(each), Tensor | nn.Module) for each in gc.get_objects())


@pytest.mark.parametrize(
    "method", ["grad_cam", "score_cam", *slow("guided_backprop", "occlusion", "full_grad", "ablation_cam")]
)
def test_nothing_grows_over_many_calls(method):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(18, 2)).eval()
    explainer = fastcam.Explainer(model, method, "1")
    images = torch.randn(1, 1, 5, 5)
    with few_objects():
        for _ in range(5):
            explainer(images, 1)
        before = live_objects()
        for _ in range(40):
            explainer(images, 1)
        assert live_objects() <= before
    assert not snapshot(model)["hooks"]
