"""Maps from the scores of masked images, or of activations without one channel."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fastcam.devices import send
from fastcam.methods.protocol import Block, Scorer
from fastcam.methods.registry import method
from fastcam.ops.numerics import accumulation_dtype

_INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}


@method("score_cam", needs=("activations", "scorer"), cost="channels + 1", paper="arXiv:1910.01279")
def score_cam(activations: Tensor, scorer: Scorer, *, channels: int | None = None) -> Tensor:
    """Score-CAM: channels weighted by the score of the image masked by their upsampled activations.

    Args:
        activations: (N, C, *s).
        scorer: the model.
        channels: use only that many channels per image, those with the largest variance: a faster approximation.
    """
    count = activations.shape[1]
    if channels is not None and (not isinstance(channels, int) or not 1 <= channels <= count):
        raise ValueError(f"`channels` must be a whole number in [1, {count}] or None, got {channels!r}")
    if channels is None or channels == count:
        return _masked_scores(activations, scorer).softmax(-1)
    variance = activations.flatten(2).to(accumulation_dtype(activations.dtype)).var(-1)
    selected = variance.topk(channels, 1).indices  # (N, channels)
    varying = activations.gather(
        1,
        selected.reshape(*selected.shape, *[1] * (activations.dim() - 2)).expand(
            *selected.shape, *activations.shape[2:]
        ),
    )
    weights = _masked_scores(varying, scorer).softmax(-1)
    index = selected.unsqueeze(1).expand_as(weights) if weights.dim() == 3 else selected
    return weights.new_zeros((*weights.shape[:-1], count)).scatter(-1, index, weights)


def _masked_scores(activations: Tensor, scorer: Scorer) -> Tensor:
    """Return scores (N, [K,] C) of the images masked by every channel, upsampled and scaled to [0, 1]."""
    maps = activations.to(scorer.images.dtype)

    def mask(block: Block) -> Tensor:
        return scorer.masked(maps[block.place].contiguous(), block)

    return scorer.scores_of(activations.shape[1], mask)


@method(
    "ablation_cam",
    needs=("scores", "ablated_scores"),
    cost="1 to channels + 1",
    paper="doi:10.1109/WACV45572.2020.9093360",
)
def ablation_cam(scores: Tensor, ablated_scores: Tensor) -> Tensor:
    """Ablation-CAM: channels weighted by the relative drop of the score when they are set to zero."""
    return (scores.unsqueeze(-1) - ablated_scores) / scores.unsqueeze(-1)


@method("rise", needs=("scorer",), returns="map", relu=False, cost="masks", paper="arXiv:1806.07421")
def rise(scorer: Scorer, *, masks: int = 4000, grid: int = 7, probability: float = 0.5, seed: int = 0) -> Tensor:
    """RISE: mean of random masks, each weighted by the score of the masked image.

    Args:
        scorer: the model. The paper's score is a probability, ``fastcam.targets.Probability()``.
        masks: number of masks; all images share them.
        grid: cells per axis before upsampling.
        probability: probability that a cell is visible.
        seed: seed of the masks.
    """
    if any(not isinstance(count, int) or count < 1 for count in (masks, grid)) or not 0 < probability <= 1:
        raise ValueError(
            "`masks` and `grid` must be positive whole numbers and `probability` in (0, 1], "
            f"got {masks!r}, {grid!r}, {probability!r}"
        )
    images = scorer.images
    random_masks = _RandomMasks(masks, grid, probability, images, seed)

    def masked_scores(block: Block) -> tuple[Tensor, Tensor]:
        visible = random_masks(block.variants)  # (m, *S)
        return scorer.score(images[block.place[0]].unsqueeze(1) * visible.unsqueeze(1), block), visible

    total = images.new_zeros((*scorer.scores.shape, *images.shape[2:]), dtype=accumulation_dtype(images.dtype))
    for block, (scores, visible) in scorer.each(masks, masked_scores):
        total[block.place[0]] += torch.tensordot(scores.movedim(1, -1).to(total), visible.to(total), 1)
    return total / (masks * probability)


class _RandomMasks:
    """Coarse random grids, upsampled and shifted by less than a cell; accessible in any order."""

    def __init__(self, count: int, grid: int, probability: float, images: Tensor, seed: int) -> None:
        self.like = images
        self.size = tuple(images.shape[2:])
        self.cells = [-(-length // grid) for length in self.size]
        generator = torch.Generator().manual_seed(seed)
        self.grids = torch.rand((count, *[grid] * len(self.size)), generator=generator) < probability
        self.shifts = torch.stack([torch.randint(cell, (count,), generator=generator) for cell in self.cells], 1)
        self.grid = grid

    def __call__(self, indices: range) -> Tensor:
        """Return masks (m, *S) in [0, 1]."""
        coarse = send(self.grids[indices.start : indices.stop], self.like.device).to(self.like.dtype)
        large = [(self.grid + 1) * cell for cell in self.cells]
        mode = _INTERPOLATION[len(self.size)]
        smooth = F.interpolate(coarse.unsqueeze(1), large, mode=mode, align_corners=False)[:, 0]
        shifts = self.shifts[indices.start : indices.stop].tolist()
        return torch.stack(
            [
                mask[tuple(slice(offset, offset + length) for offset, length in zip(shift, self.size, strict=True))]
                for mask, shift in zip(smooth, shifts, strict=True)
            ]
        )
