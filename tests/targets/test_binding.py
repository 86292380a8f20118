"""From output and target to scores: every form of target, and a sentence for every bad one."""

from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastcam
from fastcam.targets import binding
from tests.support.conv_net import Call, conv_net, images_for, suited
from tests.support.engine_cases import METHODS

pytestmark = pytest.mark.usefixtures("one_thread")

LOGITS = torch.tensor([[0.5, -1.0, 2.0, 0.0], [3.0, 1.0, -2.0, 0.25]])


# --- scores -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "classes"),
    [
        (None, [2, 0]),
        (1, [1, 1]),
        (np.int64(3), [3, 3]),
        (torch.tensor(3), [3, 3]),
        ([0, 3], [0, 3]),
        ((0, 3), [0, 3]),
        (torch.tensor([0, 3]), [0, 3]),
        (torch.tensor([0, 3], dtype=torch.uint8), [0, 3]),
        (np.array([0, 3]), [0, 3]),
        (np.array([0, 3], np.uint16), [0, 3]),
        ([torch.tensor(0), torch.tensor(3)], [0, 3]),
        ([[0], [3]], [[0], [3]]),
        ([[0, 1, 1], [3, 2, 0]], [[0, 1, 1], [3, 2, 0]]),
        (torch.tensor([[0, 1], [3, 2]]), [[0, 1], [3, 2]]),
        (np.array([[0, 1], [3, 2]], np.int32), [[0, 1], [3, 2]]),
        ("all", [[0, 1, 2, 3], [0, 1, 2, 3]]),
    ],
    ids=str,
)
def test_class_indices(target, classes):
    scores = binding.score(LOGITS, target, 2)
    assert scores.classes.tolist() == classes
    assert scores.classes.dtype == torch.int64
    expected = np.take_along_axis(LOGITS.numpy(), np.array(classes).reshape(2, -1), 1).reshape(np.shape(classes))
    assert np.array_equal(scores.values.numpy(), expected)


@pytest.mark.parametrize(
    ("target", "values"),
    [
        (lambda o: o[:, 1], [-1.0, 1.0]),
        (lambda o: o[:, 2] - o[:, 0], [1.5, -5.0]),
        (lambda o: o[:, :2], [[0.5, -1.0], [3.0, 1.0]]),
        (Call(lambda o: o.sum(1)), [1.5, 2.25]),
        ([lambda o: o[0], lambda o: o.sum()], [0.5, 2.25]),
        ((lambda o: o[0], lambda o: o[3:]), [0.5, 0.25]),
    ],
)
def test_callables(target, values):
    scores = binding.score(LOGITS, target, 2)
    assert scores.values.tolist() == values
    assert scores.classes is None


def test_one_callable_per_image_of_a_list():
    """Detectors return a list with one entry per image."""
    output = [{"scores": LOGITS[0]}, {"scores": LOGITS[1]}]
    scores = binding.score(output, [lambda o: o["scores"].max(), lambda o: o["scores"].min()], 2)
    assert scores.values.tolist() == [2.0, -2.0]


def test_classes_are_a_copy():
    given = torch.tensor([0, 3])
    scores = binding.score(LOGITS, given, 2)
    given.zero_()
    assert scores.classes.tolist() == [0, 3]


INDEX = "`target` must be a class index, 2 of them, 2 equally long lists of them, a callable or None, got "
WHOLE = "`target` must hold whole numbers, got "
SHAPE = r"`target` must be one class index, 2 of them, or 2 lists of K for K targets per image, got shape "
RETURN = r"a target callable must return a tensor of shape \(2,\) or \(2, K\), got "


