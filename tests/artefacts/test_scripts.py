"""TorchScript read node by node does what TorchScript does, whatever is written in it."""

import functools
import io

import pytest
import torch
from torch import Tensor, nn

import fastcam
from fastcam.artefacts import Script, Value, as_module
from fastcam.artefacts.torchscript.internals import UnreadableError
from tests.support.conv_net import conv_net
from tests.support.networks import small_network

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"),
]


def images_of(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


class Branches(nn.Module):
    """Numbers that decide, loops, lists, dicts, tuples, optional values, methods of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.blocks = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1) for _ in range(3)])
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(16, 5)

    def grown(self, maps: Tensor, times: int) -> tuple[Tensor, int]:
        count = 0
        while count < times and float(maps.abs().max()) < 1e3:
            maps = self.norm(maps) * 1.5
            count += 1
        return maps, count

    def forward(self, images: Tensor, scale: float | None = None, times: int = 2) -> Tensor:
        maps = self.first(images)
        if scale is not None:
            maps = maps * scale
        kept: list[Tensor] = []
        named: dict[str, Tensor] = {}
        for index, block in enumerate(self.blocks):
            maps = torch.relu(block(maps))
            kept.append(maps)
            named[str(index)] = maps
        kept[0] = kept[0] - 0.5
        kept.extend([named["1"]])
        last = kept.pop()
        assert last.dim() == 4, f"got {last.dim()} axes"
        maps, count = self.grown(torch.cat(kept, 1)[:, ::3] + last, times)
        if maps.shape[0] > 100:
            raise ValueError("too many images")
        maps = self.norm(maps)
        return self.head(nn.functional.adaptive_avg_pool2d(maps, 2).flatten(1)) + count


class Forking(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.jit.wait(torch.jit.fork(torch.relu, images)).flatten(1)


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return images.flatten(1) * self.calls


def branches():
    torch.manual_seed(0)
    model = Branches()
    model.norm.running_mean.uniform_(-1, 1)
    return model.eval()


def test_control_flow():
    model, images = branches(), images_of(2, 3, 9, 11)
    script = torch.jit.script(model)
    read = Script(script)
    for given in ((images,), (images, 2.0), (images, None, 0), (images, 0.5, 3)):
        assert torch.equal(read(*given), model(*given))
    assert torch.equal(read(images, times=1), model(images, times=1))
    assert {name for name, _ in model.named_modules()} <= {name for name, _ in read.named_modules()}
    assert dict(read.named_parameters()).keys() == dict(model.named_parameters()).keys()


def test_arguments_and_errors_are_the_scripts():
    read = Script(torch.jit.script(branches()))
    with pytest.raises(torch.jit.Error, match="too many images"):
        read(images_of(101, 3, 4, 4))
    with pytest.raises(TypeError, match="needs the argument 'images'"):
        read(times=3)
    with pytest.raises(TypeError, match="takes 3 arguments, got 4"):
        read(images_of(1, 3, 4, 4), 1.0, 2, 3)


@pytest.mark.parametrize("layer", ["blocks.1", "norm", "first"])
@pytest.mark.parametrize("method", ["grad_cam", "grad_cam_pp", "ablation_cam"])
def test_layers_within_control_flow(layer, method):
    """Of a module that runs several times the last run counts, as in the module that was scripted."""
    model, images = branches(), images_of(2, 3, 9, 11)
    expected = fastcam.explain(model, images, method, [1, 3], layer)
    script = torch.jit.script(model)
    buffer = io.BytesIO()
    torch.jit.save(script, buffer)
    buffer.seek(0)
    for each in (script, torch.jit.load(buffer)):
        found = fastcam.explain(each, images, method, [1, 3], layer)
        torch.testing.assert_close(found.native, expected.native, rtol=1e-5, atol=1e-6)
    by_module = fastcam.explain(script, images, method, [1, 3], functools.reduce(getattr, layer.split("."), script))
    assert torch.equal(by_module.native, fastcam.explain(script, images, method, [1, 3], layer).native)


def test_values_have_names():
    """What functions return, between the modules, and in a frozen script all there is."""
    model, images = small_network("mlp"), images_of(2, 3, 9, 11)
    frozen = torch.jit.freeze(torch.jit.script(model))
    expected = fastcam.explain(model, images, "grad_cam", 1)
    values = [name for name, each in as_module(frozen).named_modules() if isinstance(each, Value)]
    assert len(values) == len(list(as_module(frozen).modules())) - 1
    torch.testing.assert_close(fastcam.explain(frozen, images, "grad_cam", 1).native, expected.native)
    relu = [name for name in values if as_module(frozen).get_submodule(name).operation == "relu"][-1]
    torch.testing.assert_close(fastcam.explain(frozen, images, "grad_cam", 1, relu).native, expected.native)


def test_what_cannot_be_read_runs_without_layers():
    images, script = images_of(2, 3, 4, 5), torch.jit.script(Counting().eval())
    with pytest.raises(UnreadableError, match="it holds prim::SetAttr"):
        Script(script)
    assert as_module(script) is script
    with pytest.raises(TypeError, match="holds what cannot be read"):
        fastcam.explain(script, images, "grad_cam", 1)
    plain = fastcam.explain(script, images, "occlusion", 1, window=2, stride=2, engine="dense")
    assert plain.native.shape == (2, 4, 5)


def test_forks_are_read():
    images, script = images_of(2, 3, 4, 5), torch.jit.script(Forking().eval())
    assert torch.equal(Script(script)(images), script(images))


def test_training_mode_is_not_opened():
    script = torch.jit.script(branches().train())
    assert as_module(script) is script
    assert as_module(script.eval()) is not script


def test_what_is_opened_is_in_evaluation_mode(recwarn):
    """A value's module in training mode would be warned of, and the batch would not be divided."""
    script = torch.jit.trace(conv_net(), images_of(2, 3, 12, 10))
    assert not any(module.training for module in as_module(script).modules())
    fastcam.explain(script, images_of(2, 3, 12, 10))
    assert not any("training mode" in str(warning.message) for warning in recwarn)


def test_weights_are_shared_and_nothing_is_left():
    model, images = torch.jit.script(branches()), images_of(2, 3, 9, 11)
    explainer = fastcam.Explainer(model, "eigen_cam", "blocks.1")
    before, state = explainer(images, 1).native, {name: each.clone() for name, each in model.state_dict().items()}
    assert all(torch.equal(each, state[name]) for name, each in model.state_dict().items())
    with torch.no_grad():
        model.first.weight.mul_(0)
    assert not torch.equal(explainer(images, 1).native, before)
    assert not any(each._forward_hooks for each in explainer.model.modules())
