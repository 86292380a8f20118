"""One explanation as operators."""

from dataclasses import dataclass

from torch import fx

from fastcam.exporting.loop import Looped

HIGHEST = -1  # the class index that stands for the highest class of an image
FREE = -1  # the size of an axis that may vary, in files


@dataclass(frozen=True)
class Program:
    """The operations of one explanation.

    Attributes:
        graph: from images (N, C, *S) and classes (N,) to scores (N,), maps (N, *S) and the classes explained; with a
            loop for methods of many copies.
        sides: the shape of the images, None where any size fits.
        conditions: on the sizes of the images, as text; the graph checks them.
    """

    graph: fx.GraphModule | Looped
    sides: tuple[int | None, ...]
    conditions: tuple[str, ...]
