"""The scores of every task: their formulas, the images they belong to, and a sentence for what does not fit."""

from dataclasses import dataclass

import pytest
import torch
import torchvision
from torch import Tensor, nn

import fastcam
from fastcam import targets
from fastcam.targets import binding
from tests.support.conv_net import Call, autograd_gradients, conv_net, images_for

pytestmark = pytest.mark.usefixtures("one_thread")

LOGITS = torch.tensor([[0.5, -1.0, 2.0, 0.0], [3.0, 1.0, -2.0, 0.25]])
MAPS = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(1))
MASK = torch.rand(2, 3, 5, generator=torch.Generator().manual_seed(2)) < 0.5
REFERENCE = torch.tensor([1.0, 2.0, -1.0, 0.5])
FINE = torch.rand(2, 6, 10, generator=torch.Generator().manual_seed(3)) < 0.5


@dataclass
class Detected:
    """What a detector of Hugging Face returns: centres and sizes as shares of the image."""

    logits: Tensor
    pred_boxes: Tensor

    def __getitem__(self, rows: Tensor) -> "Detected":
        return Detected(self.logits[rows], self.pred_boxes[rows])


# Of the first image's boxes 0 and 1 overlap enough with (0.2, 0.2, 0.6, 0.6), of the second's none.
RELATIVE = Detected(
    torch.tensor([[[0.0, 0, 3], [0, 0, 4], [0, 0, 9]], [[0, 0, 5], [0, 0, 6], [0, 0, 7]]]),
    torch.tensor([[[0.4, 0.4, 0.4, 0.4], [0.4, 0.4, 0.4, 0.3], [0.9, 0.9, 0.2, 0.2]], [[0.9, 0.9, 0.1, 0.1]] * 3]),
)


def first(logits: Tensor) -> Tensor:
    return logits.max(1).values


