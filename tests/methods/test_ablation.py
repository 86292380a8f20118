"""Ablation-CAM against brute force: one whole forward pass for every channel, set to zero by a hook."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastcam
from fastcam.graph.next_affine import next_affine_layer
from fastcam.model import capture
from fastcam.model.batching import Block
from fastcam.model.inputs import Inputs
from fastcam.model.resume import NotResumableError, Resumed
from tests.support.conv_net import Call, conv_net, images_for
from tests.support.networks import in_double, small_images, small_network, torchvision_network

pytestmark = pytest.mark.usefixtures("one_thread")

K = [[0, 4, 2], [1, 1, 3]]


@torch.no_grad()
def brute_force(model: nn.Module, images: Tensor, layer: str, score, reshape=lambda tokens: tokens) -> Tensor:
    """sum_k (y - y_k) / y A_k with its sign, (N, *s)."""
    kept = []
    handle = model.get_submodule(layer).register_forward_hook(lambda *call: kept.append(call[2].clone()))
    clean = score(model(images))
    handle.remove()
    (activations,) = kept
    maps = reshape(activations)
    total = torch.zeros_like(maps[:, 0])
    for channel in range(maps.shape[1]):
        changed = activations.clone()
        reshape(changed)[:, channel] = 0  # a view of it
        handle = model.get_submodule(layer).register_forward_hook(lambda *call, changed=changed: changed.clone())
        weight = (clean - score(model(images))) / clean
        handle.remove()
        total += weight.reshape(-1, *[1] * (maps.dim() - 2)) * maps[:, channel]
    return total


class Residual(nn.Module):
    """The layer's input goes around it; the addition works in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.layer = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.tail, self.classifier = nn.Conv2d(6, 4, 3), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        around = self.stem(x).relu_()
        x = self.layer(around)
        x += around
        return self.classifier(self.tail(x.tanh()).relu().amax((2, 3)))


def behind(*head: nn.Module) -> nn.Sequential:
    """A convolution named 0, ReLU in place named 1, and a head."""
    torch.manual_seed(4)
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True), *head)


def _flat(size: int) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(6 * size, 7), nn.Tanh(), nn.Linear(7, 5)]


CONVOLUTION = nn.Conv2d(6, 7, 3, stride=2, padding=1, dilation=2)
# What stands behind the layer, by how the scores should be found, and which layer is asked.
HEADS = {
    "pooling, linear": (lambda: behind(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)), "1"),
    "max pooling, linear": (lambda: behind(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(6, 5)), "1"),
    "linear": (lambda: behind(*_flat(120)), "1"),
    "linear behind poolings": (
        lambda: behind(nn.MaxPool2d(2), nn.AdaptiveAvgPool2d((3, 2)), nn.Dropout(), *_flat(6)),
        "1",
    ),
    "linear behind a rectifier": (lambda: behind(*_flat(120)), "0"),
    "convolution": (
        lambda: behind(CONVOLUTION, nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(7, 5)),
        "1",
    ),
    "grouped convolution": (
        lambda: behind(nn.Conv2d(6, 4, 3, groups=2), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 5)),
        "1",
    ),
    "batch norm, then a convolution": (
        lambda: behind(
            nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
        ),
        "1",
    ),
    "linear over positions": (
        lambda: behind(nn.Linear(10, 3), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 12 * 3, 5)),
        "1",
    ),
    "used twice": (
        lambda: behind(Call(lambda x: torch.cat([x.sum(3), x.cumsum(3)[..., 0]], 1).flatten(1)), nn.Linear(144, 5)),
        "1",
    ),
    "residual": (Residual, "layer"),
}


def model_of(name: str) -> nn.Module:
    torch.manual_seed(4)
    return HEADS[name][0]().double().eval()


