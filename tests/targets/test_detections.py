"""Every detection as a target: of detectors of all kinds, against autograd, followed through copies, and missing."""

from types import SimpleNamespace

import pytest
import torch
import torchvision
from torch import Tensor, nn

import fastcam
from fastcam import targets
from fastcam.targets.candidates import read_candidates, suppressed
from tests.support.conv_net import images_for

pytestmark = pytest.mark.usefixtures("one_thread")

BOXES = torch.tensor([[0.0, 0, 4, 4], [0, 0, 5, 4], [5, 6, 10, 12], [5, 6, 10, 11]])


class Dense(nn.Module):
    """Four boxes of three classes; a logit is the mean of a map of its own inside the box; returned in a ``form``."""

    def __init__(self, form: str = "dense") -> None:
        super().__init__()
        torch.manual_seed(1)
        self.form = form
        self.body = nn.Conv2d(3, 12, 3, padding=1).double()
        self.eval()

    def logits(self, x: Tensor) -> Tensor:
        maps = self.body(x).unflatten(1, (4, 3))
        means = [
            maps[:, d, :, int(y0) : int(y1), int(x0) : int(x1)].mean((2, 3)) for d, (x0, y0, x1, y1) in enumerate(BOXES)
        ]
        return 4 * torch.stack(means, 1)

    def forward(self, x: Tensor):
        logits, boxes = self.logits(x), BOXES.double().expand(len(x), -1, -1)
        middle = torch.cat([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], -1)
        if self.form == "dense":
            return (boxes, logits.sigmoid()), (logits, boxes)
        if self.form == "columns":
            more = torch.cat([middle, logits.sigmoid()], -1).repeat(1, 3, 1)  # more boxes than rows: 7 x 12
            return more.transpose(1, 2), [logits]
        if self.form == "objectness":
            objectness = logits.sum(-1, keepdim=True).sigmoid()
            return torch.cat([middle, objectness, logits.sigmoid()], -1).repeat(1, 3, 1)
        if self.form == "queries":
            return SimpleNamespace(logits=logits, pred_boxes=middle / 20)
        confidences, labels = logits.sigmoid().max(-1)
        return [
            {"boxes": box.detach(), "scores": score, "labels": label}
            for box, score, label in zip(boxes, confidences, labels, strict=True)
        ]


FORMS = ("dense", "columns", "queries", "list")


def images(count: int = 2) -> Tensor:
    return images_for(count=count).double()


def expected_of(image: Tensor, above: float, form: str) -> list[tuple[int, int, float]]:
    """The detections of an image as (box, class, confidence), the most confident first, suppressed at 0.7."""
    confidences, labels = Dense().logits(image[None])[0].detach().sigmoid().max(-1)
    order = [place for place in confidences.argsort(descending=True).tolist() if confidences[place] > above]
    kept: list[int] = []
    for place in order:
        same = [each for each in kept if labels[each] == labels[place]]
        if form == "list" or not same or torchvision.ops.box_iou(BOXES[same], BOXES[[place]]).max() <= 0.7:
            kept.append(place)
    return [(place, int(labels[place]), float(confidences[place])) for place in kept]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("above", [0.0, 0.55])
def test_the_detections_and_their_gradients(form, above):
    """Against autograd of each detection's own score, image by image."""
    model, inputs = Dense(form), images(3)
    found = fastcam.explain(model, inputs, "hires_cam", targets.Detections(above), "body", relu=False)
    columns = max(len(expected_of(image, above, form)) for image in inputs)
    assert found.native.shape == (3, max(columns, 1), *inputs.shape[2:])
    for row, image in enumerate(inputs):
        expected = expected_of(image, above, form)
        assert found.is_found[row].tolist() == [True] * len(expected) + [False] * (columns - len(expected))
        for column, (place, label, confidence) in enumerate(expected):
            activations = model.body(image[None]).detach().requires_grad_()
            maps, (x0, y0, x1, y1) = activations.unflatten(1, (4, 3)), BOXES[place].int().tolist()
            logit = 4 * maps[0, place, label, y0:y1, x0:x1].mean()
            score = logit if form == "queries" else logit.sigmoid()
            (gradient,) = torch.autograd.grad(score, activations)
            torch.testing.assert_close(found.scores[row, column], score.detach())
            torch.testing.assert_close(found.native[row, column], (gradient * activations)[0].sum(0).detach())
            assert found.targets[row, column] == label
            assert found.details["confidences"][row, column].item() == pytest.approx(confidence, rel=1e-5)
            scale = 20 if form == "queries" else 1
            torch.testing.assert_close(found.details["boxes"][row, column] * scale, BOXES[place])
            assert found.causes[row][column] == ""
        for column in range(len(expected), columns):
            assert found.targets[row, column] == -1
            assert found.causes[row][column] == "no detection"
            assert found.native[row, column].eq(0).all()


