"""Pictures of channels, filters and neurons."""

from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor, nn

from fastcam import render
from fastcam.render import Bytes

CELL = 96  # pixels of a picture in a sheet


def channel_grid(maps: Tensor, columns: int = 16, cell: int = 48, colormap: str = "viridis") -> Bytes:
    """Return the channels of one image side by side, each scaled from its lowest to its highest value.

    Args:
        maps: (C, h, w).
        columns: pictures in a row.
        cell: pixels of a picture, at least; maps are enlarged by whole factors, so that every position is a square.
        colormap: see :func:`fastcam.render.colors`.

    Raises:
        ValueError: for maps without two axes.
    """
    if maps.dim() != 3:
        raise ValueError(f"pictures are of channels (C, h, w), got {tuple(maps.shape)}")
    values = maps.detach().float().cpu().numpy()
    low, high = (each(values, axis=(1, 2), keepdims=True) for each in (np.nanmin, np.nanmax))
    scaled = np.where(high > low, (values - low) / np.where(high > low, high - low, 1), 0)
    colored = render.colors(colormap)[render.to_uint8(scaled)]
    factor = max(1, cell // max(values.shape[1:]))
    return render.grid(list(_enlarged(colored, factor)), columns)


def find_stem(model: nn.Module) -> tuple[str, nn.Module]:
    """Return the first layer with filters, in the order in which the modules were registered: name and module.

    Raises:
        ValueError: for a model without convolutions.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            return name, module
    raise ValueError("the model has no convolution, and so no filters that could be shown")


def filters(model: nn.Module, layer: str | None = None, columns: int = 8, cell: int = 48) -> Bytes:
    """Return the filters of a layer as pictures, those of the first one unless it is named.

    A filter of three channels is in colour, of one channel in grey, of others its channels are averaged. Zero is the
    middle grey, and each filter is scaled by its own largest magnitude: brightness does not compare between filters.

    Args:
        model: any module.
        layer: the name of a convolution.
        columns: pictures in a row.
        cell: pixels of a picture, at least.

    Raises:
        ValueError: for a layer that has no filters (O, I, h, w).
    """
    name, module = find_stem(model) if layer is None else (layer, model.get_submodule(layer))
    weights = getattr(module, "weight", None)
    if not isinstance(weights, Tensor) or weights.dim() != 4:
        raise ValueError(f"layer {name!r} has no filters (O, I, h, w)")
    values = weights.detach().float().cpu().numpy()
    if values.shape[1] not in (1, 3):
        values = values.mean(1, keepdims=True)
    factor = max(1, cell // max(values.shape[2:]))
    return render.grid(list(_enlarged(symmetric(values), factor)), columns)


def symmetric(values: render.Floats, share: float = 1.0) -> Bytes:
    """Return pictures (..., H, W, 3) of signed values (..., 1 or 3, H, W), with grey for zero.

    Args:
        values: of each picture.
        share: of the magnitudes that is not clipped: a few pixels of a gradient hide the others.
    """
    largest = np.quantile(np.abs(values), share, axis=(-3, -2, -1), keepdims=True)
    scaled = 0.5 + 0.5 * values / np.where(largest > 0, largest, 1)
    moved = np.moveaxis(render.to_uint8(scaled), -3, -1)
    return np.broadcast_to(moved, (*moved.shape[:-1], 3)).copy()


def fitted(picture: Bytes, side: int = CELL, resample: Image.Resampling = Image.Resampling.BICUBIC) -> Bytes:
    """Return a picture (H, W, 3) in the middle of a white square of ``side`` pixels, as large as its shape allows."""
    scale = side / max(picture.shape[:2])
    width, height = (max(1, round(length * scale)) for length in (picture.shape[1], picture.shape[0]))
    small = Image.fromarray(picture).resize((width, height), resample)
    square = Image.new("RGB", (side, side), "white")
    square.paste(small, ((side - width) // 2, (side - height) // 2))
    return np.asarray(square)


def _enlarged(pictures: Bytes, factor: int) -> Sequence[Bytes]:
    """Return pictures (M, h, w, 3) with every pixel a square."""
    enlarged: Bytes = pictures.repeat(factor, 1).repeat(factor, 2)
    return list(enlarged)