@pytest.mark.parametrize(
    ("target", "error", "text"),
    [
        (4, ValueError, r"`target` must lie in \[0, 4\), got 4"),
        (-1, ValueError, r"`target` must lie in \[0, 4\), got -1"),
        ([0, 4], ValueError, r"`target` must lie in \[0, 4\), got \[0, 4\]"),
        ([0, 1, 2], ValueError, SHAPE + r"\(3,\)"),
        ([0], ValueError, SHAPE + r"\(1,\)"),
        ([[0, 1]], ValueError, SHAPE + r"\(1, 2\)"),
        (torch.zeros(2, 2, 2, dtype=torch.int64), ValueError, SHAPE + r"\(2, 2, 2\)"),
        (torch.zeros(2, 0, dtype=torch.int64), ValueError, SHAPE + r"\(2, 0\)"),
        (torch.zeros(0, dtype=torch.int64), ValueError, SHAPE + r"\(0,\)"),
        ([[0], [1, 2]], TypeError, INDEX + r"\[\[0\], \[1, 2\]\]"),
        ([None, 1], TypeError, INDEX),
        (["a", "b"], TypeError, INDEX),
        ({1, 2}, TypeError, INDEX + r"\{1, 2\}"),
        ({}, TypeError, INDEX),
        (object(), TypeError, INDEX),
        (2**70, TypeError, INDEX),
        ([lambda o: o.sum(), 1], TypeError, INDEX),
        (1.0, TypeError, WHOLE + "float64"),
        ([1.0, 2.0], TypeError, WHOLE + "float64"),
        (True, TypeError, WHOLE + "bool"),
        ([True, False], TypeError, WHOLE + "bool"),
        (1j, TypeError, WHOLE + "complex128"),
        ("cat", ValueError, "`target` must be a class index, a callable, None or \"all\", got 'cat'"),
        ([lambda o: o.sum()], ValueError, "one callable per image, 2, got 1"),
        ([lambda o: o] * 2, ValueError, r"must return one number per image, got shape \(4,\)"),
        ([lambda o: 3.0] * 2, ValueError, "must return one number per image, got float"),
        (lambda o: o.sum(), ValueError, RETURN + r"shape \(\)"),
        (lambda o: o.T, ValueError, RETURN + r"shape \(4, 2\)"),
        (lambda o: o[:, :, None], ValueError, RETURN + r"shape \(2, 4, 1\)"),
        (lambda o: o[:, :0], ValueError, RETURN + r"shape \(2, 0\)"),
        (lambda o: 3, ValueError, RETURN + "int"),
        (lambda o: None, ValueError, RETURN + "NoneType"),
    ],
)
def test_bad_targets(target, error, text):
    with pytest.raises(error, match=text):
        binding.score(LOGITS, target, 2)


@pytest.mark.parametrize("empty", [[], (), [[], []]])
def test_empty_targets_are_said_to_be_empty(empty):
    with pytest.raises((TypeError, ValueError), match="`target` must"):
        binding.score(LOGITS, empty, 2)


@pytest.mark.parametrize(
    ("output", "target", "error", "text"),
    [
        ((LOGITS, LOGITS), 1, TypeError, r"shape \(N, classes\), but the model returned a tuple; .* with select="),
        ({"out": LOGITS}, None, TypeError, r"shape \(N, classes\), but the model returned a dict; .* with select="),
        (None, 1, TypeError, "but the model returned a NoneType"),
        (torch.zeros(2, 4, 5, 5), 1, ValueError, r"N = 2, got \(2, 4, 5, 5\); pass a callable"),
        (torch.zeros(3, 4), 1, ValueError, r"N = 2, got \(3, 4\)"),
        (torch.zeros(()), 1, ValueError, r"N = 2, got \(\)"),
        ((LOGITS, LOGITS), [lambda o: o.max()] * 2, TypeError, "but the model returned a tuple"),
        ({"out": LOGITS}, [lambda o: o.max()] * 2, TypeError, "but the model returned a dict"),
    ],
)
def test_bad_outputs(output, target, error, text):
    with pytest.raises(error, match=text):
        binding.score(output, target, 2)


# --- select -----------------------------------------------------------------------------------------------------------

Named = namedtuple("Named", ["logits", "other"])


@dataclass
class Record:
    logits: Tensor
    other: Tensor


@pytest.mark.parametrize(
    ("pack", "select"),
    [
        (lambda y: (y, y * 0), 0),
        (lambda y: [y * 0, y], -1),
        (lambda y: {"out": y}, "out"),
        (lambda y: {"values": y, "keys": y * 0}, "values"),  # a key that is also the name of a method
        (lambda y: {0: y}, 0),
        (lambda y: Named(y, y * 0), "logits"),
        (lambda y: Named(y, y * 0), 0),
        (lambda y: Record(y, y * 0), "logits"),
        (lambda y: (y * 0, {"a": [y]}), lambda output: output[1]["a"][0]),
        (lambda y: y * 2, lambda output: output / 2),
    ],
)
def test_select(pack, select):
    model = nn.Sequential(conv_net(), Call(pack)).eval()
    plain = fastcam.explain(conv_net(), images_for(), "layer_cam", [[0, 1], [2, 3]], "features")
    explanation = fastcam.explain(model, images_for(), "layer_cam", [[0, 1], [2, 3]], "0.features", select=select)
    assert torch.equal(explanation.raw, plain.raw)
    assert torch.equal(explanation.output, plain.output)
    assert torch.equal(explanation.scores, plain.scores)


@pytest.mark.parametrize(
    ("output", "select", "kind"),
    [
        ((1, 2), 2, "tuple"),
        ((1, 2), "a", "tuple"),
        ({"a": 1}, "b", "dict"),
        (Record(LOGITS, LOGITS), "third", "Record"),
        (Record(LOGITS, LOGITS), 0, "Record"),
        (LOGITS, "a", "Tensor"),
        (None, 0, "NoneType"),
    ],
)
def test_bad_select(output, select, kind):
    with pytest.raises(TypeError, match=f"`select` is {select!r}, but the model's output, a {kind}, has no such part"):
        binding.select_output(output, select)