FORMULAS = {
    "logit": (targets.Logit(2), LOGITS, LOGITS[:, 2]),
    "highest logit": (targets.Logit(), LOGITS, first(LOGITS)),
    "probability": (targets.Probability([0, 3]), LOGITS, LOGITS.softmax(1)[[0, 1], [0, 3]]),
    "highest probability": (targets.Probability(), LOGITS, first(LOGITS.softmax(1))),
    "K probabilities": (
        targets.Probability([[0, 1], [3, 3]]),
        LOGITS,
        LOGITS.softmax(1).gather(1, torch.tensor([[0, 1], [3, 3]])),
    ),
    "log-probability": (targets.LogProbability(1), LOGITS, LOGITS.log_softmax(1)[:, 1]),
    "difference": (targets.Difference(0, 3), LOGITS, LOGITS[:, 0] - LOGITS[:, 3]),
    "difference to the runner-up": (targets.Difference(), LOGITS, torch.tensor([1.5, 2.0])),
    "difference to the highest": (targets.Difference(1), LOGITS, torch.tensor([-3.0, -2.0])),
    "K differences": (targets.Difference([[2, 1], [0, 1]]), LOGITS, torch.tensor([[1.5, -3.0], [2.0, -2.0]])),
    "binary": (targets.Binary(), LOGITS[:, :1], LOGITS[:, 0]),
    "binary, flat": (targets.Binary(), LOGITS[:, 1], LOGITS[:, 1]),
    "the negative class": (targets.Binary(False), LOGITS[:, 1], -LOGITS[:, 1]),
    "what a binary model says": (targets.Binary(None), LOGITS[:, 1], LOGITS[:, 1].abs()),
    "its probability": (targets.Binary(None, probability=True), LOGITS[:, 1], LOGITS[:, 1].abs().sigmoid()),
    "regression": (targets.Regression(2), LOGITS, LOGITS[:, 2]),
    "the last of several numbers": (targets.Regression(-1), LOGITS, LOGITS[:, 3]),
    "segmentation": (targets.Segmentation(1, MASK), MAPS, (MAPS[:, 1] * MASK).sum((1, 2))),
    "one mask for all": (targets.Segmentation(1, MASK[0]), MAPS, (MAPS[:, 1] * MASK[0]).sum((1, 2))),
    "the class's own region": (targets.Segmentation(3), MAPS, (MAPS[:, 3] * (MAPS.argmax(1) == 3)).sum((1, 2))),
    "one channel": (targets.Segmentation(0), MAPS[:, :1], (MAPS[:, 0] * (MAPS[:, 0] > 0)).sum((1, 2))),
    "a mask of twice the size": (
        targets.Segmentation(1, MASK.repeat_interleave(2, 1).repeat_interleave(2, 2)),
        MAPS,
        (MAPS[:, 1] * MASK).sum((1, 2)),
    ),
    "a finer mask": (
        targets.Segmentation(1, FINE),
        MAPS,
        (MAPS[:, 1] * FINE.float().reshape(2, 3, 2, 5, 2).mean((2, 4))).sum((1, 2)),
    ),
    "relative boxes": (targets.Box(2, (0.2, 0.2, 0.6, 0.6)), RELATIVE, torch.tensor([4.0, 0.0])),
    "candidates of YOLO": (
        targets.Anchors(5),
        torch.cat([40 * MAPS.flatten(2), MAPS.flatten(2)], 1)[:, :7],
        MAPS[:, 1].flatten(1).max(1).values,
    ),
    "candidates": (targets.Anchors(2), MAPS.flatten(2).mT, MAPS[:, 2].flatten(1).max(1).values),
    "candidates along the last axis": (targets.Anchors(2, axis=1), MAPS, MAPS[:, 2].flatten(1).max(1).values),
    "cosine": (targets.Similarity(REFERENCE), LOGITS, (LOGITS @ REFERENCE) / LOGITS.norm(dim=1) / REFERENCE.norm()),
    "dot product": (targets.Similarity(LOGITS.flip(0), "dot"), LOGITS, (LOGITS * LOGITS.flip(0)).sum(1)),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas(name):
    score, output, expected = FORMULAS[name]
    torch.testing.assert_close(binding.score(output, score, 2).values, expected)


@pytest.mark.parametrize("name", FORMULAS)
def test_copies_belong_to_their_images(name):
    score, output, expected = FORMULAS[name]
    rows = torch.tensor([1, 1, 0, 1, 0])
    torch.testing.assert_close(binding.bind(output, score, 2)(output[rows], rows), expected[rows])


def test_what_is_fixed_on_the_clean_output():
    """The highest class, the sign and the region are those of the images as they are."""
    rows = torch.arange(2)
    other = LOGITS.flip(1)
    assert binding.bind(LOGITS, targets.Logit(), 2)(other, rows).tolist() == [other[0, 2], other[1, 0]]
    assert binding.bind(LOGITS[:, 1], targets.Binary(None), 2)(torch.ones(2), rows).tolist() == [-1, 1]
    region = (MAPS.argmax(1) == 3).flatten(1).sum(1)
    assert binding.bind(MAPS, targets.Segmentation(3), 2)(torch.ones_like(MAPS), rows).tolist() == region.tolist()


# --- through the engine -----------------------------------------------------------------------------------------------

MODELS = {
    "probability": (conv_net, targets.Probability([3, 1])),
    "difference": (conv_net, targets.Difference()),
    "binary": (lambda: nn.Sequential(conv_net(), nn.Linear(5, 1)), targets.Binary(None)),
    "regression": (conv_net, targets.Regression(4)),
    "segmentation": (lambda: conv_net().stem, targets.Segmentation(2)),
    "segmentation with masks": (lambda: conv_net().stem, targets.Segmentation(2, torch.rand(2, 12, 10) < 0.3)),
    "candidates": (lambda: conv_net().stem, targets.Anchors(2, axis=1)),
    "similarity": (
        conv_net,
        targets.Similarity(torch.randn(2, 5, generator=torch.Generator().manual_seed(0))),
    ),
    "a callable per image": (conv_net, [lambda logits: logits[0].exp(), lambda logits: logits[1]]),
}


@pytest.mark.parametrize("name", MODELS)
def test_gradients_of_scores(name):
    make, target = MODELS[name]
    model, images = make().eval(), images_for()
    bound = binding.bind(model(images), target, 2)
    expected = autograd_gradients(lambda x: bound(make().eval()(x), torch.arange(2)), images)
    found = fastcam.explain(model, images, "saliency", target).attributions
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("batch_size", [1, 5])
def test_perturbation_keeps_classes_masks_and_callables_with_their_image(name, batch_size):
    make, target = MODELS[name]
    model, images = make().eval(), images_for()
    options = {"window": 5, "stride": 4, "batch_size": batch_size}
    found = fastcam.explain(model, images, "occlusion", target, **options)
    bound = binding.bind(model(images), target, 2)
    hidden = images.clone()
    hidden[:, :, 4:9, 4:9] = 0
    expected = bound(model(hidden), torch.arange(2))
    torch.testing.assert_close(found.details["grid"][:, 1, 1], expected.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["probability", "difference", "similarity"])
def test_class_activation_maps_of_scores(name):
    """Behind pooling and a linear layer, where class indices have a closed form and these have another."""
    make, target = MODELS[name]
    model, images = make(), images_for()
    disguised = nn.Sequential(model, Call(lambda output: output * 1.0)).eval()
    closed = fastcam.explain(model, images, ["grad_cam", "layer_cam"], target, "relu")
    backward = fastcam.explain(disguised, images, ["grad_cam", "layer_cam"], target, "0.relu")
    for method in closed:
        torch.testing.assert_close(closed[method].native, backward[method].native, rtol=1e-4, atol=1e-7)


# --- detection --------------------------------------------------------------------------------------------------------


class Finds(nn.Module):
    """Says of every image that there are two boxes, whose scores depend on what they hold."""

    boxes = torch.tensor([[0.0, 0, 5, 6], [4, 5, 10, 12]])

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        scores = torch.stack([images[:, :, :6, :5].mean((1, 2, 3)), images[:, :, 5:, 4:].mean((1, 2, 3))], 1)
        return [{"boxes": self.boxes, "labels": torch.tensor([1, 2]), "scores": each.sigmoid()} for each in scores]


@pytest.mark.parametrize(
    ("target", "which"),
    [
        (targets.Box(1, (0, 0, 5, 6)), [0, 0]),
        (targets.Box(2, (4, 5, 10, 11)), [1, 1]),
        (targets.Box(1, (4, 5, 10, 12)), [None, None]),  # there is a box, of another class
        (targets.Box(2, (0, 5, 10, 12)), [1, 1]),
        (targets.Box(2, (0, 5, 10, 12), iou=0.7), [None, None]),
        (targets.Box(1, [[0, 0, 5, 6], [5, 6, 10, 12]]), [0, None]),
    ],
)
def test_score_of_a_box(target, which):
    model, images = Finds().eval(), images_for()
    found = fastcam.explain(model, images, "saliency", target)
    for i, box in enumerate(which):
        expected = 0.0 if box is None else model(images)[i]["scores"][box].item()
        assert found.scores[i].item() == pytest.approx(expected)
        inside = torch.zeros(12, 10, dtype=torch.bool)
        if box is not None:
            inside[(slice(0, 6), slice(5, 12))[box], (slice(0, 5), slice(4, 10))[box]] = True
        assert torch.equal(found.raw[i] > 0, inside)


def test_a_detector():
    """Faster R-CNN with its list of dicts as it is."""
    torch.manual_seed(0)
    model = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=3, box_score_thresh=0.0, box_nms_thresh=1.0
    ).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        detections = model(images)[0]
    assert len(detections["boxes"]) > 0
    label, box = int(detections["labels"][0]), detections["boxes"][0]
    target = targets.Box(label, box)
    explanation = fastcam.explain(model, images, "saliency", target)
    assert explanation.scores.item() == pytest.approx(detections["scores"][0].item(), rel=1e-4)
    assert explanation.attributions.abs().max() > 0