def test_objectness_counts():
    model, inputs = Dense("objectness"), images()
    found = fastcam.explain(model, inputs, "saliency", targets.Detections(0.0, index=0))
    logits = model.logits(inputs)
    confidences = logits.sigmoid().amax(-1) * logits.sum(-1).sigmoid()
    torch.testing.assert_close(
        found.details["confidences"].double(), confidences.amax(1).detach(), rtol=1e-5, atol=1e-6
    )


def test_what_is_said_of_methods_that_lose_a_detection():
    found = fastcam.explain(Dense(), images(), ["grad_cam", "layer_cam"], targets.Detections(0.0), "body")
    (note,) = (each for each in found["grad_cam"].notes if "averages" in each)
    assert note.startswith("grad_cam averages")
    assert not fastcam.explain(Dense(), images(), "layer_cam", targets.Detections(0.0), "body").notes


def test_one_of_them():
    model, inputs = Dense(), images(3)
    whole = fastcam.explain(model, inputs, "grad_cam", targets.Detections(0.0), "body")
    for index in range(2):
        one = fastcam.explain(model, inputs, "grad_cam", targets.Detections(0.0, index=index), "body")
        assert one.scores.shape == (3,)
        torch.testing.assert_close(one.native, whole.native[:, index])
        torch.testing.assert_close(one.details["boxes"], whole.details["boxes"][:, index])
    many = fastcam.explain(model, inputs, "grad_cam", targets.Detections(0.0, most=1), "body")
    torch.testing.assert_close(many.native, whole.native[:, :1])
    label = int(whole.targets[0, 1])
    some = fastcam.explain(model, inputs[:1], "grad_cam", targets.Detections(0.0, labels=[label]), "body")
    assert set(some.targets[some.is_found].tolist()) == {label}


@pytest.mark.parametrize("following", ["score", "similarity"])
@pytest.mark.parametrize("method", ["occlusion", "rise", "smooth_grad"])
def test_each_image_keeps_its_own(method, following):
    """In a batch, in any batch size, one by one; also images of several sizes."""
    options = {"rise": {"masks": 9}, "smooth_grad": {"samples": 3}}.get(method, {"window": 3})
    inputs, target = images(3), targets.Detections(0.55, following=following)
    together = fastcam.explain(Dense(), inputs, method, target, batch_size=4, **options)
    for row in range(3):
        apart = fastcam.explain(Dense(), inputs[row : row + 1], method, target, batch_size=1, **options)
        count = apart.scores.shape[1]
        torch.testing.assert_close(together.native[row, :count], apart.native[0])
        assert together.causes[row][:count] == apart.causes[0]


def test_images_of_several_sizes():
    larger = torch.randn(3, 14, 12, generator=torch.Generator().manual_seed(5)).double()
    inputs = [images(1)[0], larger]
    target = targets.Detections(0.55)
    found = fastcam.explain(Dense("list"), inputs, "grad_cam", target, "body")
    for row, image in enumerate(inputs):
        alone = fastcam.explain(Dense("list"), image[None], "grad_cam", target, "body")
        count = alone.scores.shape[1]
        torch.testing.assert_close(found.parts[row].native, alone.native)
        torch.testing.assert_close(found.details["boxes"][row, :count], alone.details["boxes"][0])
        assert found.is_found[row].sum() == alone.is_found.sum()


