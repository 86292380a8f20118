"""Every score of fastcam.targets is its formula, for gradients, perturbations and paths, and stays with its image."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastcam
from fastcam import targets
from tests.support.conv_net import Call, conv_net, images_for

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS = torch.arange(2)
WINDOWS = [(y, x) for y in range(0, 9, 4) for x in range(0, 7, 3)]  # of a 4 x 4 window on 12 x 10, every (4, 3)
SIDE = torch.randn(5, generator=torch.Generator().manual_seed(4))
SIDES = torch.randn(2, 5, generator=torch.Generator().manual_seed(5))


def runner_up(logits: Tensor, first: list[int]) -> Tensor:
    ordered = logits.argsort(1, descending=True)
    return torch.tensor([next(int(c) for c in row if c != f) for row, f in zip(ordered, first, strict=True)])


def highest(clean: Tensor) -> Tensor:
    return clean.argmax(1)


# From the output of copies of both images, and that of the images as they are, to the scores.
CLASSIFIERS = {
    "logit": (targets.Logit([3, 0]), lambda o, c: o[ROWS, [3, 0]]),
    "probability": (targets.Probability(), lambda o, c: o.softmax(1)[ROWS, highest(c)]),
    "probability per image": (targets.Probability([3, 0]), lambda o, c: o.softmax(1)[ROWS, [3, 0]]),
    "probability of two": (targets.Probability([[1, 2], [4, 0]]), lambda o, c: o.softmax(1).gather(1, PAIRS)),
    "probability of all": (targets.Probability("all"), lambda o, c: o.softmax(1)),
    "log-probability": (targets.LogProbability([3, 0]), lambda o, c: o.log_softmax(1)[ROWS, [3, 0]]),
    "difference": (targets.Difference([3, 0], [1, 4]), lambda o, c: o[ROWS, [3, 0]] - o[ROWS, [1, 4]]),
    "runner-up": (targets.Difference(), lambda o, c: o[ROWS, highest(c)] - o[ROWS, runner_up(c, highest(c))]),
    "best but 2": (targets.Difference(2), lambda o, c: o[:, 2] - o[ROWS, runner_up(c, [2, 2])]),
    "regression": (targets.Regression(3), lambda o, c: o[:, 3]),
    "last number": (targets.Regression(-1), lambda o, c: o[:, 4]),
    "cosine": (targets.Similarity(SIDE), lambda o, c: (o @ SIDE) / (o.norm(dim=1) * SIDE.norm())),
    "cosine of a row": (targets.Similarity(SIDE[None]), lambda o, c: (o @ SIDE) / (o.norm(dim=1) * SIDE.norm())),
    "cosines": (targets.Similarity(SIDES), lambda o, c: (o * SIDES).sum(1) / (o.norm(dim=1) * SIDES.norm(dim=1))),
    "dot": (targets.Similarity(SIDES, "dot"), lambda o, c: (o * SIDES).sum(1)),
    "callable": (lambda o: o[:, 1] ** 2, lambda o, c: o[:, 1] ** 2),
    "callable per image": ([lambda o: o[0], lambda o: o[3] * 2], lambda o, c: torch.stack([o[0, 0], o[1, 3] * 2])),
}
PAIRS = torch.tensor([[1, 2], [4, 0]])


def one_output(model: nn.Module) -> nn.Module:
    middle = model(images_for())[:, 2].mean().item()  # so that one image is positive and one negative
    return nn.Sequential(model, Call(lambda o: o[:, 2:3] - middle)).eval()


BINARY = {
    "positive": (targets.Binary(), lambda o, c: o[:, 0]),
    "negative": (targets.Binary(False), lambda o, c: -o[:, 0]),
    "what it says": (targets.Binary(None), lambda o, c: o[:, 0] * c[:, 0].sign()),
    "probability of it": (targets.Binary(None, probability=True), lambda o, c: (o[:, 0] * c[:, 0].sign()).sigmoid()),
}


def network() -> nn.Module:
    """Two convolutions to a map (N, 4, 12, 10); its first is the target layer."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 4, 3, padding=1)).eval()


def anchors_last(output: Tensor) -> Tensor:
    return output.flatten(2).mT  # as YOLOv5 gives it: (N, candidates, channels)


