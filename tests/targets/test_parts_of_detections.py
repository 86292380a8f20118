"""Masks and keypoints of detections, segments of queries, regions of segmentations: against autograd, part by part."""

import concurrent.futures
from types import SimpleNamespace

import pytest
import torch
import torchvision
from torch import Tensor, nn

import fastcam
from fastcam import targets
from fastcam.targets import binding
from fastcam.targets.candidates import read_candidates
from tests.support.conv_net import images_for

pytestmark = pytest.mark.usefixtures("one_thread")

BOXES = torch.tensor([[0.0, 0, 4, 4], [5, 6, 10, 12], [5, 6, 10, 11]]).double()
LABELS = torch.tensor([1, 2, 2])


class Parts(nn.Module):
    """Three boxes, each with a mask (12, 12) and two keypoints, all of maps of their own; the order is by score."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.scores, self.masks, self.points = (nn.Conv2d(3, c, 3, padding=1).double() for c in (3, 3, 6))
        self.eval()

    def forward(self, x: Tensor):
        found = []
        for image in x.split(1):
            scores = 2 * self.scores(image)[0].mean((1, 2)).sigmoid() / 2
            order = scores.argsort(descending=True)
            found.append(
                {
                    "boxes": BOXES[order],
                    "labels": LABELS[order],
                    "scores": scores[order],
                    "masks": (4 * self.masks(image)).sigmoid()[0, order].unsqueeze(1),
                    "keypoints_scores": self.points(image)[0].amax((1, 2)).unflatten(0, (3, 2))[order],
                }
            )
        return found


def images(count: int = 2) -> Tensor:
    return images_for(count=count).double()


def mask_score(output, place: int) -> Tensor:
    probabilities = output["masks"][place, 0]
    return probabilities[probabilities > 0.5].mean()


@pytest.mark.parametrize(
    ("part", "score"),
    [
        ("mask", mask_score),
        (0, lambda output, place: output["keypoints_scores"][place, 0]),
        (1, lambda output, place: output["keypoints_scores"][place, 1]),
        ("class", lambda output, place: output["scores"][place]),
    ],
)
def test_the_gradient_of_a_part(part, score):
    model, inputs = Parts(), images()
    found = fastcam.explain(model, inputs, "saliency", targets.Detections(0.0, part=part))
    for row in range(2):
        leaf = inputs[row : row + 1].clone().requires_grad_()
        output = model(leaf)[0]
        for column in range(3):
            value = score(output, column)
            torch.testing.assert_close(found.scores[row, column], value.detach())
            (gradient,) = torch.autograd.grad(value, leaf, retain_graph=True)
            torch.testing.assert_close(found.native[row, column], gradient[0].abs().amax(0))


def test_a_part_is_followed():
    """In a copy the object's own mask is scored, where the unchanged image had it, whatever place it has now."""
    model, inputs = Parts(), images(1)
    copy = inputs + 0.3 * torch.randn(inputs.shape, generator=torch.Generator().manual_seed(1)).double()
    bound = targets.Detections(0.0, part="mask").bind(model(inputs), 1)
    clean, after = model(inputs)[0], model(copy)[0]
    values = bound(model(copy), torch.tensor([0]))[0]
    for place in range(3):
        now = next(n for n in range(3) if torch.equal(after["boxes"][n], clean["boxes"][place]))
        inside = clean["masks"][place, 0] > 0.5
        torch.testing.assert_close(values[place], after["masks"][now, 0][inside].mean())


def test_similarity_of_masks():
    """D-RISE's, with the overlap of the masks: stated independently."""
    model, inputs = Parts(), images(1)
    copy = inputs + 0.2
    bound = targets.Detections(0.0, part="mask", following="similarity").bind(model(inputs), 1)
    clean, after = model(inputs)[0], model(copy)[0]
    values = bound(model(copy), torch.tensor([0]))[0]
    for place in range(3):
        products = []
        for other in range(3):
            mine, its = clean["masks"][place, 0] > 0.5, after["masks"][other, 0] > 0.5
            overlap = (mine & its).sum() / (mine | its).sum()
            products.append(overlap * (clean["labels"][place] == after["labels"][other]) * after["scores"][other])
        torch.testing.assert_close(values[place], torch.stack(products).max())


@pytest.mark.parametrize("kind", ["maskrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn"])
def test_torchvision(kind):
    torch.manual_seed(0)
    small = {"box_detections_per_img": 2, "box_score_thresh": 0.0, "min_size": 64, "max_size": 64}
    model = torchvision.models.get_model(
        kind, weights=None, weights_backbone=None, rpn_post_nms_top_n_test=20, **small
    ).eval()
    inputs = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    part = "mask" if "mask" in kind else 16
    found = fastcam.explain(model, inputs, "saliency", targets.Detections(0.0, index=0, part=part))
    leaf = inputs.clone().requires_grad_()
    output = model(list(leaf))[0]
    place = int(output["scores"].argmax())
    if part == "mask":
        probabilities = output["masks"][place, 0]
        value = probabilities[probabilities > 0.5].mean()
    else:
        value = output["keypoints_scores"][place, 16]
    (gradient,) = torch.autograd.grad(value, leaf)
    torch.testing.assert_close(found.scores[0], value.detach())
    exact = gradient[0].abs().amax(0)
    torch.testing.assert_close(found.native[0], exact, rtol=1e-2, atol=1e-3 * float(exact.max()))


