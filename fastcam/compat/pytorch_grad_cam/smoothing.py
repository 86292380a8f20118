"""The image augmentations that ``aug_smooth`` averages over."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class FlipAndFactor:
    """One augmentation.

    Attributes:
        flip: whether left and right are exchanged.
        factor: multiplies every value.
    """

    flip: bool
    factor: float

    def augment_image(self, images: Tensor) -> Tensor:
        """Return the augmented images."""
        return (images.flip(-1) if self.flip else images) * self.factor

    def deaugment_mask(self, maps: Tensor) -> Tensor:
        """Return maps of augmented images in the layout of the original images."""
        return maps.flip(-1) if self.flip else maps


FLIPS_AND_FACTORS = tuple(FlipAndFactor(flip, factor) for flip in (False, True) for factor in (0.9, 1, 1.1))