MASK = torch.rand(12, 10, generator=torch.Generator().manual_seed(6)) > 0.5
MASKS = torch.rand(2, 12, 10, generator=torch.Generator().manual_seed(7))
DENSE = {
    "where it is highest": (targets.Segmentation(1), None, lambda o, c: (o[:, 1] * (c.argmax(1) == 1)).sum((1, 2))),
    "mask": (targets.Segmentation(1, MASK), None, lambda o, c: (o[:, 1] * MASK).sum((1, 2))),
    "mask per image": (targets.Segmentation(2, MASKS), None, lambda o, c: (o[:, 2] * MASKS).sum((1, 2))),
    "anchors, axis 1": (targets.Anchors(3, axis=1), None, lambda o, c: o[:, 3].amax((1, 2))),
    "anchors": (targets.Anchors(2), anchors_last, lambda o, c: o[:, :, 2].amax(1)),
}


def check_gradients(model, features, tail, target, formula, **settings):
    """HiRes-CAM without ReLU is the sum of activation times gradient."""
    images = images_for()
    with torch.no_grad():
        clean = model(images)
    activations = features(images).detach().requires_grad_()
    scores = formula(tail(activations), clean)
    found = fastcam.explain(model, images, "hires_cam", target, relu=False, **settings)
    torch.testing.assert_close(found.scores, scores.detach(), rtol=1e-5, atol=1e-6)
    columns = scores.unsqueeze(1) if scores.dim() == 1 else scores
    expected = [
        (torch.autograd.grad(column.sum(), activations, retain_graph=True)[0] * activations).sum(1).detach()
        for column in columns.unbind(1)
    ]
    torch.testing.assert_close(found.native, torch.stack(expected, 1).reshape(found.native.shape), rtol=1e-4, atol=1e-6)


