"""What the stages of a network return for images: their channels, and the mean and median over these, side by side."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fastcam import render
from fastcam.inspect.pictures import fitted
from fastcam.inspect.recording import Layers, resolve, watching
from fastcam.inspect.stages import find_stages
from fastcam.model import layers as model_layers
from fastcam.model import running
from fastcam.model.capture import Layer
from fastcam.model.inputs import Inputs

_STRONGEST = 6  # channels in a figure


@dataclass(frozen=True)
class StageActivations:
    """What one layer returned for N images.

    Attributes:
        name: of the layer; with [0], [1], ... of a layer that returns several maps.
        maps: (N, C, *S), a copy.
    """

    name: str
    maps: Tensor

    @property
    def mean(self) -> Tensor:
        """(N, *S), over the channels."""
        return self.maps.float().mean(1)

    @property
    def median(self) -> Tensor:
        """(N, *S), over the channels; of an even number the mean of the two in the middle."""
        ordered = self.maps.float().sort(1).values
        channels = ordered.shape[1]
        return (ordered[:, (channels - 1) // 2] + ordered[:, channels // 2]) / 2

    @property
    def deviation(self) -> Tensor:
        """(N, *S), standard deviations over the channels."""
        return self.maps.float().std(1, correction=0)

    @property
    def zero_share(self) -> Tensor:
        """(N, *S), the shares of channels that are zero."""
        return (self.maps == 0).float().mean(1)

    def strongest(self, image: int, count: int) -> list[int]:
        """Return the channels with the highest means over the positions of an image, the highest first."""
        means = self.maps[image].float().flatten(1).mean(1)
        return means.argsort(descending=True, stable=True)[:count].tolist()


@dataclass(frozen=True)
class Activations(Mapping[str, StageActivations]):
    """What the stages of a network returned for N images, by name, in the order of the pass.

    Attributes:
        stages: by name.
    """

    stages: dict[str, StageActivations]

    def __getitem__(self, name: str) -> StageActivations:
        return self.stages[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.stages)

    def __len__(self) -> int:
        return len(self.stages)

    def figure(
        self, image: int = 0, picture: render.Bytes | None = None, colormap: str = "viridis", cell: int = 112
    ) -> Image.Image:
        """Return a row for every stage: mean and median over its channels, then its strongest channels.

        Every map is scaled from its own lowest to its own highest value; these stand beside the row for the mean.

        Args:
            image: which of the N.
            picture: (H, W, 3) bytes, drawn at the left of each row; None for none.
            colormap: see :func:`fastcam.render.colors`.
            cell: pixels of a map.

        Raises:
            ValueError: if no layer has maps (C, h, w).
        """
        rows, titles = [], []
        for name, stage in self.items():
            maps = stage.maps[image].float().cpu()
            if maps.dim() != 3:
                continue
            mean, median = stage.mean[image].cpu(), stage.median[image].cpu()
            shown = [mean, median, *(maps[channel] for channel in stage.strongest(image, _STRONGEST))]
            cells = [fitted(_colored(each, colormap), cell, Image.Resampling.NEAREST) for each in shown]
            cells += [np.full_like(cells[0], 255)] * (2 + _STRONGEST - len(cells))
            rows.append(cells if picture is None else [fitted(picture, cell), *cells])
            size = " x ".join(map(str, maps.shape))
            titles.append(f"{name}\n{size}\n{float(mean.min()):.2g} to {float(mean.max()):.2g}")
        if not rows:
            raise ValueError("none of the layers has maps of two axes: their numbers are in `maps`")
        heads = [*([] if picture is None else ["image"]), "mean", "median", *(["strongest channels"] + [""] * 5)]
        return render.contact_sheet(rows, titles, heads)


def activations(model: nn.Module, images: Tensor, layers: Layers | None = None) -> Activations:
    """Return what layers return for images, for figures of the stages of a network side by side.

    >>> seen = fastcam.inspect.activations(model, images, ["layer1", "layer2", "layer3", "layer4"])
    >>> seen["layer4"].mean  # (N, 7, 7), over the channels
    >>> seen.figure().save("stages.png")

    All maps of all layers are kept: for statistics over many images there is :func:`fastcam.inspect.survey`.

    Args:
        model: any module of images, in evaluation mode.
        images: (N, C, *S).
        layers: modules of the model or their names, also such as return several maps; None takes the last one of every
            resolution.

    Raises:
        ValueError, TypeError: for a layer that the model does not have, or one that returns no maps of the images.
        RuntimeError: for a layer that is not reached.
    """
    chosen = resolve(model, find_stages(model, images[:1]) if layers is None else layers)
    found: dict[str, list[Tensor]] = {}

    def see(layer: Layer, tensors: list[Tensor]) -> None:
        found[layer.name] = [
            tensor.detach().clone() for tensor in tensors if tensor.dim() > 1 and len(tensor) == len(images)
        ]

    with torch.no_grad(), running.preserve_state(model), watching(chosen, see):
        running.call(model, images)
    stages: dict[str, StageActivations] = {}
    for layer in chosen:
        if layer.name not in found:
            raise RuntimeError(f"layer {layer.name!r} was not reached in the forward pass")
        tensors = found[layer.name]
        if not tensors:
            raise ValueError(f"layer {layer.name!r} returns no maps (N, C, ...) of the {len(images)} images")
        for number, tensor in enumerate(tensors):
            name = layer.name if len(tensors) == 1 else f"{layer.name}[{number}]"
            stages[name] = StageActivations(name, _as_map(model, layer, tensor, images, len(tensors) == 1))
    return Activations(stages)


def _as_map(model: nn.Module, layer: Layer, tensor: Tensor, images: Tensor, is_alone: bool) -> Tensor:
    """Return the map in a layer's tokens, if there is one; (N, C) as maps of one position."""
    if tensor.dim() == 2:
        return tensor.unsqueeze(2)
    if not is_alone:
        return tensor
    found = model_layers.with_token_map(model, layer, tensor[:1], Inputs(images[:1]))
    return tensor if found.token_map is None else found.token_map(tensor)


def _colored(values: Tensor, colormap: str) -> render.Bytes:
    numbers = values.numpy()
    low, high = float(np.nanmin(numbers)), float(np.nanmax(numbers))
    scaled = (numbers - low) / (high - low) if high > low else np.zeros_like(numbers)
    return render.colors(colormap)[render.to_uint8(np.nan_to_num(scaled).astype(np.float32))]
