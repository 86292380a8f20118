"""Maps from what the model says of the image behind masks, or of activations without one of their channels."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fastcam import ops
from fastcam.methods.protocol import Block, Scorer
from fastcam.methods.registry import method
from fastcam.ops.numerics import accumulation_dtype

_INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}


@method("score_cam", needs=("activations", "scorer"), cost="channels + 1", paper="arXiv:1910.01279")
def score_cam(activations: Tensor, scorer: Scorer, *, channels: int | None = None) -> Tensor:
    """Score-CAM: every channel weighted by the score of the image seen through it.

    Args:
        activations: (N, C, *s).
        scorer: the model.
        channels: try only the channels that vary most, so many of every image: faster, and an approximation.
    """
    count = activations.shape[1]
    if channels is not None and (not isinstance(channels, int) or not 1 <= channels <= count):
        raise ValueError(f"`channels` must be a whole number in [1, {count}] or None, got {channels!r}")
    if channels is None or channels == count:
        return _masked_scores(activations, scorer).softmax(-1)
    variance = activations.flatten(2).to(accumulation_dtype(activations.dtype)).var(-1)
    chosen = variance.topk(channels, 1).indices  # (N, channels)
    some = activations.gather(
        1, chosen.reshape(*chosen.shape, *[1] * (activations.dim() - 2)).expand(*chosen.shape, *activations.shape[2:])
    )
    weights = _masked_scores(some, scorer).softmax(-1)
    index = chosen.unsqueeze(1).expand_as(weights) if weights.dim() == 3 else chosen
    return weights.new_zeros((*weights.shape[:-1], count)).scatter(-1, index, weights)


def _masked_scores(activations: Tensor, scorer: Scorer) -> Tensor:
    """(N, [K,] C): scores of the images behind every channel, upsampled and scaled to [0, 1], as a mask."""
    images = scorer.images
    maps = activations.to(images.dtype)

    def masked(block: Block) -> Tensor:
        return ops.mask_images(images[block.place[0]], maps[block.place].contiguous())

    return scorer.scores_of(activations.shape[1], masked)


@method(
    "ablation_cam",
    needs=("scores", "ablated_scores"),
    cost="1 to channels + 1",
    paper="doi:10.1109/WACV45572.2020.9093360",
)
def ablation_cam(scores: Tensor, ablated_scores: Tensor) -> Tensor:
    """Ablation-CAM: every channel weighted by the share of the score that is lost without it."""
    return (scores.unsqueeze(-1) - ablated_scores) / scores.unsqueeze(-1)


@method("rise", needs=("scorer",), returns="map", relu=False, cost="masks", paper="arXiv:1806.07421")
def rise(scorer: Scorer, *, masks: int = 4000, grid: int = 7, probability: float = 0.5, seed: int = 0) -> Tensor:
    """RISE: the mean of random masks, each weighted by the score of the image behind it.

    Args:
        scorer: the model. The paper's score is a probability, ``fastcam.targets.Probability()``.
        masks: how many; the same for every image.
        grid: cells along every axis before smoothing.
        probability: of a cell to be seen.
        seed: of the masks.
    """
    if any(not isinstance(each, int) or each < 1 for each in (masks, grid)) or not 0 < probability <= 1:
        raise ValueError(
            "`masks` and `grid` must be positive whole numbers and `probability` in (0, 1], "
            f"got {masks!r}, {grid!r}, {probability!r}"
        )
    images = scorer.images
    draw = _RandomMasks(masks, grid, probability, images, seed)

    def work(block: Block) -> tuple[Tensor, Tensor]:
        seen = draw(block.variants)  # (m, *S)
        return scorer.score(images[block.place[0]].unsqueeze(1) * seen.unsqueeze(1), block), seen

    total = images.new_zeros((*scorer.scores.shape, *images.shape[2:]), dtype=accumulation_dtype(images.dtype))
    for block, (scores, seen) in scorer.each(masks, work):
        total[block.place[0]] += torch.tensordot(scores.movedim(1, -1).to(total), seen.to(total), 1)
    return total / (masks * probability)


class _RandomMasks:
    """Coarse random grids, upsampled and shifted by less than a cell: any of them, in any order."""

    def __init__(self, count: int, grid: int, probability: float, images: Tensor, seed: int) -> None:
        self.like = images
        self.size = tuple(images.shape[2:])
        self.cells = [-(-length // grid) for length in self.size]
        generator = torch.Generator().manual_seed(seed)
        self.grids = torch.rand((count, *[grid] * len(self.size)), generator=generator) < probability
        self.shifts = torch.stack([torch.randint(cell, (count,), generator=generator) for cell in self.cells], 1)
        self.grid = grid

    def __call__(self, which: range) -> Tensor:
        """(m, *S) in [0, 1]."""
        coarse = self.grids[which.start : which.stop].to(self.like)
        large = [(self.grid + 1) * cell for cell in self.cells]
        mode = _INTERPOLATION[len(self.size)]
        smooth = F.interpolate(coarse.unsqueeze(1), large, mode=mode, align_corners=False)[:, 0]
        shifts = self.shifts[which.start : which.stop].tolist()
        return torch.stack(
            [
                each[tuple(slice(shift, shift + length) for shift, length in zip(by, self.size, strict=True))]
                for each, by in zip(smooth, shifts, strict=True)
            ]
        )