def test_the_same_object_is_followed():
    """In a copy another box of its class that overlaps counts, one of another class or place does not."""
    model, inputs = Dense(), images(1)
    target = targets.Detections(0.0, iou=0.5)
    output = model(inputs)
    bound = target.bind(output, 1)
    boxes, scores = output[0]
    place, label, _ = expected_of(inputs[0], 0.0, "dense")[0]
    partner = {0: 1, 1: 0, 2: 3, 3: 2}[place]
    other = scores.detach().clone()
    other[0, place, label], other[0, partner, label] = 0.1, 0.9

    def score(boxes):
        return bound(((boxes, other), None), torch.zeros(1, dtype=torch.int64))[0, 0]

    assert score(boxes) == 0.1  # its own box has not moved
    moved = boxes.clone()
    moved[0, place, 2] -= 0.5
    assert score(moved) == 0.9
    moved[0, partner] += 50
    assert score(moved) == 0.1  # what is left of it
    assert score(boxes + 50) == 0


@pytest.mark.parametrize("form", ["dense", "list", "objectness"])
def test_similarity_is_that_of_d_rise(form):
    """s(d, f(M)) = max over boxes of IoU * cos(P, P_j) * O_j, by its formula."""
    model, inputs = Dense(form), images(2)
    bound = targets.Detections(0.0, most=2, following="similarity").bind(model(inputs), 2)
    copies = inputs + 0.5 * torch.randn(2, *inputs.shape[1:], generator=torch.Generator().manual_seed(0)).double()
    values = bound(model(copies), torch.arange(2))
    for row in range(2):
        before, after = read_candidates(model(inputs), 2)[row], read_candidates(model(copies), 2)[row]
        for column in range(2):
            box = bound.details["boxes"][row, column].double()
            label = bound.targets[row, column]
            matches = (before.boxes - box).abs().sum(1) < 1e-6
            own = before.confidences[matches][0]
            similarities = []
            for place in range(len(after.boxes)):
                overlap = torchvision.ops.box_iou(box[None], after.boxes[[place]])[0, 0]
                if form == "list":
                    alike = after.confidences[place, 0] * float(after.labels[place] == label)
                else:
                    theirs = after.confidences[place]
                    alike = (own @ theirs) / own.norm() / theirs.norm()
                similarities.append(overlap * alike * after.objectness[place])
            torch.testing.assert_close(values[row, column], torch.stack(similarities).max())


def test_rise_with_similarity_is_d_rise():
    """The mean of masks weighted by the similarity of what is detected behind each."""
    model, inputs = Dense(), images(1)
    target = targets.Detections(0.0, index=0, following="similarity")
    found = fastcam.explain(model, inputs, "rise", target, masks=20, grid=4, seed=3)
    single = fastcam.explain(
        model, inputs, "rise", targets.PerRow(lambda out, rows: torch.ones(len(rows))), masks=20, grid=4, seed=3
    )
    assert found.native.shape == single.native.shape
    assert found.native.max() > 0
    assert (found.native <= single.native + 1e-12).all()  # similarities are at most 1


