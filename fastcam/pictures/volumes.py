"""Maps of volumes and videos: slices and frames on one picture."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fastcam import render
from fastcam.pictures.backgrounds import DrawableImages, in_unit_range, scaled
from fastcam.pictures.overlays import as_array

View = Literal["slices", "frames"]

_MONTAGE, _COLUMNS = 16, 4


def draw_volumes(
    maps: Tensor, own: Tensor, images: DrawableImages | None, colormap: str, alpha: float, view: View | None
) -> render.Bytes:
    """Draw each map (N, [K,] D, H, W) over its volume or video, as one picture.

    "slices": for each of the three axes the slice with the most evidence (of equal ones the first), and under them a
    montage along the first axis. "frames": a montage of the video. A montage has up to 16 pictures at equal distances.

    Args:
        maps: with values in [0, 1].
        own: (N, C, D, H, W), the model's input; each is scaled to [0, 1].
        images: the same shape with 1 or 3 channels, or other volumes for slices. Volumes are scaled to [0, 1], since
            their units have no common range; the values of frames must be uint8 or lie in [0, 1].
        colormap: see :func:`fastcam.render.colors`.
        alpha: share of the colour.
        view: None takes frames for three channels, slices otherwise.

    Returns:
        (N, [K,] h, w, 3) uint8.
    """
    given = _checked(own if images is None else images, own)
    view = view or ("frames" if given.shape[1] == 3 else "slices")
    if view not in ("slices", "frames"):
        raise ValueError(f"`view` must be 'slices', 'frames' or None, got {view!r}")
    if view == "frames" and given.shape[1] not in (1, 3):
        raise ValueError(f"frames must have 1 or 3 channels to be drawn, got {given.shape[1]}; pass images=")
    pixels = in_unit_range(given) if view == "frames" and images is not None else scaled(given, 3)
    colours = pixels if view == "frames" else pixels.mean(1, keepdim=True)
    voxels = render.to_uint8(colours.expand(-1, 3, -1, -1, -1).movedim(1, -1).contiguous().numpy())
    values = as_array(maps)
    if values.ndim == 5:
        voxels = np.broadcast_to(voxels[:, None], (*values.shape, 3))
    drawn = render.overlay(np.ascontiguousarray(voxels), values, colormap, alpha)
    sheets = [_sheet(drawn[index], values[index], view) for index in np.ndindex(values.shape[:-3])]
    return np.stack(sheets).reshape(*values.shape[:-3], *sheets[0].shape)


def strongest_slices(values: render.Floats) -> list[int]:
    """Return the slice of a map (D, H, W) with the largest sum along each of the three axes."""
    known = np.nan_to_num(values)
    return [int(known.sum(tuple({0, 1, 2} - {axis})).argmax()) for axis in range(3)]


def _checked(images: object, own: Tensor) -> Tensor:
    if isinstance(images, np.ndarray):
        images = torch.from_numpy(np.array(images))
    if not isinstance(images, Tensor):
        raise TypeError(
            f"`images` of volumes must be a tensor or an array (N, C, D, H, W), got {type(images).__name__}"
        )
    if images.dim() != 5 or len(images) != len(own) or images.shape[2:] != own.shape[2:]:
        expected = f"({len(own)}, C, {', '.join(map(str, own.shape[2:]))})"
        raise ValueError(f"`images` must have shape {expected}, the input's, got {tuple(images.shape)}")
    return images


def _sheet(drawn: render.Bytes, values: render.Floats, view: View) -> render.Bytes:
    """Arrange the slices of a coloured volume (D, H, W, 3), or the frames of a video, on one picture."""
    count = min(len(drawn), _MONTAGE)
    montage = [drawn[i] for i in np.linspace(0, len(drawn) - 1, count).round().astype(int)]
    if view == "frames":
        return render.grid(montage, _COLUMNS)
    strongest = [np.take(drawn, index, axis) for axis, index in enumerate(strongest_slices(values))]
    return render.grid([render.grid(strongest, 3), render.grid(montage, _COLUMNS)], 1)
