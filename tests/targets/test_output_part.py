"""The part of an output that is scored where the user does not say."""

from types import SimpleNamespace

import torch
from torch import nn

import fastcam
from fastcam import targets


class Queries(nn.Module):
    """Every query has classes and a mask, as MaskFormer's have."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.conv, self.classes, self.masks = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 5 * 4), nn.Conv2d(8, 5, 1)

    def forward(self, images):
        maps = self.conv(images).tanh()
        classes = self.classes(maps.mean((2, 3))).unflatten(1, (5, 4))
        hidden = (maps, maps * 2)
        return SimpleNamespace(class_queries_logits=classes, masks_queries_logits=self.masks(maps), hidden=hidden)


def test_queries_with_masks_make_a_segmentation():
    model, images = Queries().double().eval(), torch.rand(2, 3, 6, 8, dtype=torch.float64, requires_grad=True)
    output, region = model(images), torch.rand(6, 8, dtype=torch.float64)
    score = torch.zeros(2, dtype=torch.float64)
    for query in range(5):
        probability = torch.exp(output.class_queries_logits[:, query, 2]) / torch.exp(
            output.class_queries_logits[:, query]
        ).sum(1)
        mask = 1 / (1 + torch.exp(-output.masks_queries_logits[:, query]))
        score = score + probability * (mask * region).sum((1, 2))
    (expected,) = torch.autograd.grad(score.sum(), images)
    explanation = fastcam.explain(model, images.detach(), "saliency", targets.Segmentation(2, region))
    torch.testing.assert_close(explanation.scores, score.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(explanation.attributions.abs(), expected.abs(), rtol=1e-9, atol=1e-14)
    assert explanation.notes[0] == "segmentation_by_queries of the model's output, a SimpleNamespace, is scored"


def test_other_targets_score_the_classes_of_queries():
    model, images = Queries().double().eval(), torch.rand(2, 3, 6, 8, dtype=torch.float64)
    explanation = fastcam.explain(model, images, "saliency", targets.Anchors(3))
    assert torch.equal(explanation.scores, model(images).class_queries_logits[..., 3].amax(1))