TORCHVISION = {
    "fasterrcnn_mobilenet_v3_large_320_fpn": {},
    "maskrcnn_resnet50_fpn": {},
    "retinanet_resnet50_fpn": {"detections_per_img": 4, "score_thresh": 0.0, "min_size": 64, "max_size": 96},
    "fcos_resnet50_fpn": {"detections_per_img": 4, "score_thresh": 0.0, "min_size": 64, "max_size": 96},
    "ssdlite320_mobilenet_v3_large": {"detections_per_img": 4},
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name):
    """Every detection of a detector's own list, its gradient by autograd through the whole model."""
    torch.manual_seed(0)
    options = {"weights": None, "weights_backbone": None, "num_classes": 3, **TORCHVISION[name]}
    if "rcnn" in name:
        options |= {"box_detections_per_img": 4, "min_size": 64, "max_size": 96}
    model = torchvision.models.get_model(name, **options).eval()
    inputs = torch.rand(2, 3, 64, 80, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        clean = model(list(inputs))
    above = min(float(each["scores"].max()) for each in clean) * 0.5
    found = fastcam.explain(model, inputs, "saliency", targets.Detections(above, most=3))
    for row in range(2):
        leaf = inputs.clone().requires_grad_()
        output = model(list(leaf))[row]
        order = output["scores"].argsort(descending=True, stable=True)
        order = [place for place in order.tolist() if output["scores"][place] > above][:3]
        assert found.is_found[row].sum() == len(order) > 0
        for column, place in enumerate(order):
            torch.testing.assert_close(found.details["boxes"][row, column], output["boxes"][place].detach())
            assert found.targets[row, column] == output["labels"][place]
            torch.testing.assert_close(found.scores[row, column], output["scores"][place].detach())
            (gradient,) = torch.autograd.grad(output["scores"][place], leaf, retain_graph=True)
            exact = gradient[row].abs().amax(0)
            torch.testing.assert_close(found.native[row, column], exact, rtol=1e-2, atol=1e-3 * float(exact.max()))


def test_suppression_is_torchvisions():
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(60, 4, generator=generator) * 10
    boxes[:, 2:] += boxes[:, :2]
    scores, labels = torch.rand(60, generator=generator), torch.randint(3, (60,), generator=generator)
    order = scores.argsort(descending=True)
    expected = torchvision.ops.batched_nms(boxes, scores, labels, 0.4)
    assert suppressed(boxes, order, labels, 0.4, 60) == expected.tolist()
    assert suppressed(boxes, order, labels, 0.4, 5) == expected.tolist()[:5]


def test_no_detection_at_all():
    found = fastcam.explain(Dense(), images(2), ["grad_cam", "occlusion"], targets.Detections(0.999), "body", window=3)
    for each in found.values():
        assert each.scores.shape == (2, 1)
        assert each.causes == [["no detection"]] * 2
        assert each.maps.eq(0).all()


class Empty(nn.Module):
    def forward(self, x):
        none = x.sum() * torch.zeros(0)
        return [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": none} for _ in x]


@pytest.mark.parametrize("following", ["score", "similarity"])
def test_empty_lists(following):
    found = fastcam.explain(
        Empty(), torch.rand(2, 3, 8, 8), "occlusion", targets.Detections(following=following), window=4
    )
    assert found.causes == [["no detection"]] * 2


def test_models_are_left_as_they_were():
    model = Dense()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fastcam.explain(model, images(), "grad_cam", targets.Detections(0.0), "body")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.body._forward_hooks
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("options", "word"),
    [({"most": 0}, "most"), ({"index": 10}, "index"), ({"index": -1}, "index"), ({"following": "box"}, "following")],
)
def test_mistakes(options, word):
    with pytest.raises(ValueError, match=f"`{word}` must"):
        targets.Detections(**options)


@pytest.mark.parametrize("output", [torch.zeros(2, 5), {"a": torch.zeros(2, 3)}, [{"boxes": torch.zeros(1, 4)}] * 2])
def test_outputs_that_hold_no_detections(output):
    with pytest.raises(TypeError, match="detections"):
        targets.Detections().bind(output, 2)


def test_a_weak_neighbour_does_not_take_the_place():
    """A raw output has many boxes of an object; a weak one that now lies where its own lay is not what is scored."""
    boxes = torch.tensor([[[0.0, 0, 100, 100], [0.2, 0, 100.2, 100]]])
    scores = torch.tensor([[[0.9], [0.1]]])
    bound = targets.Detections(0.5).bind((boxes, scores), 1)
    moved = boxes + torch.tensor([[[-0.6, 0, -0.6, 0], [-0.1, 0, -0.1, 0]]])
    assert bound((moved, scores), torch.tensor([0])).item() == pytest.approx(0.9)


def test_an_object_is_not_taken_for_its_neighbour():
    """Two objects of a class that overlap by more than ``iou``: each keeps its own candidates."""
    boxes = torch.tensor([[[0.0, 0, 10, 10], [2.5, 0, 12.5, 10]]])
    scores = torch.tensor([[[0.9], [0.8]]])
    for index, expected in ((None, [0.9, 0.8]), (1, 0.8)):
        bound = targets.Detections(0.5, index=index).bind((boxes, scores), 1)
        for copy in (boxes, boxes + torch.tensor([0.3, 0, 0.3, 0])):
            assert bound((copy, scores), torch.tensor([0]))[0].tolist() == pytest.approx(expected)
