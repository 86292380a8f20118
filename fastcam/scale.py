"""One scale for all maps of a dataset, fitted on normal images: a map of nothing unusual then looks like nothing."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scale:
    """What the values of maps mean: 0 for ``low``, a half for the threshold, 1 for twice as far.

    Scaled one by one, the map of an image without any defect has a highest value too, and looks as alarming as that of
    a broken one. ``explanation.with_scale(scale)`` scales, draws and saves all maps alike.

    >>> scale = fastcam.Scale.fit(explainer(images).raw for images in batches_of_other_normal_images)
    >>> fastcam.explain(model, images, "grad_cam", normal, "layer3").with_scale(scale).save("maps.png")

    Attributes:
        low: the value that is shown as 0.
        threshold: the value above which something is unusual, shown as a half.
    """

    low: float
    threshold: float

    def __post_init__(self) -> None:
        if not self.low < self.threshold:
            raise ValueError(f"`threshold` must be larger than `low`, got {self.threshold!r} and {self.low!r}")

    @classmethod
    def fit(cls, maps: Iterable[Tensor], share: float = 0.99) -> "Scale":
        """Return the scale of the maps of normal images.

        Args:
            maps: ``raw`` maps (N, *S) of normal images, in any number of batches; not of those that a
                :class:`fastcam.targets.Distance` was fitted to, which it finds more usual than others.
            share: of the normal images lie wholly below the threshold: the quantile of their highest values.

        Raises:
            ValueError: without maps of finite values, or for a share outside (0, 1].
        """
        if not 0 < share <= 1:
            raise ValueError(f"`share` must lie in (0, 1], got {share!r}")
        lowest, highest = [], []
        for batch in maps:
            flat = batch.detach().double().flatten(1)
            lowest.append(flat.amin(1))
            highest.append(flat.amax(1))
        if not lowest or not sum(map(len, lowest)):
            raise ValueError("there are no maps of normal images to fit to")
        low, peaks = torch.cat(lowest).min(), torch.cat(highest)
        if not bool(low.isfinite() & peaks.isfinite().all()):
            raise ValueError("the maps of normal images have values that are not finite")
        return cls(float(low), float(peaks.quantile(share)))

    def __call__(self, maps: Tensor) -> Tensor:
        """Return maps in [0, 1]; those that are not finite stay so."""
        return ((maps - self.low) / (2 * (self.threshold - self.low))).clamp(0, 1)

    def exceeds(self, maps: Tensor) -> Tensor:
        """Return where maps are above the threshold, bool in their shape."""
        return maps > self.threshold