SCORES = {
    "class": (2, lambda output: output[:, 2]),
    "probability": (fastcam.targets.Probability(2), lambda output: output.softmax(1)[:, 2]),
    "callable": (lambda output: output[:, 2].exp() + 1, lambda output: output[:, 2].exp() + 1),
}


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("score", SCORES)
def test_brute_force(name, score):
    model, images = model_of(name), images_for().double()
    target, function = SCORES[score]
    explanation = fastcam.explain(model, images, "ablation_cam", target, HEADS[name][1], relu=False, batch_size=5)
    expected = brute_force(model_of(name), images, HEADS[name][1], function)
    assert expected.abs().max() > 1e-6
    torch.testing.assert_close(explanation.native, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", HEADS)
def test_several_targets_are_the_single_ones(name):
    model, images = model_of(name), images_for().double()
    together = fastcam.explain(model, images, "ablation_cam", K, HEADS[name][1])
    for k in range(3):
        alone = fastcam.explain(model, images, "ablation_cam", [row[k] for row in K], HEADS[name][1])
        torch.testing.assert_close(together.native[:, k], alone.native, rtol=1e-7, atol=1e-9)


NEXT = {
    "linear": "3",
    "linear behind poolings": "6",
    "linear behind a rectifier": "3",
    "convolution": "2",
    "linear over positions": "2",  # refused later, when its input is seen
    "max pooling, linear": "4",
}


@pytest.mark.parametrize("name", HEADS)
def test_which_layer_comes_next(name):
    model, layer = model_of(name), HEADS[name][1]
    chosen = capture.Layer(layer, model.get_submodule(layer))
    captured = capture.forward(model, images_for().double(), [chosen], with_graph=True)
    found = next_affine_layer(model, captured.output, captured.activations[0])
    assert (None if found is None else found.name) == NEXT.get(name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pooling, linear", {"0": 1, "-1": 1}),  # one forward pass and nothing else
        ("linear", {"0": 2}),  # the front once more, to note what it returns
        ("convolution", {"0": 2}),
        ("residual", {"stem": 2}),
    ],
)
def test_how_often_the_layers_run(name, expected, monkeypatch):
    """Counted where the arithmetic is: calls of F.conv2d and F.linear with the layer's weight."""
    model, counts = model_of(name), {}
    names = {id(module.weight): name for name, module in model.named_modules() if hasattr(module, "weight")}
    names[id(next(reversed(list(model.modules()))).weight)] = "-1"
    convolve, multiply = torch.conv2d, F.linear

    def counted(function):
        def call(x, weight, *arguments, **keywords):
            key = names.get(id(weight), "")
            counts[key] = counts.get(key, 0) + 1
            return function(x, weight, *arguments, **keywords)

        return call

    class Counting(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, arguments=(), keywords=None):
            keywords = keywords or {}
            if function in (convolve, multiply):
                return counted(function)(*arguments, **keywords)
            return function(*arguments, **keywords)

    with Counting():
        fastcam.explain(model, images_for().double(), "ablation_cam", 2, HEADS[name][1])
    assert {key: counts[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("make", "layer", "reshape"),
    [
        (lambda: torchvision_network("densenet121"), "features.denseblock4.denselayer16.conv2", None),
        (lambda: torchvision_network("resnet18"), "layer1.0.conv1", None),
        (
            lambda: timm.create_model("swin_tiny_patch4_window7_224", img_size=56, embed_dim=24),
            "layers.0",
            fastcam.swin_reshape,
        ),
        (
            lambda: timm.create_model("vit_tiny_patch16_224", img_size=64, embed_dim=48),
            "blocks.11.norm1",
            fastcam.vit_reshape,
        ),
    ],
    ids=["dense", "residual", "Swin", "ViT"],
)
def test_architectures(make, layer, reshape):
    """Concatenations and additions around the layer, windows and tokens behind it."""
    torch.manual_seed(0)
    model, images = make().eval(), torch.randn(2, 3, 56, 56)
    images = F.interpolate(images, 64) if layer == "blocks.11.norm1" else images
    found = fastcam.explain(model, images, "ablation_cam", 3, layer, relu=False, reshape_transform=reshape)
    expected = brute_force(model, images, layer, lambda output: output[:, 3], reshape or (lambda maps: maps))
    torch.testing.assert_close(found.native, expected, rtol=0, atol=2e-3 * expected.abs().max().item())


# --- the part behind a layer ------------------------------------------------------------------------------------------


def resumed(model: nn.Module, images: Tensor, layer: str) -> tuple[Resumed, Tensor]:
    chosen = capture.Layer(layer, model.get_submodule(layer))
    activations = capture.forward(model, images, [chosen]).activations[0]
    return Resumed(lambda inputs: capture.forward(model, inputs.arguments).output, Inputs(images), chosen), activations


@pytest.mark.parametrize("name", ["linear", "residual", "used twice"])
def test_resumed_rows_belong_to_their_images(name):
    model, images = model_of(name), images_for(count=3).double()
    part, activations = resumed(model, images, HEADS[name][1])
    block = Block(range(1, 3), range(4))
    output = part(activations[1:].repeat_interleave(4, 0), block)
    torch.testing.assert_close(output, model(images)[1:].repeat_interleave(4, 0).detach())


def test_a_model_that_goes_another_way_is_noticed():
    class Moody(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.calls = nn.Conv2d(3, 4, 3), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            x = x.exp() if self.calls > 2 else x.sin()
            return self.layer(x).mean((2, 3))

    images = images_for()
    part, activations = resumed(Moody().eval(), images, "layer")
    with pytest.raises(NotResumableError, match="the model called exp where it called sin before"):
        part(activations, Block(range(2), range(1)))


def test_what_cannot_be_resumed_runs_whole():
    class Random(nn.Module):
        """Runs its front another way every second time."""

        def __init__(self) -> None:
            super().__init__()
            self.front, self.layer, self.calls = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), 0
            self.head = nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            x = self.front(x) * 1 if self.calls % 2 else self.front(x) / 1
            return self.head(self.layer(x).tanh().amax((2, 3)))

    torch.manual_seed(0)
    model, images = Random().double().eval(), images_for().double()
    found = fastcam.explain(model, images, "ablation_cam", 1, "layer", relu=False)
    torch.testing.assert_close(found.native, brute_force(model, images, "layer", lambda output: output[:, 1]))


@pytest.mark.parametrize("axes", [1, 3])
def test_signals_and_volumes(axes):
    model, images = in_double(small_network("mlp", axes)), small_images(axes).double()
    found = fastcam.explain(model, images, "ablation_cam", 1, "body", relu=False)
    expected = brute_force(model, images, "body", lambda output: output[:, 1])
    torch.testing.assert_close(found.native, expected, rtol=1e-7, atol=1e-9)


def test_frozen_parameters():
    model, images = conv_net(nn.Conv2d(8, 8, 3)), images_for()
    expected = fastcam.explain(model, images, "ablation_cam", 1, "relu").native
    model.requires_grad_(False)
    torch.testing.assert_close(fastcam.explain(model, images, "ablation_cam", 1, "relu").native, expected)
