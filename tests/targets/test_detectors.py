"""The score of a detected box, on a torchvision detector and on a model whose boxes are known."""

from functools import cache

import pytest
import torch
import torchvision
from torch import Tensor, nn

import fastcam
from fastcam import targets
from fastcam.targets.candidates import overlaps
from tests.support.conv_net import images_for

pytestmark = pytest.mark.usefixtures("one_thread")


class Detector(nn.Module):
    """Three boxes an image, of classes 1, 2 and 1; their scores are sigmoids of the mean inside the box."""

    BOXES = ((0, 0, 4, 4), (0, 0, 5, 4), (5, 6, 10, 12))

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Conv2d(3, 4, 3, padding=1)
        self.eval()

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        maps = self.body(x).tanh().mean(1)
        boxes = torch.tensor(self.BOXES, dtype=torch.float32)
        return [{"boxes": boxes, "labels": torch.tensor([1, 2, 1]), "scores": self.scores(each)} for each in maps]

    def scores(self, each: Tensor) -> Tensor:
        return torch.stack([each[y0:y1, x0:x1].mean().sigmoid() for x0, y0, x1, y1 in self.BOXES])


@cache
def faster_rcnn() -> nn.Module:
    """Random weights; with three classes every proposal scores about a third."""
    torch.manual_seed(0)
    make = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn
    model = make(weights=None, weights_backbone=None, num_classes=3, min_size=64, max_size=96, box_detections_per_img=5)
    return model.eval()


@cache
def photograph() -> Tensor:
    return torch.rand(2, 3, 64, 80, generator=torch.Generator().manual_seed(3))


def test_overlap_is_torchvisions():
    boxes = torch.rand(20, 4) * 10
    boxes[:, 2:] += boxes[:, :2]
    torch.testing.assert_close(overlaps(boxes, boxes[:3]), torchvision.ops.box_iou(boxes, boxes[:3]))
    assert overlaps(torch.zeros(1, 4), torch.zeros(1, 4)).item() == 0  # boxes without area


@pytest.mark.parametrize(
    ("label", "box", "iou", "which"),
    [
        (1, (0, 0, 4, 4), 0.5, 0),
        (2, (0, 0, 4, 4), 0.5, 1),  # of the other class at the same place
        (1, (5, 6, 10, 11), 0.5, 2),
        (1, (0, 0, 5, 4), 0.5, 0),
        (1, (0, 0, 5, 4), 0.9, None),
        (2, (5, 6, 10, 12), 0.5, None),
        (3, (0, 0, 4, 4), 0.5, None),
        (3, (0, 0, 4, 4), 0.0, None),
        (2, (5, 6, 10, 12), 0.0, 1),
    ],
)
def test_the_detection_that_counts(label, box, iou, which):
    model, images = Detector(), images_for()
    found = fastcam.explain(model, images, "hires_cam", targets.Box(label, box, iou), "body", relu=False)
    activations = model.body(images).detach().requires_grad_()
    scores = torch.stack([model.scores(each) for each in activations.tanh().mean(1)])
    chosen = scores[:, which] if which is not None else scores.sum(1) * 0
    torch.testing.assert_close(found.scores, chosen.detach())
    (gradient,) = torch.autograd.grad(chosen.sum(), activations)
    torch.testing.assert_close(found.native, (activations * gradient).sum(1).detach(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("method", ["occlusion", "rise", "integrated_gradients", "smooth_grad"])
def test_boxes_stay_with_their_image(method):
    images = images_for()
    boxes = torch.tensor([[0.0, 0, 4, 4], [5, 6, 10, 12]])
    options = {"rise": {"masks": 7}, "smooth_grad": {"samples": 3}, "integrated_gradients": {"steps": 3}}
    settings = options.get(method, {"window": 3})
    together = fastcam.explain(Detector(), images, method, targets.Box(1, boxes), batch_size=5, **settings)
    assert together.native[0].abs().max() > 0
    for row in range(2):
        one = images[row : row + 1]
        target = targets.Box(1, boxes[row])
        apart = fastcam.explain(Detector(), one, method, target, batch_size=1, **settings)
        torch.testing.assert_close(together.native[row], apart.native[0], rtol=1e-4, atol=1e-6)


def test_an_image_without_detections_has_a_map_of_zeros():
    class Nothing(Detector):
        def forward(self, x):
            found = super().forward(x)
            return [{name: each[:0] for name, each in found[0].items()}, found[1]]

    explanation = fastcam.explain(Nothing(), images_for(), "saliency", targets.Box(1, (0, 0, 4, 4)))
    assert explanation.scores[0] == 0
    assert explanation.native[0].eq(0).all()
    assert explanation.native[1].max() > 0


def detections(images: Tensor) -> list[dict[str, Tensor]]:
    with torch.no_grad():
        return faster_rcnn()(list(images))


def first_box() -> tuple[targets.Box, Tensor]:
    """The first detection of either image, and its scores; both of the class that the first image shows."""
    found = detections(photograph())
    label = int(found[0]["labels"][0])
    rows = [int((each["labels"] == label).nonzero()[0]) for each in found]
    boxes = torch.stack([each["boxes"][row] for each, row in zip(found, rows, strict=True)])
    return targets.Box(label, boxes), torch.stack([e["scores"][r] for e, r in zip(found, rows, strict=True)])


def test_torchvision_gradients():
    target, scores = first_box()
    layers = ["backbone.fpn.layer_blocks.1.0", "backbone.body.4"]
    found = fastcam.explain(faster_rcnn(), photograph(), ["grad_cam", "saliency"], target, layers, fuse=None)
    for each in found.values():
        torch.testing.assert_close(each.scores, scores)
        assert each.raw.shape == (2, 64, 80)
        assert each.native.isfinite().all()
    assert found["saliency", ""].native.flatten(1).amax(1).min() > 0


def test_torchvision_occlusion():
    target, scores = first_box()
    images = photograph()
    found = fastcam.explain(faster_rcnn(), images, "occlusion", target, window=(32, 40), stride=(32, 40), batch_size=3)
    torch.testing.assert_close(found.scores, scores)
    hidden = images.clone()
    hidden[:, :, 32:, :40] = 0
    expected = target.bind(detections(images), 2)(detections(hidden), torch.arange(2))
    torch.testing.assert_close(found.details["grid"][:, 1, 0], expected)


def test_torchvision_from_one_callable_per_image():
    found = fastcam.explain(
        faster_rcnn(), photograph(), "saliency", [lambda o: o["scores"].sum(), lambda o: o["scores"][0]]
    )
    clean = detections(photograph())
    torch.testing.assert_close(found.scores, torch.stack([clean[0]["scores"].sum(), clean[1]["scores"][0]]))
    assert found.native.flatten(1).amax(1).min() > 0
