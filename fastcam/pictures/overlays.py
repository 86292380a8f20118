"""Maps of pictures, blended over them."""

import numpy as np
from torch import Tensor

from fastcam import postprocess, render
from fastcam.pictures.backgrounds import DrawableImages, given_pictures, own_pictures

Overlays = render.Bytes | list[render.Bytes]


def overlay(maps: Tensor, own: Tensor, images: DrawableImages | None, colormap: str, alpha: float) -> Overlays:
    """Blend maps (N, [K,] H, W) over ``images``, or the model's input ``own``; see :meth:`.Drawing.overlay`."""
    if own.dim() != 4:
        raise ValueError(
            f"`overlay` draws maps of pictures; these have {own.dim() - 2} spatial axes: take plot or save, "
            "which draw signals, volumes and videos"
        )
    pictures = own_pictures(own) if images is None else given_pictures(images)
    if len(pictures) != len(maps):
        raise ValueError(f"`images` must be {len(maps)} pictures, one for each image, got {len(pictures)}")
    if isinstance(pictures, list):
        return [_blend(pictures[i][None], maps[i : i + 1], colormap, alpha)[0] for i in range(len(maps))]
    return _blend(pictures, maps, colormap, alpha)


def _blend(pictures: render.Bytes, maps: Tensor, colormap: str, alpha: float) -> render.Bytes:
    size = pictures.shape[1:3]
    if tuple(maps.shape[-2:]) != size:
        maps = postprocess.resize(maps, size, False)
    values = as_array(maps)
    if values.ndim == 4:
        pictures = np.broadcast_to(pictures[:, None], (*values.shape, 3))
    return render.overlay(np.ascontiguousarray(pictures), values, colormap, alpha)


def as_array(maps: Tensor) -> render.Floats:
    """Return maps as a float32 array."""
    return maps.detach().float().cpu().numpy()