def test_segments_of_queries():
    """MaskFormer's kind: every query a segment, with a box around its mask and a class among those that are."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.full((1, 3, 4, 8), -9.0)
    masks[0, 0, 1:3, 2:5] = 9
    masks[0, 1, 3, 7] = 9
    logits = torch.randn(1, 3, 5, generator=generator)
    read = read_candidates(SimpleNamespace(class_queries_logits=logits, masks_queries_logits=masks), 1)[0]
    assert read.boxes.tolist() == [[0.25, 0.25, 0.625, 0.75], [0.875, 0.75, 1, 1], [0, 0, 0, 0]]
    assert read.are_shares
    torch.testing.assert_close(read.confidences, logits[0].softmax(-1)[:, :-1])
    assert torch.equal(read.scores, logits[0, :, :-1])
    torch.testing.assert_close(read.masks, masks[0].sigmoid())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"part": "box"}, "`part` must be"),
        ({"part": -1}, "`part` must be"),
        ({"part": True}, "`part` must be"),
        ({"part": 0, "following": "similarity"}, "is a keypoint"),
    ],
)
def test_mistakes(options, words):
    with pytest.raises(ValueError, match=words):
        targets.Detections(**options)


def test_parts_that_are_not_there():
    output = Parts()(images(1))
    with pytest.raises(ValueError, match="has keypoints 0 to 1"):
        targets.Detections(part=2).bind(output, 1)
    del output[0]["keypoints_scores"], output[0]["masks"]
    with pytest.raises(ValueError, match="returns no keypoints"):
        targets.Detections(part=0).bind(output, 1)
    with pytest.raises(ValueError, match="returns no masks"):
        targets.Detections(part="mask").bind(output, 1)


def test_a_pool_of_threads():
    """One model in four threads: the maps are those of one."""
    torch.manual_seed(0)
    small = {"box_detections_per_img": 3, "box_score_thresh": 0.0, "min_size": 64, "max_size": 64}
    model = torchvision.models.detection.fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=3, rpn_post_nms_top_n_test=20, **small
    ).eval()
    inputs = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    explainer = fastcam.Explainer(model, "grad_cam", "backbone.body.layer3")
    expected = [explainer(inputs[row : row + 1], targets.Detections(0.0, most=3)) for row in range(6)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(explainer, inputs[row : row + 1], targets.Detections(0.0, most=3)) for row in range(6)]
        found = [job.result() for job in jobs]
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one.native, other.native, rtol=1e-4, atol=1e-6)
        assert torch.equal(one.targets, other.targets)


MAPS = torch.randn(2, 3, 6, 7, generator=torch.Generator().manual_seed(5)).double()


def edge_by_hand(mask: Tensor, width: int) -> Tensor:
    found = torch.zeros_like(mask, dtype=torch.bool)
    for n, y, x in torch.cartesian_prod(*map(torch.arange, mask.shape)).tolist():
        near = mask[n, max(0, y - width) : y + width + 1, max(0, x - width) : x + width + 1]
        found[n, y, x] = near.any() and not near.all()
    return found


@pytest.mark.parametrize("width", [1, 2])
def test_edges_of_regions(width):
    region = MAPS.argmax(1) == 1
    exact = (MAPS[:, 1] * edge_by_hand(region, width)).sum((1, 2))
    bound = binding.bind(MAPS, targets.Segmentation(1, edge=width), 2)
    torch.testing.assert_close(bound(MAPS, torch.arange(2)), exact)


def test_the_difference_of_two_classes():
    mask = torch.zeros(6, 7).double()
    mask[:3] = 1
    bound = binding.bind(MAPS, targets.Segmentation(1, mask, against=2), 2)
    torch.testing.assert_close(bound(MAPS, torch.arange(2)), ((MAPS[:, 1] - MAPS[:, 2]) * mask).sum((1, 2)))


def test_a_region_without_an_edge_is_empty():
    whole = torch.ones(6, 7)
    assert binding.bind(MAPS, targets.Segmentation(1, whole, edge=1), 2).is_empty.all()


@pytest.mark.parametrize("options", [{"edge": 0}, {"against": 3}])
def test_mistakes_of_regions(options):
    with pytest.raises(ValueError, match=r"`edge` must|`against` must"):
        binding.bind(MAPS, targets.Segmentation(1, **options), 2)
