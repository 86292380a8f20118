"""Prepared models: the same function and maps, the user's model untouched, and a report of every step."""

import copy
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fastcam
from fastcam.model.inputs import Inputs
from fastcam.preparation import speed
from fastcam.preparation.agreement import spearman
from tests.support.conv_net import Call, conv_net, images_for, suited
from tests.support.engine_cases import METHODS, cheap
from tests.support.model_state import snapshot
from tests.support.networks import efficientnet_lite0, photographs, tiny_vit, torchvision_network

pytestmark = pytest.mark.usefixtures("one_thread")


def step(prepared: fastcam.Prepared, name: str):
    return next(each for each in prepared.report().steps if each.name == name)


def assert_same(found: Tensor, expected: Tensor, share: float = 1e-4) -> None:
    span = (expected.amax() - expected.amin()).item()
    assert (found - expected).abs().max().item() <= share * span


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_the_same_maps(method):
    model, layer = suited(method)
    images = images_for(count=3)
    prepared = fastcam.prepare(model, images, target_layer=layer)
    assert step(prepared, "fold").done
    expected = fastcam.explain(model, images, method, 1, layer, **cheap(method))
    if method == "full_grad":
        with pytest.raises(ValueError, match=r"biases of 'stem\.0' and of its batch norm are one"):
            fastcam.explain(prepared, images, method, 1, layer)
        return
    found = fastcam.explain(prepared, images, method, 1, layer, **cheap(method))
    assert_same(found.native, expected.native)
    assert_same(found.scores, expected.scores)
    assert found.layer == expected.layer


def test_full_grad_where_convolutions_have_no_bias_of_their_own():
    model = torchvision_network("resnet18")
    images = torch.randn(2, 3, 64, 64)
    prepared = fastcam.prepare(model, images)
    assert step(prepared, "fold").done
    for each in (prepared, model):
        each.double()  # so that no unit falls on the other side of zero
    expected = fastcam.explain(model, images.double(), "full_grad", 1)
    found = fastcam.explain(prepared, images.double(), "full_grad", 1)
    model.float()
    assert_same(found.native, expected.native, 1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_model_is_untouched(precision):
    model, images = conv_net(), images_for()
    before = snapshot(model)
    prepared = fastcam.prepare(model, images, precision=precision, tolerance=1.0)
    fastcam.explain(prepared, images, "grad_cam")
    assert snapshot(model) == before
    assert {id(each) for each in prepared.parameters()}.isdisjoint({id(each) for each in model.parameters()})


def test_it_stays_an_instance_of_its_class_with_its_names():
    model, images = conv_net(), images_for()
    prepared = fastcam.prepare(model, images)
    assert isinstance(prepared, type(model))
    assert isinstance(prepared, fastcam.Prepared)
    assert [name for name, _ in prepared.named_modules()] == [name for name, _ in model.named_modules()]


def test_layers_of_the_untouched_model_name_layers_of_the_prepared_one():
    model, images = conv_net(), images_for()
    prepared = fastcam.prepare(model, images)
    expected = fastcam.explain(model, images, "grad_cam", target_layer="features")
    for layer in (model.features, "features", prepared.features):
        found = fastcam.explain(prepared, images, "grad_cam", target_layer=layer)
        assert found.layer == "features"
        assert_same(found.native, expected.native)


def test_a_folded_convolution_is_no_target_layer_unless_prepared_for_it():
    model, images = conv_net(), images_for()
    with pytest.raises(ValueError, match=r"layer 'stem\.0' returns something else .* target_layer='stem\.0'"):
        fastcam.explain(fastcam.prepare(model, images), images, "grad_cam", target_layer=model.stem[0])
    prepared = fastcam.prepare(model, images, target_layer="stem.0")
    expected = fastcam.explain(model, images, "layer_cam", target_layer="stem.0")
    assert_same(fastcam.explain(prepared, images, "layer_cam", target_layer="stem.0").native, expected.native)
    # The norm's own name still means what it did.
    expected = fastcam.explain(model, images, "layer_cam", target_layer="features.1")
    assert_same(fastcam.explain(prepared, images, "layer_cam", target_layer="features.1").native, expected.native)


def test_real_weights_in_float32():
    model, images = efficientnet_lite0(), photographs()
    prepared = fastcam.prepare(model, images)
    assert prepared.report().difference.maps < 1e-4
    methods = ["grad_cam", "grad_cam_pp", "layer_cam", "hires_cam", "eigen_cam"]
    expected, found = fastcam.explain(model, images, methods), fastcam.explain(prepared, images, methods)
    for method in methods:
        assert_same(found[method].maps, expected[method].maps)
        assert torch.equal(found[method].targets, expected[method].targets)


@pytest.mark.slow  # where the processor has no bfloat16 it takes a minute
def test_real_weights_in_bfloat16():
    model, images = efficientnet_lite0(), photographs()
    prepared = fastcam.prepare(model, images, precision="bf16")
    assert {each.dtype for each in prepared.parameters()} == {torch.bfloat16}
    expected = fastcam.explain(model, images, "grad_cam")
    found = fastcam.explain(prepared, images, "grad_cam", expected.targets)
    assert found.native.dtype == found.scores.dtype == torch.float32
    for a, b in zip(found.raw, expected.raw, strict=True):
        assert spearman(a, b) > 0.99
    assert prepared.report().difference.rank > 0.99


def test_tokens():
    model, images = tiny_vit(), torch.randn(2, 3, 64, 64)
    options = {"target_layer": "blocks.3.norm1", "reshape_transform": fastcam.vit_reshape}
    expected = fastcam.explain(model, images, "grad_cam", 1, **options)
    for chosen in (options, {}):  # the same layer is found
        prepared = fastcam.prepare(model, images, **chosen)
        assert prepared.report().difference.maps < 1e-4
        found = fastcam.explain(prepared, images, "grad_cam", 1, **chosen)
        assert found.layer == expected.layer
        assert_same(found.native, expected.native)


class TwoInputs(nn.Module):
    """Images and a number for each; the output a dict, in float32 whatever the precision inside."""

    def __init__(self) -> None:
        super().__init__()
        self.net = conv_net()

    def forward(self, x: Tensor, scale: Tensor) -> dict[str, Tensor]:
        return {"logits": self.net(x) * scale[:, None], "rows": torch.arange(len(x))}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_several_inputs_and_outputs(precision):
    model, images = TwoInputs().eval(), images_for(count=3)
    inputs = (images, torch.tensor([1.0, 2.0, 3.0]))
    prepared = fastcam.prepare(model, inputs, precision=precision, select="logits", tolerance=1.0)
    with torch.no_grad():
        expected, found = model(*inputs), prepared(*inputs)
    assert found["rows"].dtype == torch.int64
    assert found["logits"].dtype == torch.float32
    assert_same(found["logits"], expected["logits"], 1e-5 if precision == "fp32" else 0.05)
    maps = [fastcam.explain(each, inputs, "grad_cam", 1, select="logits").native for each in (prepared, model)]
    assert_same(*maps, 1e-4 if precision == "fp32" else 0.1)


def test_images_can_require_gradients():
    model, images = conv_net(), images_for()
    prepared = fastcam.prepare(model, images)
    leaves = [images.clone().requires_grad_() for _ in range(2)]
    for each, leaf in zip((model, prepared), leaves, strict=True):
        fastcam.explain(each, leaf, "grad_cam", 1, differentiable=True).native.sum().backward()
    assert_same(leaves[1].grad, leaves[0].grad)


class Picky(nn.Module):
    """Works in float32 only: a model that is not written for other precisions."""

    def __init__(self) -> None:
        super().__init__()
        self.net = conv_net()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) @ torch.eye(5)


