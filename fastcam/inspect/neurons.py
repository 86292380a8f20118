"""What excites neurons: for every channel the parts of the images that it saw, and what it took from them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fastcam import render, targets
from fastcam.explainer import Explainer
from fastcam.inspect.pictures import CELL, fitted, symmetric
from fastcam.inspect.receptive_field import ReceptiveField, receptive_field
from fastcam.inspect.survey import LayerSurvey

_SHOWN = 0.995  # of the magnitudes of a gradient, not clipped
Load = Callable[[int], tuple[Tensor, render.Bytes]]  # from an image's number to the input (C, H, W) and its picture


@dataclass(frozen=True)
class Excitation:
    """One of the highest activations of a channel.

    Attributes:
        channel: index.
        rank: 0 for the highest.
        image: its number.
        value: of the activation.
        position: (row, column) in the layer's map.
        box: left, top, right, bottom of what the unit sees, in pixels of the model's input, the end exclusive.
    """

    channel: int
    rank: int
    image: int
    value: float
    position: tuple[int, ...]
    box: tuple[int, int, int, int]


def excitations(seen: LayerSurvey, field: ReceptiveField, channels: Sequence[int] | None = None) -> list[Excitation]:
    """Return the highest activations of channels, the highest first.

    Args:
        seen: a layer, surveyed with ``k``.
        field: the receptive field of its units.
        channels: of the layer; None for all.

    Raises:
        ValueError: for a survey without images, or a channel that the layer does not have.
    """
    top = seen.top
    if not top.size:
        raise ValueError("the survey has kept no images: survey with k=12, for example")
    found = []
    for channel in range(len(top)) if channels is None else channels:
        if not 0 <= channel < len(top):
            raise ValueError(f"layer {seen.name!r} has channels 0 to {len(top) - 1}, got {channel}")
        for rank in range(top.values.shape[1]):
            if top.images[channel, rank] < 0:
                break
            position = top.position(channel, rank)
            row, column = position if len(position) == 2 else (0, 0)
            image, value = int(top.images[channel, rank]), float(top.values[channel, rank])
            found.append(Excitation(channel, rank, image, value, position, field.box(row, column)))
    return found


def sheet(
    model: nn.Module,
    seen: LayerSurvey,
    load: Load,
    channels: Sequence[int],
    size: tuple[int, int],
    projection: str | None = "guided_backprop",
    titles: Sequence[str] | None = None,
) -> Image.Image:
    """Return a sheet with a row for every channel: what it saw, and below what it took from that.

    The parts of the images are the receptive fields of the strongest positions; below each lies the gradient of that
    neuron with respect to the pixels, as of Zeiler and Fergus (arXiv:1311.2901) by deconvolution, or by guided
    backpropagation.

    Args:
        model: the model that was surveyed.
        seen: one layer.
        load: from the number of an image to the model's input (C, H, W) and the picture of it, (H, W, 3) bytes.
        channels: to show.
        size: (H, W) of the input.
        projection: "guided_backprop", "deconvnet", "saliency", or None for the parts alone.
        titles: of the channels; None for their numbers.

    Raises:
        ValueError: as :func:`excitations`.
    """
    images = next(model.parameters(), torch.empty(0)).device
    field = receptive_field(model, seen.name, size, len(load(_any_image(seen))[0]))
    columns = max(1, int((seen.top.images >= 0).sum(1).max()))
    blank = np.full((CELL, CELL, 3), 255, np.uint8)
    rows, row_titles = [], []
    for number, channel in enumerate(channels):
        parts, projected = [], []
        for each in excitations(seen, field, [channel]):
            tensor, picture = load(each.image)
            left, top, right, bottom = each.box
            parts.append(fitted(picture[top:bottom, left:right]))
            if projection is not None:
                gradient = _projected(model, seen.name, each, tensor.to(images), projection)
                projected.append(fitted(symmetric(gradient[:, top:bottom, left:right], _SHOWN)))
        title = f"channel {channel}" if titles is None else titles[number]
        for pictures, beside in ((parts, title), (projected, "")):
            if pictures:
                rows.append(pictures + [blank] * (columns - len(pictures)))
                row_titles.append(beside)
    return render.contact_sheet(rows, row_titles, [""] * columns)


def _any_image(seen: LayerSurvey) -> int:
    known = seen.top.images[seen.top.images >= 0]
    if not len(known):
        raise ValueError("the survey has kept no images: survey with k=12, for example")
    return int(known[0])


def _projected(model: nn.Module, layer: str, each: Excitation, image: Tensor, method: str) -> render.Floats:
    """Return the gradient (1 or 3, H, W) of a neuron, by a rule for ReLUs."""
    target = targets.Neuron(layer, each.channel, each.position)
    explanation = Explainer(model, method)(image.unsqueeze(0), target)
    attributions = explanation.attributions
    assert attributions is not None  # pixel methods have them
    values: render.Floats = attributions[0].detach().float().cpu().numpy()
    return values if len(values) in (1, 3) else values.mean(0, keepdims=True)
