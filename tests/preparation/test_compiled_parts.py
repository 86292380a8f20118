"""Compiled models: cut where they are asked to be, the same function, and uncompiled wherever that does not fit."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import fastcam
from fastcam.model.inputs import Inputs
from fastcam.preparation.batch_norm import FoldReport
from fastcam.preparation.compiled_parts import NotCompilableError, compile_parts, cut
from fastcam.preparation.compute_settings import ComputeSettings
from fastcam.preparation.prepared import Prepared
from tests.preparation.test_prepare import assert_same
from tests.support.conv_net import Call, conv_net, images_for

pytestmark = pytest.mark.usefixtures("one_thread")

PARTS = ("trunk", "head", "recorded_head")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return conv_net()


def with_parts(model: nn.Module, layer: str | None, *sizes: int) -> Prepared:
    """The model as it is, with compiled parts: whether they are faster does not matter here."""
    inputs = Inputs.of(images_for(count=3))
    prepared = Prepared.of(copy.deepcopy(model), model, ComputeSettings(), FoldReport(), inputs)
    prepared._parts = compile_parts(copy.deepcopy(model), inputs, layer, sizes)
    return prepared


@pytest.fixture(scope="module")
def prepared(model) -> Prepared:
    return with_parts(model, "features", 1, 3)


@pytest.fixture
def compiled_calls(prepared, monkeypatch) -> list[str]:
    """Which compiled parts ran since."""
    calls: list[str] = []
    parts = prepared._parts

    def told(name: str, run):
        return lambda *arguments: (calls.append(name), run(*arguments))[1]

    told_parts = replace(parts, **{name: told(name, getattr(parts, name)) for name in PARTS})
    monkeypatch.setattr(prepared, "_parts", told_parts)
    return calls


@pytest.mark.parametrize("count", [1, 3])
def test_the_compiled_forward_pass(model, prepared, compiled_calls, count):
    images = images_for(count=count)
    with torch.no_grad():
        assert_same(prepared(images), model(images), 1e-5)
    with torch.inference_mode():
        assert_same(prepared(images), model(images), 1e-5)
        assert_same(prepared(images.clone()), model(images), 1e-5)  # made in inference mode
    assert compiled_calls == ["trunk", "head"] * 3


@pytest.mark.parametrize("method", ["grad_cam", "grad_cam_pp", "layer_cam", "hires_cam", "cam", "eigen_cam"])
def test_class_activation_maps_by_parts(model, prepared, compiled_calls, method):
    layer = "features" if method != "cam" else "relu"
    images = images_for(count=3, seed=7)
    expected = fastcam.explain(model, images, method, 1, layer)
    found = fastcam.explain(prepared, images, method, 1, layer)
    assert_same(found.native, expected.native)
    by_parts = {"cam": [], "eigen_cam": ["trunk", "head"]}.get(method, ["trunk", "recorded_head"])
    assert compiled_calls == by_parts


def test_methods_that_only_try_the_model(model, prepared, compiled_calls):
    images = images_for(count=1)
    options = {"window": 5, "stride": 4, "engine": "dense", "batch_size": 3}
    expected = fastcam.explain(model, images, "occlusion", 1, **options)
    assert_same(fastcam.explain(prepared, images, "occlusion", 1, **options).raw, expected.raw)
    assert compiled_calls.count("trunk") > 2


def test_images_may_be_changed_afterwards(model, prepared):
    """What was captured is no view of memory that compiled code uses again."""
    images = images_for(count=3)
    first = fastcam.explain(prepared, images, "grad_cam", 1, "features")
    kept = first.native.clone(), first.output.clone()
    fastcam.explain(prepared, images_for(count=3, seed=9), "grad_cam", 1, "features")
    assert torch.equal(first.native, kept[0])
    assert torch.equal(first.output, kept[1])


def _in_a_mode(model: nn.Module) -> Tensor:
    with torch.overrides.BaseTorchFunctionMode():
        return model(images_for(count=3))


UNCOMPILED = {
    "another number": lambda model: model(images_for(count=2)),
    "another size": lambda model: model(images_for(count=3)[..., :8]),
    "another dtype": lambda model: model.double()(images_for(count=3).double()),
    "an argument by name": lambda model: model(x=images_for(count=3)),
    "a mode": _in_a_mode,
}


@pytest.mark.parametrize("name", UNCOMPILED)
def test_uncompiled_where_the_parts_do_not_fit(model, prepared, compiled_calls, name):
    with torch.no_grad():
        found, expected = UNCOMPILED[name](prepared), UNCOMPILED[name](model)
    prepared.float(), model.float()
    assert torch.equal(found, expected)
    assert not compiled_calls


def test_uncompiled_where_a_graph_is_wanted(prepared, compiled_calls):
    assert prepared(images_for(count=3)).requires_grad
    fastcam.explain(prepared, images_for(count=3), "saliency", 1)
    assert not compiled_calls


def test_hooks_are_heard(prepared, compiled_calls):
    seen = []
    handle = prepared.stem.register_forward_hook(lambda *_: seen.append(1))
    try:
        with torch.no_grad():
            prepared(images_for(count=3))
    finally:
        handle.remove()
    assert (seen, compiled_calls) == ([1], [])


def test_a_copy_runs_uncompiled(model, prepared):
    with torch.no_grad():
        assert torch.equal(copy.deepcopy(prepared)(images_for(count=3)), model(images_for(count=3)))


def test_uncut():
    model = conv_net()
    prepared = with_parts(model, None, 3)
    with torch.no_grad():
        assert_same(prepared(images_for(count=3)), model(images_for(count=3)), 1e-5)
    expected = fastcam.explain(model, images_for(count=3), "grad_cam", 1)
    assert_same(fastcam.explain(prepared, images_for(count=3), "grad_cam", 1).native, expected.native)


class Branches(nn.Module):
    """A skip connection over the layer, and something of the arguments behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(3, 3, 1) for _ in range(3))

    def forward(self, x: Tensor, scale: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        a = self.a(x)
        b = torch.relu_(self.b(a))
        mixed = self.c(b) + a
        return mixed.mean((2, 3)) * scale[:, None], {"mixed": mixed, "x": x}


def exported(model: nn.Module, *arguments: Tensor) -> torch.fx.GraphModule:
    return torch.export.export(model, arguments, strict=False).module()


def convolutions(module: torch.fx.GraphModule) -> int:
    return sum(node.op == "call_function" and "conv2d" in str(node.target) for node in module.graph.nodes)


def test_the_cut_is_behind_the_layer():
    torch.manual_seed(0)
    model, images, scale = Branches(), images_for(count=3), torch.rand(3)
    trunk, head = cut(exported(model, images, scale), "b")
    with torch.no_grad():
        needed = trunk(images, scale)
        expected, tree = model(images, scale)
        assert torch.equal(needed[0], model.b(model.a(images)))
        found, mixed, x = head(needed[0].clone(), *needed[1:])
    assert torch.equal(found, expected)
    assert torch.equal(mixed, tree["mixed"])
    assert torch.equal(x, images)
    assert [convolutions(each) for each in (trunk, head)] == [2, 1]


@pytest.mark.parametrize(
    ("layer", "match"),
    [
        ("none", "in 0 runs"),
        ("twice", "in 2 runs"),
        ("pair", "returns 2 tensors"),
    ],
)
def test_what_cannot_be_cut(layer, match):
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.none, self.twice = nn.Identity(), nn.ReLU()
            self.pair = Call(lambda x: (x + 1, x * 2))

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.pair(self.twice(self.twice(self.none(x))))
            return a * b

    with pytest.raises(NotCompilableError, match=match):
        cut(exported(Odd(), images_for()), layer)


def test_what_cannot_be_exported_is_compiled_uncut_or_refused():
    class Undecided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = conv_net()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x) if x.sum() > 0 else self.net(-x)

    prepared = fastcam.prepare(Undecided().eval(), images_for().abs(), compile=True)
    step = next(each for each in prepared.report().steps if each.name == "compile")
    assert "uncut, since torch.export cannot follow the model" in step.detail
    with torch.no_grad():
        assert_same(prepared(images_for().abs()), prepared(-images_for().abs()), 1e-5)
