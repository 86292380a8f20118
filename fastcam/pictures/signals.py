"""Maps of signals: the curves, and the map under them as a strip of colours."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fastcam import postprocess, render
from fastcam.pictures.figures import Index, matplotlib_figure
from fastcam.pictures.overlays import as_array

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def checked_signals(images: object, own: Tensor) -> render.Floats:
    """Return the curves (N, C, L) to draw: ``images``, of any length, or the model's input.

    Raises:
        TypeError, ValueError: for anything else.
    """
    images = own if images is None else images
    if isinstance(images, np.ndarray):
        images = torch.from_numpy(np.array(images))
    if not isinstance(images, Tensor):
        raise TypeError(f"`images` of signals must be a tensor or an array (N, C, L), got {type(images).__name__}")
    if images.dim() != 3 or len(images) != len(own):
        raise ValueError(f"`images` must have shape ({len(own)}, C, L), got {tuple(images.shape)}")
    return as_array(images)


def signal_figure(
    maps: Tensor, signals: render.Floats, indices: list[Index], titles: list[str], colormap: str
) -> "Figure":
    """Return a figure of one panel for each index (n,) or (n, k) into maps (N, [K,] L): signal n above its map."""
    length = signals.shape[-1]
    values = as_array(maps if maps.shape[-1] == length else postprocess.resize(maps, [length], False))
    paper = np.full((1, length, 3), 255, np.uint8)  # stays white where the map is NaN
    figure = matplotlib_figure((8, 2.4 * len(indices)))
    panels = figure.add_gridspec(len(indices), 1)
    for row, (index, title) in enumerate(zip(indices, titles, strict=True)):
        cells = panels[row].subgridspec(2, 1, height_ratios=(5, 1), hspace=0.05)
        curves = figure.add_subplot(cells[0])
        curves.plot(signals[index[0]].T, linewidth=1)
        curves.set_title(title)
        curves.tick_params(labelbottom=False)
        strip = figure.add_subplot(cells[1], sharex=curves)
        colours = render.overlay(paper, values[index][None], colormap, 1)
        strip.imshow(colours, aspect="auto", extent=(-0.5, length - 0.5, 0, 1), interpolation="nearest")
        strip.set_yticks([])
    return figure
