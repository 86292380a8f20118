"""Figures of matplotlib."""

from typing import TYPE_CHECKING

from fastcam import render

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Index = tuple[int, ...]


def matplotlib_figure(size: tuple[float, float]) -> "Figure":
    """Return an empty figure of that size in inches.

    Raises:
        ImportError: without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures and signals need matplotlib (pip install fastcam[plot])") from error
    return Figure(figsize=size, layout="constrained")


def picture_figure(pictures: list[render.Bytes], titles: list[str]) -> "Figure":
    """Return a figure of pictures with their titles, four beside each other."""
    columns = max(1, min(4, len(pictures)))
    rows = -(-len(pictures) // columns)
    figure = matplotlib_figure((3 * columns, 3.3 * rows))
    for position, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
        axes = figure.add_subplot(rows, columns, position + 1)
        axes.imshow(picture)
        axes.set_title(title)
        axes.axis("off")
    return figure
