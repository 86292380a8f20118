"""Segmentation seeds: pixels that class maps are sure of, for the training of segmentation networks.

The class of a pixel is the highest of its image's class maps, if that is above a threshold, else the background
(arXiv:1603.06098, arXiv:1803.10464).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

BACKGROUND, UNDECIDED = 0, 255
THRESHOLDS = tuple(step / 100 for step in range(100))


def seeds(
    maps: Tensor, labels: Sequence[int] | Tensor, foreground: float = 0.3, background: float | None = None
) -> Tensor:
    """Return the seeds of one image.

    Args:
        maps: (K, H, W) in [0, 1], of the classes that the image has: ``explanation.maps[index]``.
        labels: K values in [1, 254], what each class is in the seeds.
        foreground: pixels whose highest map is above are of its class.
        background: pixels whose highest map is at most this are background; None takes ``foreground``. Pixels between
            the two are undecided.

    Returns:
        (H, W) uint8: 0 for background, 255 for undecided, else the label; of equal maps the first. Maps that are not
        finite mark nothing.

    Raises:
        ValueError: for maps, labels or thresholds that do not fit.
    """
    background = foreground if background is None else background
    values = _checked(maps, labels)
    if not 0 <= background <= foreground <= 1:
        raise ValueError(f"thresholds must be 0 <= background <= foreground <= 1, got {background} and {foreground}")
    highest, which = maps.nan_to_num(0, 0, 0).max(0)
    marked = torch.where(highest > foreground, values.to(maps.device)[which], UNDECIDED)
    return torch.where(highest <= background, BACKGROUND, marked).to(torch.uint8)


def _checked(maps: Tensor, labels: Sequence[int] | Tensor) -> Tensor:
    values = torch.as_tensor(labels)
    if maps.dim() != 3 or values.dim() != 1 or len(values) != len(maps) or not len(maps):
        raise ValueError(
            f"seeds are of maps (K, H, W) with K labels, got {tuple(maps.shape)} and {tuple(values.shape)}"
        )
    if values.is_floating_point() or values.min() <= BACKGROUND or values.max() >= UNDECIDED:
        raise ValueError(f"labels must be whole numbers in [1, 254], got {values.tolist()}")
    return values


def write_seeds(values: Tensor, file: str | Path) -> None:
    """Write seeds (H, W) uint8 as an indexed PNG with the colours of Pascal VOC, as trainers read it.

    Raises:
        OSError: if the file cannot be written.
    """
    picture = Image.fromarray(values.cpu().numpy(), "P")
    picture.putpalette(_voc_colours().ravel().tolist())
    picture.save(file, "PNG")


def _voc_colours() -> npt.NDArray[np.uint8]:
    """Return (256, 3): the bits of an index, three at a time, are the highest bits of red, green and blue."""
    index = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((index >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colours


class SeedScore:
    """Mean intersection over union of seeds with segmentations, at many thresholds, over a dataset.

    Args:
        labels: the values of all classes, without the background.
        thresholds: tried, between class and background.

    Attributes:
        intersections: (thresholds, classes + 1) float64, numbers of pixels; the background first.
        unions: of the same shape.
    """

    def __init__(self, labels: Sequence[int], thresholds: Sequence[float] = THRESHOLDS) -> None:
        self.labels = torch.tensor([BACKGROUND, *labels])
        self.thresholds = list(thresholds)
        self.intersections = torch.zeros(len(self.thresholds), len(self.labels), dtype=torch.float64)
        self.unions = torch.zeros_like(self.intersections)

    def add(self, maps: Tensor, labels: Sequence[int] | Tensor, segmentation: Tensor) -> None:
        """Add one image.

        Args:
            maps: (K, H, W) as for :func:`seeds`.
            labels: K of them.
            segmentation: (H, W) of labels, 0 for background and 255 for pixels that do not count.

        Raises:
            ValueError: for shapes or labels that do not fit.
        """
        values = _checked(maps, labels)
        if segmentation.shape != maps.shape[1:]:
            raise ValueError(f"a segmentation must have the size of the maps, {tuple(maps.shape[1:])}")
        truth, counted = segmentation.long().cpu(), (segmentation != UNDECIDED).cpu()
        highest, which = (each.cpu() for each in maps.nan_to_num(0, 0, 0).max(0))
        is_true = [counted & (truth == label) for label in self.labels]
        for row, threshold in enumerate(self.thresholds):
            found = torch.where(highest > threshold, values[which], BACKGROUND)
            for column, label in enumerate(self.labels):
                is_found = counted & (found == label)
                self.intersections[row, column] += (is_found & is_true[column]).sum()
                self.unions[row, column] += (is_found | is_true[column]).sum()

    @property
    def mean_ious(self) -> Tensor:
        """(thresholds,): means over the classes and the background that occur in seeds or segmentations."""
        return (self.intersections / self.unions.masked_fill(self.unions == 0, torch.nan)).nanmean(1)

    @property
    def best(self) -> tuple[float, float]:
        """The threshold with the highest mean, and that."""
        means = self.mean_ious
        place = int(means.nan_to_num(-1).argmax())
        return self.thresholds[place], means[place].item()