# --- outputs with parts -----------------------------------------------------------------------------------------------


@dataclass
class Record:
    logits: Tensor
    extra: str = ""


@pytest.mark.parametrize(
    ("pack", "select"),
    [
        (lambda y: (y * 0, y), 1),
        (lambda y: {"out": y, "aux": y * 0}, "out"),
        (Record, "logits"),
        (lambda y: {"deep": [y]}, lambda output: output["deep"][0]),
    ],
    ids=["tuple", "dict", "dataclass", "function"],
)
@pytest.mark.parametrize(
    "method", ["occlusion", "integrated_gradients", "guided_backprop", "full_grad", "ablation_cam"]
)
def test_select(pack, select, method):
    plain, packed = conv_net(), nn.Sequential(conv_net(), Call(pack)).eval()
    expected = fastcam.explain(plain, images_for(), method, 2, "features")
    found = fastcam.explain(packed, images_for(), method, 2, "0.features", select=select)
    torch.testing.assert_close(found.native, expected.native, rtol=1e-4, atol=1e-6)


# --- mistakes ---------------------------------------------------------------------------------------------------------

MISTAKES = {
    "no class": (targets.Probability(4), LOGITS, ValueError, r"`target` must lie in \[0, 4\), got 4"),
    "no classes": (targets.Probability(0), MAPS, ValueError, r"class indices need an output of shape \(N, classes\)"),
    "one class": (targets.Difference(0), LOGITS[:, :1], ValueError, "needs an output of at least two classes, got one"),
    "unequal": (
        targets.Difference([[0, 1]] * 2, 1),
        LOGITS,
        ValueError,
        r"as many classes as `first`, \(2, 2\), got \(2,\)",
    ),
    "not binary": (targets.Binary(), LOGITS, ValueError, r"a binary score needs .* \(N, 1\), got \(2, 4\)"),
    "no number": (targets.Regression(4), LOGITS, ValueError, r"`index` must lie in \[0, 4\), got 4"),
    "other length": (
        targets.Similarity(torch.ones(3)),
        LOGITS,
        ValueError,
        r"`reference` must have shape \(4,\) or \(2, 4\), got \(3,\)",
    ),
    "no maps": (
        targets.Segmentation(0),
        LOGITS,
        ValueError,
        r"needs an output \(N, classes, ...\), got shape \(2, 4\)",
    ),
    "no region": (targets.Segmentation(9), MAPS, ValueError, r"`label` must lie in \[0, 4\), got 9"),
    "other number": (
        targets.Segmentation(0, torch.ones(3, 3, 5)),
        MAPS,
        ValueError,
        r"`mask` must have shape \(3, 5\) or \(2, 3, 5\), got \(3, 3, 5\)",
    ),
    "coordinates": (
        targets.Anchors(1),
        torch.cat([torch.full((2, 4, 9), 20.0), torch.rand(2, 3, 9)], 1),
        ValueError,
        "entry 1 of axis 1 is a coordinate of the boxes, which come first: class c is 4",
    ),
    "pixels of relative boxes": (
        targets.Box(0, (0, 0, 20, 30)),
        Detected(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4)),
        ValueError,
        r"`box` must hold shares of the image's width and height in \[0, 1\]",
    ),
    "no candidates": (targets.Anchors(0), LOGITS, ValueError, r"needs an output \(N, ..., ...\), got shape \(2, 4\)"),
    "no such candidate": (targets.Anchors(5), MAPS, ValueError, r"got label 5, axis -1"),
    "no detections": (targets.Box(0, (0, 0, 1, 1)), LOGITS, TypeError, "a box score needs a list of dicts"),
    "boxes": (
        targets.Box(0, torch.ones(3, 4)),
        [{}, {}],
        ValueError,
        r"`box` must have shape \(4,\) or \(2, 4\), got \(3, 4\)",
    ),
    "no channel": (targets.Neuron("x", 7), MAPS, ValueError, r"`channel` must lie in \[0, 4\), got 7"),
    "no position": (
        targets.Neuron("x", 0, (1, 9)),
        MAPS,
        ValueError,
        r"`position` must be coordinates in \(3, 5\), got \(1, 9\)",
    ),
    "no layer's output": (
        targets.Neuron("x"),
        [1],
        ValueError,
        r"layer 'x' must return \(N, C, ...\) to be scored, got list",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name):
    target, output, error, text = MISTAKES[name]
    with pytest.raises(error, match=text):
        binding.bind(output, target, 2)


def test_mistakes_at_once():
    with pytest.raises(ValueError, match='`metric` must be "cosine" or "dot", got \'l2\''):
        targets.Similarity(REFERENCE, "l2")
    with pytest.raises(ValueError, match='`position` must be "max", "sum" or coordinates, got \'mean\''):
        targets.Neuron("x", 0, "mean")
    with pytest.raises(ValueError, match="the model has no layer named 'featured'; did you mean 'features'"):
        fastcam.explain(conv_net(), images_for(), "saliency", targets.Neuron("featured"))
