"""What the engine finds out about a model: which run of a layer, the grad mode, and the part of the output."""

import gc
import itertools
import warnings
import weakref
from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import fastcam
from fastcam import targets
from fastcam.engine import notes
from fastcam.model import memory
from tests.support.conv_net import Call
from tests.support.networks import torchvision_network
from tests.support.token_networks import pictures

pytestmark = pytest.mark.usefixtures("one_thread")


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def encoder() -> nn.Sequential:
    torch.manual_seed(9)
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 8, 3, 2, 1), nn.Tanh()).double().eval()


def cam(score, A: Tensor) -> Tensor:
    """Grad-CAM without ReLU of activations A by plain autograd."""
    leaf = A.detach().requires_grad_()
    (G,) = torch.autograd.grad(score(leaf).sum(), leaf)
    return (G.mean((2, 3), keepdim=True) * leaf).sum(1).detach()


# --- runs of a shared layer -------------------------------------------------------------------------------------------


class Siamese(nn.Module):
    """Two pictures through one encoder, the second first if told; the classes of the pair are not symmetric."""

    def __init__(self, second_first: bool) -> None:
        super().__init__()
        self.encoder, self.second_first = encoder(), second_first
        self.head = nn.Linear(16, 5).double()

    def compare(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head(torch.cat([left.mean((2, 3)), right.amax((2, 3))], 1).tanh())

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        if self.second_first:
            after = self.encoder(right)
            return self.compare(self.encoder(left), after)
        return self.compare(self.encoder(left), self.encoder(right))

    def cam_of(self, side: int, left: Tensor, right: Tensor) -> Tensor:
        a, b = self.encoder(left), self.encoder(right)
        if side == 0:
            return cam(lambda leaf: self.compare(leaf, b.detach())[:, 3], a)
        return cam(lambda leaf: self.compare(a.detach(), leaf)[:, 3], b)


@pytest.mark.parametrize("layer", ["encoder", "encoder.2"])
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("second_first", [False, True])
def test_the_run_of_the_explained_argument(second_first, side, layer):
    torch.manual_seed(0)
    model, pair = Siamese(second_first).eval(), (pictures(8, 12), pictures(8, 12, seed=7))
    found = fastcam.explain(model, pair, target=3, target_layer=layer, relu=False, strict=True, explain_input=side)
    if layer == "encoder.2":  # in front of the last tanh

        def score(leaf: Tensor) -> Tensor:
            encoded = [model.encoder(each).detach() for each in pair]
            encoded[side] = leaf.tanh()
            return model.compare(*encoded)[:, 3]

        close(found.native, cam(score, model.encoder[:3](pair[side])))
    else:
        close(found.native, model.cam_of(side, *pair))


@pytest.mark.parametrize("side", [0, 1])
def test_the_layer_found_is_on_the_way_of_the_explained_argument(side):
    torch.manual_seed(0)
    model, pair = Siamese(False).eval(), (pictures(8, 12), pictures(8, 12, seed=7))
    found = fastcam.explain(model, pair, target=3, relu=False, strict=True, explain_input=side)
    assert found.layer == "encoder"
    close(found.native, model.cam_of(side, *pair))


def test_the_run_is_that_of_every_call():
    """The runs found for one argument are not those of another of the same shape."""
    torch.manual_seed(0)
    model, pair = Siamese(False).eval(), (pictures(8, 12), pictures(8, 12, seed=7))
    for side in (0, 1, 0):
        found = fastcam.explain(model, pair, target=3, target_layer="encoder", relu=False, explain_input=side)
        close(found.native, model.cam_of(side, *pair))


@pytest.mark.parametrize("run", [0, 1])
def test_a_chosen_run(run):
    torch.manual_seed(0)
    model, pair = Siamese(False).eval(), (pictures(8, 12), pictures(8, 12, seed=7))
    found = fastcam.explain(model, pair, target=3, target_layer="encoder", relu=False, layer_run=run, strict=True)
    close(found.native, model.cam_of(run, *pair))


def test_a_run_that_there_is_not():
    model, pair = Siamese(False).eval(), (pictures(8, 12), pictures(8, 12, seed=7))
    with pytest.raises(RuntimeError, match=r"`layer_run` is 2, but target layer 'encoder' ran 2 times.* 0 to 1"):
        fastcam.explain(model, pair, target_layer="encoder", layer_run=2)


class Recurrent(nn.Module):
    """One cell, three times over the same picture."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(9)
        self.first, self.cell = nn.Conv2d(3, 6, 1), nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.Tanh())
        self.head = nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        state = self.first(images)
        for _ in range(3):
            state = self.cell(state)
        return self.classify(state)

    def classify(self, state: Tensor) -> Tensor:
        return self.head(state.mean((2, 3)).tanh())


def test_several_runs_on_the_picture_are_a_guess(monkeypatch):
    monkeypatch.setattr(notes, "_warned", set())
    model, images = Recurrent().double().eval(), pictures(8, 12)
    with pytest.raises(ValueError, match=r"'cell' ran 3 times.*the last run .* is explained.*layer_run="):
        fastcam.explain(model, images, target_layer="cell", strict=True)
    with pytest.warns(UserWarning, match="'cell' ran 3 times in one forward pass"):
        found = fastcam.explain(model, images, target=3, target_layer="cell", relu=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = fastcam.explain(model, images, target=3, target_layer="cell", relu=False)  # said once
    assert again.notes == found.notes != ()
    states = list(itertools.accumulate(range(3), lambda state, _: model.cell(state), initial=model.first(images)))
    close(found.native, cam(lambda leaf: model.classify(leaf)[:, 3], states[3]))
    second = fastcam.explain(model, images, target=3, target_layer="cell", relu=False, layer_run=1, strict=True)
    close(second.native, cam(lambda leaf: model.classify(model.cell(leaf))[:, 3], states[2]))


# --- models that set the grad mode themselves -------------------------------------------------------------------------


class OwnGradMode(nn.Module):
    """The encoder in a block of its own grad mode, which ends before the head."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = encoder(), nn.Linear(8, 5).double()
        self.pair = Call(lambda maps: (maps * 0.5, maps.tanh()))

    def forward(self, images: Tensor) -> Tensor:
        with torch.set_grad_enabled(True):
            first, second = self.pair(self.encoder(images))
        return self.classify(first, second)

    def classify(self, first: Tensor, second: Tensor) -> Tensor:
        return self.head((first.mean((2, 3)) + second.amax((2, 3))).tanh())


def own_grad_mode() -> tuple[OwnGradMode, Tensor]:
    torch.manual_seed(2)
    return OwnGradMode().eval(), pictures(8, 12)


@pytest.mark.parametrize("outer", [True, False])
def test_own_grad_mode(outer):
    model, images = own_grad_mode()
    with torch.set_grad_enabled(outer):
        found = fastcam.explain(model, images, target=[[3, 1], [0, 4]], target_layer="encoder", relu=False)
    A = model.encoder(images)
    for k, classes in enumerate(([3, 0], [1, 4])):
        close(found.native[:, k], cam(lambda leaf, c=classes: model.classify(*model.pair(leaf))[[0, 1], c], A))


def test_own_grad_mode_with_several_layers():
    model, images = own_grad_mode()
    found = fastcam.explain(
        model, images, target=3, target_layer=["encoder.1", "encoder.2", "encoder"], relu=False, fuse=None
    )
    for name, split in (("encoder.1", 2), ("encoder.2", 3), ("encoder", 4)):
        tail = model.encoder[split:]
        A = model.encoder[:split](images)
        close(found[name].native, cam(lambda leaf, t=tail: model.classify(*model.pair(t(leaf)))[:, 3], A))


@pytest.mark.parametrize("element", [0, 1])
def test_own_grad_mode_with_an_element_of_the_layer(element):
    model, images = own_grad_mode()
    found = fastcam.explain(model, images, target=3, target_layer="pair", layer_output=element, relu=False)
    parts = [part.detach() for part in model.pair(model.encoder(images))]

    def score(leaf: Tensor) -> Tensor:
        return model.classify(*(leaf if i == element else part for i, part in enumerate(parts)))[:, 3]

    close(found.native, cam(score, parts[element]))


def test_no_grad_around_the_whole_model_has_no_gradient():
    model, images = own_grad_mode()
    model.head = Call(torch.no_grad()(model.head.forward)).eval()
    with pytest.raises(RuntimeError, match="does not depend on target layer 'encoder'"):
        fastcam.explain(model, images, target=3, target_layer="encoder")


# --- the part of the output -------------------------------------------------------------------------------------------


@dataclass
class Record:
    loss: object
    logits: Tensor
    hidden: Tensor


Named = namedtuple("Named", ["boxes", "out"])
Lone = namedtuple("Lone", ["prediction", "kind"])


class Wrapped(nn.Module):
    """Logits and a tensor beside them, as other models return them."""

    def __init__(self, wrap) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.encoder, self.head, self.wrap = encoder(), nn.Linear(8, 5).double(), wrap

    def forward(self, images: Tensor) -> object:
        maps = self.encoder(images)
        logits = self.head(maps.mean((2, 3)).tanh())
        return self.wrap(logits, -2 * logits)


OUTPUTS = {
    "dataclass": lambda logits, other: Record(None, logits, other),
    "out and aux": lambda logits, other: {"aux": other, "out": logits},
    "logits_per_image": lambda logits, other: {"logits_per_text": other, "logits_per_image": logits},
    "named tuple": lambda logits, other: Named(other, logits),
    "named tuple with one tensor": lambda logits, other: Lone(logits, "classes"),
    "features": lambda logits, other: (logits, [other, other]),
    "one of a name that says nothing": lambda logits, other: {"prediction": logits, "words": "five"},
}


@pytest.mark.parametrize("method", ["grad_cam", "score_cam", "saliency"])
@pytest.mark.parametrize("wrap", OUTPUTS.values(), ids=OUTPUTS)
def test_outputs_with_one_part_that_is_meant(wrap, method):
    images = pictures(8, 12)
    plain = fastcam.explain(Wrapped(lambda logits, other: logits).eval(), images, method)
    found = fastcam.explain(Wrapped(wrap).eval(), images, method)
    close(found.native, plain.native)
    assert torch.equal(found.targets, plain.targets)
    assert any("of the model's output" in note for note in found.notes)


def test_two_tensors_ask_which():
    model, images = Wrapped(lambda logits, other: (logits, other)).eval(), pictures(8, 12)
    with pytest.raises((TypeError, ValueError), match="select="):
        fastcam.explain(model, images, target=3, target_layer="encoder")
    found = fastcam.explain(model, images, target=3, target_layer="encoder", select=1, relu=False)
    plain = fastcam.explain(
        Wrapped(lambda logits, other: logits).eval(), images, target=3, target_layer="encoder", relu=False
    )
    close(found.native, -2 * plain.native)


def test_a_callable_gets_the_whole_output():
    model = Wrapped(OUTPUTS["out and aux"]).eval()
    options = {"target_layer": "encoder", "relu": False}
    found = fastcam.explain(model, pictures(8, 12), target=lambda output: output["aux"][:, 3], **options)
    plain = fastcam.explain(model, pictures(8, 12), target=3, **options)
    close(found.native, -2 * plain.native)


# --- what is remembered -----------------------------------------------------------------------------------------------


def test_memory_is_emptied_when_the_modules_change():
    model = Wrapped(lambda logits, other: logits).eval()
    fastcam.explain(model, pictures(8, 12))
    assert memory.of(model)
    assert memory.of(model) is memory.of(model)
    model.encoder[3] = nn.Sigmoid().eval()  # exchanged
    assert memory.of(model) == {}
    memory.of(model)["key",] = 1
    model.encoder.append(nn.Tanh().eval())  # added
    assert memory.of(model) == {}
    assert fastcam.explain(model, pictures(8, 12)).layer == "encoder"


def test_memory_holds_no_model_alive():
    model = Recurrent().double().eval()
    fastcam.explain(model, pictures(8, 12), target_layer="first")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fastcam.explain(model, pictures(8, 12))
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None


class TwoHeads(nn.Module):
    """Two vectors of scores, from different layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        early = self.first(x).relu()
        return {"early": early.mean((2, 3)), "late": self.second(early).mean((2, 3))}


def test_a_part_of_the_output_has_a_layer_of_its_own():
    """Layers are found once for a model, and part."""
    model, images = TwoHeads().eval(), torch.randn(2, 3, 9, 9)
    explained = [fastcam.explain(model, images, target=1, select=part) for part in ("late", "early", "late")]
    assert [each.layer for each in explained] == ["second", "first", "second"]


@pytest.mark.parametrize(
    ("scored", "layer", "run"),
    [("layer3", "layer2", None), ("layer4.1.conv2", "layer4.1.relu", 0), ("layer1", "maxpool", None)],
)
def test_the_layer_of_a_neuron_is_in_front_of_it(scored, layer, run):
    model, images, target = torchvision_network("resnet18"), torch.randn(2, 3, 64, 64), targets.Neuron(scored, 5, "sum")
    found = fastcam.explain(model, images, "hires_cam", target)
    expected = fastcam.explain(model, images, "hires_cam", target, layer, layer_run=run)
    assert found.layer == layer
    torch.testing.assert_close(found.native, expected.native)
    assert found.native.amax() > found.native.amin()
