"""Objects in images, as annotations have them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Mask: TypeAlias = npt.NDArray[np.bool_]  # (H, W)
Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom in pixels, the end exclusive
Size: TypeAlias = tuple[int, int]  # (height, width)


@dataclass(frozen=True)
class Region:
    """One object.

    Attributes:
        label: name of its class, or number, as the file has it; "" if it has none.
        box: around it; None for one that is a mask alone.
        draw: from the size of the image to its mask; None for one that is a box alone.
        is_difficult: whether the annotation says that it is hard to see, or a crowd.
    """

    label: str
    box: Box | None = None
    draw: Callable[[Size], Mask] | None = field(default=None, compare=False)
    is_difficult: bool = False

    def mask(self, size: Size) -> Mask:
        """Return the pixels of the object, or those whose centre is in its box.

        Raises:
            ValueError: for an image of another size than the mask.
        """
        if self.draw is not None:
            return self.draw(size)
        assert self.box is not None
        left, top, right, bottom = self.box
        rows, columns = (np.arange(length) + 0.5 for length in size)
        return ((rows >= top) & (rows < bottom))[:, None] & ((columns >= left) & (columns < right))


@dataclass(frozen=True)
class Annotation:
    """The objects of one image.

    Attributes:
        image_id: of the image.
        regions: the objects.
        size: of the image, if the file says so.
        reason: why there are none: missing, or broken.
        void: from the size of the image to pixels that are neither object nor background; None if there are none.
    """

    image_id: str
    regions: tuple[Region, ...] = ()
    size: Size | None = None
    reason: str = ""
    void: Callable[[Size], Mask] | None = field(default=None, compare=False)

    def mask(self, size: Size, regions: Iterable[Region] | None = None) -> Mask:
        """Return the pixels (H, W) of all objects, or of some of them.

        Raises:
            ValueError: for an image of another size than a mask.
        """
        union = np.zeros(size, np.bool_)
        for region in self.regions if regions is None else regions:
            union |= region.mask(size)
        return union


def check_box(box: Iterable[float], size: Size | None) -> Box:
    """Return a box inside the image.

    Raises:
        ValueError: for a box that is empty, reversed, not finite or outside of the image.
    """
    left, top, right, bottom = (float(edge) for edge in box)
    if size is not None:
        clipped = max(left, 0.0), max(top, 0.0), min(right, float(size[1])), min(bottom, float(size[0]))
    else:
        clipped = left, top, right, bottom
    if not (clipped[0] < clipped[2] and clipped[1] < clipped[3] and np.isfinite(clipped).all()):
        where = "" if size is None else f" in an image of {size[1]} x {size[0]}"
        raise ValueError(f"a box is left < right and top < bottom, got {left:g}, {top:g}, {right:g}, {bottom:g}{where}")
    return clipped


def check_size(mask: Mask, size: Size) -> Mask:
    """Return a mask of the image's size.

    Raises:
        ValueError: for another size.
    """
    if mask.shape != size:
        raise ValueError(
            f"the mask has {mask.shape[1]} x {mask.shape[0]} pixels, but the image has {size[1]} x {size[0]}"
        )
    return mask