def check_occlusion(model, target, formula, **settings):
    """The grid holds the formula's value of every hidden image; bit by bit the same however copies are batched."""
    images = images_for()
    with torch.no_grad():
        clean = model(images)
        grid = []
        for y, x in WINDOWS:
            hidden = images.clone()
            hidden[:, :, y : y + 4, x : x + 4] = 0
            grid.append(formula(model(hidden), clean))
    options = {"window": 4, "stride": (4, 3)} | settings
    apart = fastcam.explain(model, images, "occlusion", target, batch_size=1, **options)
    together = fastcam.explain(model, images, "occlusion", target, batch_size=5, **options)
    expected = torch.stack(grid, -1).unflatten(-1, (3, 3))
    torch.testing.assert_close(apart.details["grid"], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(apart.native, together.native, rtol=1e-4, atol=1e-6)
    assert apart.native.abs().max() > 1e-5


def check_path(model, target, formula, **settings):
    """Integrated Gradients is the image times the mean gradient of the formula on the way."""
    images = images_for()
    clean = model(images).detach()
    total = 0
    for alpha in (1 / 6, 1 / 2, 5 / 6):
        leaf = (alpha * images).requires_grad_()
        columns = formula(model(leaf), clean).reshape(2, -1)
        found = [torch.autograd.grad(each.sum(), leaf, retain_graph=True)[0] for each in columns.unbind(1)]
        total = total + torch.stack(found, 1) / 3
    options = {"steps": 3, "quadrature": "riemann_middle", "batch_size": 2} | settings
    found = fastcam.explain(model, images, "integrated_gradients", target, **options)
    expected = (total * images.unsqueeze(1)).reshape(found.attributions.shape)
    torch.testing.assert_close(found.attributions, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers(name):
    target, formula = CLASSIFIERS[name]
    model = conv_net(inplace=False)

    def tail(a):
        return model.classifier(model.relu(a).mean((2, 3)))

    check_gradients(model, lambda x: model.features(model.stem(x)), tail, target, formula, target_layer="features")
    check_occlusion(model, target, formula)
    check_path(model, target, formula)


@pytest.mark.parametrize("name", ["probability", "log-probability", "runner-up", "cosines", "dot", "callable"])
def test_behind_global_pooling(name):
    """There the gradient has a closed form."""
    target, formula = CLASSIFIERS[name]
    model = conv_net()

    def features(x):
        return model.relu(model.features(model.stem(x)))

    check_gradients(model, features, lambda a: model.classifier(a.mean((2, 3))), target, formula, target_layer="relu")


@pytest.mark.parametrize("flat", [False, True], ids=["(N, 1)", "(N,)"])
@pytest.mark.parametrize("name", BINARY)
def test_binary(name, flat):
    target, formula = BINARY[name]
    model = one_output(conv_net())
    assert model(images_for())[:, 0].sign().sum() == 0
    if flat:
        whole = nn.Sequential(model, Call(lambda o: o[:, 0])).eval()
        found = fastcam.explain(whole, images_for(), "occlusion", target, window=4, stride=(4, 3))
        expected = fastcam.explain(model, images_for(), "occlusion", target, window=4, stride=(4, 3))
        assert torch.equal(found.native, expected.native)
    else:
        check_occlusion(model, target, formula)
        check_path(model, target, formula)


@pytest.mark.parametrize("name", DENSE)
def test_segmentation_and_anchors(name):
    target, shape, formula = DENSE[name]
    body = network()
    model = body if shape is None else nn.Sequential(*body, Call(shape)).eval()
    check_gradients(model, model[0], model[1:], target, formula, target_layer="0")
    check_occlusion(model, target, formula)
    check_path(model, target, formula)


def position_of(activations: Tensor) -> Tensor:
    return activations.flatten(1).argmax(1)


NEURONS = {
    "strongest": (targets.Neuron("0", 2), lambda a, c: a[:, 2].flatten(1)[ROWS, position_of(c[:, 2])]),
    "strongest of all": (targets.Neuron("0"), lambda a, c: a.flatten(1)[ROWS, position_of(c)]),
    "sum": (targets.Neuron("0", 2, "sum"), lambda a, c: a[:, 2].sum((1, 2))),
    "place": (targets.Neuron("0", 2, (7, 3)), lambda a, c: a[:, 2, 7, 3]),
    "place of all": (targets.Neuron("0", None, (2, 7, 3)), lambda a, c: a[:, 2, 7, 3]),
}


@pytest.mark.parametrize("name", NEURONS)
def test_neurons(name):
    """The strongest position is the clean image's, wherever a window falls."""
    target, formula = NEURONS[name]
    model = nn.Sequential(nn.Sequential(*network()), nn.Flatten(), nn.Linear(480, 3)).eval()
    inner = model[0]
    images = images_for()
    clean = inner(images).detach()
    found = fastcam.explain(model, images, ["saliency", "occlusion"], target, window=4, stride=(4, 3), batch_size=3)
    leaf = images.clone().requires_grad_()
    scores = formula(inner(leaf), clean)
    torch.testing.assert_close(found["saliency"].scores, scores.detach())
    (gradient,) = torch.autograd.grad(scores.sum(), leaf)
    torch.testing.assert_close(found["saliency"].attributions, gradient, rtol=1e-4, atol=1e-6)
    hidden = images.clone()
    hidden[:, :, 4:8, 3:7] = 0
    torch.testing.assert_close(found["occlusion"].details["grid"][:, 1, 1], formula(inner(hidden), clean).detach())


def test_similarity_as_torch_has_it():
    output = torch.randn(2, 5)
    bound = targets.Similarity(SIDES).bind(output, 2)
    assert torch.equal(bound(output, ROWS), F.cosine_similarity(output, SIDES))


@dataclass
class Pair:
    first: Tensor
    second: Tensor


@pytest.mark.parametrize(
    ("pack", "select"),
    [
        (lambda o: (o * 0, o), 1),
        (lambda o: {"aux": o * 0, "out": o}, "out"),
        (lambda o: Pair(o * 0, o), "second"),
        (lambda o: SimpleNamespace(parts=[o]), lambda output: output.parts[0]),
    ],
    ids=["tuple", "dict", "dataclass", "function"],
)
@pytest.mark.parametrize("method", ["grad_cam", "occlusion", "integrated_gradients"])
def test_select(method, pack, select):
    options = {"target_layer": "0.features"} if method == "grad_cam" else {}
    wrapped = nn.Sequential(conv_net(), Call(pack)).eval()
    plain = nn.Sequential(conv_net(), nn.Identity()).eval()
    found = fastcam.explain(wrapped, images_for(), method, targets.Probability(), select=select, **options)
    expected = fastcam.explain(plain, images_for(), method, targets.Probability(), **options)
    assert torch.equal(found.native, expected.native)
    assert torch.equal(found.output, expected.output)