# --- through the network ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_several_targets_are_the_single_ones(method):
    model, layer = suited(method)
    chosen = torch.tensor([[0, 4, 2], [3, 3, 1]])
    together = fastcam.explain(model, images_for(), method, chosen, layer)
    assert torch.equal(together.targets, chosen)
    for k in range(3):
        single = fastcam.explain(model, images_for(), method, chosen[:, k], layer)
        torch.testing.assert_close(together.raw[:, k], single.raw, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(together.maps[:, k], single.maps, rtol=0, atol=1e-4)
        assert torch.equal(together.scores[:, k], single.scores)
        assert [row[k] for row in together.status] == single.status


@pytest.mark.parametrize("layer", ["features", "relu"])  # behind "relu" the gradient has a closed form
@pytest.mark.parametrize(
    ("target", "same"),
    [
        (None, lambda o: o.max(1).values),
        (3, lambda o: o[:, 3]),
        ([3, 0], [lambda o: o[3], lambda o: o[0]]),
        ([[3, 1], [3, 1]], lambda o: o[:, [3, 1]]),
        ("all", lambda o: o),
        (2, lambda o: o[:, 2:3]),
    ],
)
def test_callables_give_the_maps_of_their_classes(layer, target, same):
    by_index = fastcam.explain(conv_net(), images_for(), "layer_cam", target, layer)
    by_callable = fastcam.explain(conv_net(), images_for(), "layer_cam", same, layer)
    shape = by_callable.raw.shape
    torch.testing.assert_close(by_callable.raw, by_index.raw.reshape(shape), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(by_callable.scores, by_index.scores.reshape(shape[:-2]), rtol=0, atol=0)
    assert by_callable.targets is None


@pytest.mark.parametrize("layer", ["features", "relu"])
def test_scores_that_are_not_linear(layer):
    """A probability's gradient is p_c times that of the logits less their mean under p."""
    model, images = conv_net(), images_for()
    explanation = fastcam.explain(model, images, "hires_cam", lambda o: o.softmax(1)[:, 1], layer, relu=False)
    every = fastcam.explain(model, images, "hires_cam", "all", layer, relu=False).native
    p = model(images).softmax(1).detach()[:, :, None, None]
    expected = p[:, 1] * (every[:, 1] - (p * every).sum(1))
    torch.testing.assert_close(explanation.native, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layer", ["0.features", "0.relu"])
@pytest.mark.parametrize("method", ["grad_cam", "layer_cam"])
def test_outputs_without_an_axis_of_classes(method, layer):
    plain = fastcam.explain(conv_net(), images_for(), method, 2, layer.removeprefix("0."))
    for cut in (lambda o: o[:, 2], lambda o: o[:, 2:3]):
        model = nn.Sequential(conv_net(), Call(cut)).eval()
        for target in (None, 0, lambda o: o.reshape(2)):
            explanation = fastcam.explain(model, images_for(), method, target, layer)
            torch.testing.assert_close(explanation.raw, plain.raw, rtol=1e-5, atol=1e-7)
        explanation = fastcam.explain(model, images_for(), method, "all", layer)
        torch.testing.assert_close(explanation.raw, plain.raw.unsqueeze(1), rtol=1e-5, atol=1e-7)


class Segmentation(nn.Module):
    """One score per class and pixel."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 1)

    def forward(self, x):
        return {"out": self.head(self.layer(x).tanh())}


@pytest.mark.parametrize("select", [None, "out"])
def test_segmentation(select):
    torch.manual_seed(3)
    model, images = Segmentation().eval(), images_for()
    mask = torch.rand(2, *images.shape[2:]) > 0.5

    def target(output):
        return ((output if select else output["out"])[:, 1] * mask).sum((1, 2))

    explanation = fastcam.explain(model, images, "hires_cam", target, "layer", select=select, relu=False)
    activations = model.layer(images)
    weights = model.head.weight[1, :, 0, 0][:, None, None]
    gradient = weights * (1 - activations.tanh().square()) * mask[:, None]
    torch.testing.assert_close(explanation.native, (activations * gradient).sum(1).detach(), rtol=1e-4, atol=1e-6)
    with pytest.raises((TypeError, ValueError), match=r"callable|select="):
        fastcam.explain(model, images, target=1, target_layer="layer", select=select)


@pytest.mark.parametrize("layer", ["features", "relu"])
def test_bad_targets_through_explain(layer):
    for target, error, text in [
        (5, ValueError, r"must lie in \[0, 5\)"),
        (lambda o: o[:, :0], ValueError, "a target callable must return"),
        (lambda o: o.sum(), ValueError, "a target callable must return"),
    ]:
        with pytest.raises(error, match=text):
            fastcam.explain(conv_net(), images_for(), target=target, target_layer=layer)
