"""Several methods of one call share a pass and do not disturb each other, nor the thread beside; nothing grows."""

import gc
import random
import resource
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

import fastcam
from tests.support.conv_net import conv_net, images_for
from tests.support.engine_cases import ALL_CHEAP, METHODS, explain, few_objects
from tests.support.model_state import hooks_of, snapshot

pytestmark = pytest.mark.usefixtures("one_thread")

TOGETHER = [name for name in METHODS if name != "gmp_cam"]  # that needs another network
DIFFERENTIABLE = [name for name in TOGETHER if name not in ("ablation_cam", "full_grad", "eigen_cam", "eigen_grad_cam")]
SEVERAL = [[0, 1], [2, 3]]


def options_of(names: list[str]) -> dict:
    known = {option for name in names for option in fastcam.get_method(name).options}
    return {option: value for option, value in ALL_CHEAP.items() if option in known}


def together(model: nn.Module, names: list[str], target, layers="relu", **settings):
    return fastcam.explain(model, images_for(), names, target, layers, **options_of(names), **settings)


@pytest.mark.parametrize("target", [1, SEVERAL], ids=["one", "several"])
@pytest.mark.parametrize("seed", range(2))
def test_all_methods_at_once_in_any_order(seed, target):
    names = random.Random(seed).sample(TOGETHER, len(TOGETHER))
    model = conv_net(nn.SiLU())
    names = [name for name in names if name != "cam"]  # the SiLU stands in its way
    before = snapshot(model)
    found = together(model, names, target)
    assert list(found) == names
    assert snapshot(model) == before
    for name in names:
        alone = together(model, [name], target)[name]
        torch.testing.assert_close(found[name].native, alone.native, rtol=1e-4, atol=1e-6)


def test_all_methods_and_two_layers_behind_which_gradients_have_a_closed_form():
    model = conv_net()
    found = together(model, TOGETHER, SEVERAL, ["relu", "probe"], fuse=None)
    for (name, layer), each in found.items():
        alone = together(model, [name], SEVERAL, layer or "relu")[name]
        torch.testing.assert_close(each.native, alone.native, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rule", ["guided_backprop", "deconvnet", "guided_grad_cam"])
@pytest.mark.parametrize("other", ["saliency", "grad_cam", "input_x_gradient", "deconvnet", "guided_backprop"])
def test_rules_of_one_method_do_not_reach_the_gradients_of_another(rule, other):
    """Not even those of its differentiable map, which are taken after the call."""
    if rule == other:
        return
    model = conv_net(nn.SiLU(), inplace=False).double()
    weight = model.stem[0].weight

    def gradient(names):
        found = fastcam.explain(model, images_for().double(), names, 1, "features", differentiable=True, relu=False)
        return torch.autograd.grad(found[other].native.square().sum(), weight)[0]

    expected = gradient([other])
    assert expected.abs().max() > 0
    for names in ([rule, other], [other, rule]):
        torch.testing.assert_close(gradient(names), expected)


@pytest.mark.parametrize("method", [name for name in DIFFERENTIABLE if name != "cam"])
def test_gradients_of_maps_together_and_alone(method):
    model = conv_net(nn.Softplus(), inplace=False).double()

    def gradient(names):
        settings = {"differentiable": True, "relu": False} | options_of(names)
        found = fastcam.explain(model, images_for().double(), names, SEVERAL, "features", **settings)
        return torch.autograd.grad(found[method].native.square().sum(), model.stem[0].weight)[0]

    names = [name for name in DIFFERENTIABLE if name != "cam"]
    torch.testing.assert_close(gradient(names), gradient([method]), rtol=1e-6, atol=1e-9)


PAIRS = [("guided_backprop", "saliency"), ("ablation_cam", "full_grad"), ("smooth_grad", "occlusion")]


@pytest.mark.parametrize("pair", [*PAIRS, TOGETHER], ids=lambda names: "-".join(names[:3]))
def test_threads_with_different_methods_on_one_model(pair):
    interval = sys.getswitchinterval()
    model = conv_net()
    names = [name for name in pair if name != "cam"]
    expected = {name: explain(name, None, 1, model, **layer(name)).native for name in names}
    before, wrong = hooks_of(model), []

    def repeat(name: str) -> None:
        for _ in range(15 if len(names) == 2 else 3):
            found = explain(name, None, 1, model, **layer(name)).native
            if not torch.allclose(found, expected[name], rtol=1e-4, atol=1e-6):
                wrong.append(name)

    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=repeat, args=[name]) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong
    assert hooks_of(model) == before


def layer(name: str) -> dict:
    return {"target_layer": "features"} if fastcam.get_method(name).has_layer else {}


def tracked() -> int:
    gc.collect()
    return len(gc.get_objects())


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def tiny_explainer(method: str, side: int = 30) -> fastcam.Explainer:
    pooling = nn.AdaptiveMaxPool2d(1) if method == "gmp_cam" else nn.AdaptiveAvgPool2d(1)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.SiLU(), pooling, nn.Flatten(), nn.Linear(2, 2)).eval()
    few = {"masks": 2, "steps": 2, "samples": 2, "window": side, "stride": side}
    options = {name: value for name, value in few.items() if name in fastcam.get_method(method).options}
    return fastcam.Explainer(model, method, "1", **options)


@pytest.mark.parametrize("method", METHODS)
def test_no_object_stays_after_a_call(method):
    explainer, images = tiny_explainer(method), torch.randn(1, 1, 40, 40)
    for _ in range(3):
        explainer(images, 1)
    with few_objects():
        before = tracked()
        for _ in range(30):
            explainer(images, 1)
        assert tracked() - before < 15  # less than one object in two calls
    assert not hooks_of(explainer.model)


GROWING = ["guided_backprop", "occlusion", "full_grad", "ablation_cam", "integrated_gradients"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of the process where Linux says it")
@pytest.mark.parametrize("method", GROWING)
def test_memory_does_not_grow(method):
    """What Python does not see: a graph or one of its tensors kept from every call would be ten times the limit."""
    explainer, images = tiny_explainer(method, 60), torch.randn(1, 1, 128, 128)
    for _ in range(25):
        explainer(images, 1)
    growth = []
    for _ in range(3):  # what the process does besides may take memory once, a leak takes it every time
        before = resident()
        for _ in range(25):
            explainer(images, 1)
        growth.append(resident() - before)
    assert min(growth) < 2**19, growth