def test_what_does_not_run_in_bfloat16_runs_under_autocast():
    prepared = fastcam.prepare(Picky().eval(), images_for(), precision="bf16", tolerance=1.0)
    assert not step(prepared, "bf16").done
    assert "RuntimeError" in step(prepared, "bf16").detail
    assert step(prepared, "bf16 autocast").done
    assert {each.dtype for each in prepared.parameters()} == {torch.float32}
    assert prepared.report().difference.outputs > 1e-5  # something is in half precision


class Sensitive(nn.Module):
    """A network whose output is lost in half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.net = conv_net()

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(1000 * self.net(x))


def test_what_differs_too_much_is_refused():
    model, images = Sensitive().eval(), images_for(count=4)
    with pytest.raises(ValueError, match=r"cannot be prepared in bf16: .* differ by .*, more than 1e-0"):
        fastcam.prepare(model, images, precision="bf16")
    prepared = fastcam.prepare(model, images, precision="auto")
    assert not step(prepared, "bf16").done
    assert {each.dtype for each in prepared.parameters()} == {torch.float32}


def test_a_step_that_changes_the_function_goes_out_again():
    # The copy asks its convolution for its weights: folded ones are others.
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), Call(lambda x: x * model[0].weight.sum()))
    model.eval()[1].running_var.fill_(9)

    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), model[1]

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.conv(x)) * self.conv.weight.abs().sum()

    prepared = fastcam.prepare(Reads().eval(), images_for())
    assert not step(prepared, "fold").done
    assert "differ" in step(prepared, "fold").detail
    assert isinstance(prepared.norm, nn.BatchNorm2d)


def test_the_report_tells_every_step():
    prepared = fastcam.prepare(conv_net(), images_for())
    report = prepared.report()
    assert [each.name for each in report.steps] == ["fold", "channels_last"]
    assert report.gain > 0
    assert report.batch_size == prepared.batch_size
    assert "2 batch norms folded into the convolutions before them" in str(report)
    assert "in all" in str(report)
    no_norms = fastcam.prepare(nn.Sequential(nn.Conv1d(3, 4, 1)).eval(), images_for(1)).report()
    assert [each.done for each in no_norms.steps] == [False, False]
    assert "refused: the model has no convolution in 2-D or 3-D" in str(no_norms)


def test_mistakes():
    model, images = conv_net(), images_for()
    for arguments, options, error, match in [
        ((1, images), {}, TypeError, "`model` must be an nn.Module, got int"),
        ((model, "x"), {}, TypeError, "`images` must be a floating point tensor"),
        ((model, images), {"precision": "int8"}, ValueError, "`precision` must be one of fp32, bf16, fp16, auto"),
        ((model, images), {"target_layer": "nowhere"}, ValueError, "no layer named 'nowhere'"),
        ((conv_net().train(), images), {}, ValueError, "a model in training mode cannot be prepared"),
        ((torch.jit.trace(model, images), images), {}, TypeError, "no scripted or patched one"),
        ((fastcam.prepare(model, images), images), {}, TypeError, "the model is prepared already"),
    ]:
        with pytest.raises(error, match=match):
            fastcam.prepare(*arguments, **options)
    patched = conv_net()
    patched.forward = lambda x: x
    with pytest.raises(TypeError, match="no scripted or patched one"):
        fastcam.prepare(patched, images)
    locked = conv_net()
    locked.lock = threading.Lock()
    with pytest.raises(TypeError, match="the model cannot be copied: TypeError: cannot pickle"):
        fastcam.prepare(locked, images)


def test_a_prepared_model_does_not_train():
    prepared = fastcam.prepare(conv_net(), images_for())
    assert prepared.eval() is prepared
    with pytest.raises(RuntimeError, match="stays in evaluation mode"):
        prepared.train()


def test_a_copy_of_a_prepared_model_is_one():
    prepared, images = fastcam.prepare(conv_net(), images_for()), images_for()
    twin = copy.deepcopy(prepared)
    assert torch.equal(twin(images), prepared(images))


SENT = """
import pickle, sys, torch, fastcam
prepared, images = pickle.load(sys.stdin.buffer)
assert isinstance(prepared, fastcam.Prepared)
explanation = fastcam.explain(prepared, images, "grad_cam", 1, "features")
pickle.dump((explanation.maps, str(prepared.report()), prepared.batch_size), sys.stdout.buffer)
"""


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_prepared_model_can_be_sent_to_another_process(precision):
    images = images_for()
    prepared = fastcam.prepare(conv_net(), images, precision=precision, target_layer="features")
    sent, root = pickle.dumps((prepared, images)), Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", SENT], input=sent, cwd=root, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    maps, report, size = pickle.loads(done.stdout)
    assert_same(maps, fastcam.explain(prepared, images, "grad_cam", 1, "features").maps)
    assert (report, size) == (str(prepared.report()), prepared.batch_size)


def test_a_precision_that_is_not_faster_alone_is_tried_with_its_layout(monkeypatch):
    """As on GPUs, whose tensor cores want the channels side by side."""
    model, images = conv_net(), images_for()

    def gain(before, after, inputs):
        settings = after._compute_settings
        return 2.0 if settings.dtype is not None and settings.channels_last else 0.5

    monkeypatch.setattr(speed, "gain", gain)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    prepared = fastcam.prepare(model, images, precision="auto")
    assert not step(prepared, "bf16").done
    assert step(prepared, "bf16, channels_last").done
    assert [each.name for each in prepared.report().steps] == ["fold", "bf16", "bf16, channels_last"]
    assert prepared(images).dtype == torch.float32


def test_sizes_of_batches(monkeypatch):
    """The smallest of equally fast ones on a processor, the largest on a GPU."""
    inputs = Inputs.of(images_for())
    seconds = {1: 1.0, 2: 1.4, 4: 2.0, 8: 4.0, 16: 8.1, 32: 16.0, 64: 32.0, 128: 64.0, 256: 128.0, 512: 400.0}
    monkeypatch.setattr(speed, "_seconds", lambda model, copies: seconds[len(copies.images)])
    assert speed.fastest_batch_size(conv_net(), inputs) == 4
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    assert speed.fastest_batch_size(conv_net(), inputs) == 256


def test_the_explainer_prepares_with_its_first_images():
    model, images = conv_net(), images_for(count=3)
    explainer = fastcam.Explainer(model, ["grad_cam", "layer_cam"], model.features, precision="fp32")
    assert explainer.model is model
    found = explainer(images, 1)
    assert isinstance(explainer.model, fastcam.Prepared)
    prepared = explainer.model
    explainer(images_for(seed=5))
    assert explainer.model is prepared
    expected = fastcam.explain(model, images, ["grad_cam", "layer_cam"], 1, "features")
    for method, each in expected.items():
        assert_same(found[method].native, each.native)
    with pytest.raises(ValueError, match="`precision` must be one of"):
        fastcam.Explainer(model, precision="fp8")
    with pytest.raises(ValueError, match="differentiable maps are of the model's own parameters"):
        fastcam.Explainer(model, precision="fp32", differentiable=True)


def test_threads_prepare_once():
    explainer = fastcam.Explainer(conv_net(), "grad_cam", precision="fp32")
    seen: list[nn.Module] = []

    def work() -> None:
        explainer(images_for())
        seen.append(explainer.model)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(seen) == 4
    assert len({id(each) for each in seen}) == 1
