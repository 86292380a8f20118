"""Pictures in and out, NumPy arrays throughout."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Array = np.ndarray[Any, Any]

_EPS = 1e-7  # of the scaling to [0, 1]
_JET = 2  # cv2.COLORMAP_JET


def preprocess_image(img: Array, mean: Sequence[float] = (0.5,) * 3, std: Sequence[float] = (0.5,) * 3) -> Tensor:
    """A picture (H, W, 3), uint8 or in [0, 1], as input (1, 3, H, W)."""
    values = torch.from_numpy(np.ascontiguousarray(img)).movedim(-1, 0)
    values = values.float() / 255 if values.dtype == torch.uint8 else values
    shape = (-1, 1, 1)
    return ((values - values.new_tensor(mean).reshape(shape)) / values.new_tensor(std).reshape(shape))[None]


def deprocess_image(img: Array) -> Array:
    """Gradients of any range as a picture, uint8: 0 is grey, a standard deviation a tenth of the range."""
    spread = (img - np.mean(img)) / (np.std(img - np.mean(img)) + 1e-5)
    return np.uint8(np.clip(spread * 0.1 + 0.5, 0, 1) * 255)  # type: ignore[return-value]


def show_cam_on_image(
    img: Array, mask: Array, use_rgb: bool = False, colormap: int = _JET, image_weight: float = 0.5
) -> Array:
    """A map in colour over a picture.

    Args:
        img: (H, W, 3), float, in [0, 1].
        mask: (H, W), in [0, 1].
        use_rgb: whether the picture's colours are red, green, blue; otherwise blue comes first.
        colormap: one of OpenCV's.
        image_weight: share of the picture.

    Returns:
        (H, W, 3) uint8, its largest value 255.

    Raises:
        ValueError: for a picture beyond 1, or a share outside [0, 1].
    """
    if np.max(img) > 1:
        raise ValueError(f"`img` must be a float picture in [0, 1], got values up to {np.max(img):g}")
    if not 0 <= image_weight <= 1:
        raise ValueError(f"`image_weight` must lie in [0, 1], got {image_weight}")
    heat = _blue_first(colormap)[np.uint8(255 * mask)].astype(np.float32) / 255
    blended = (1 - image_weight) * (heat[..., ::-1] if use_rgb else heat) + image_weight * img
    return np.uint8(255 * (blended / np.max(blended)))  # type: ignore[return-value]


def _blue_first(colormap: int) -> Array:
    """The 256 colours of one of OpenCV's maps, (256, 3)."""
    import cv2

    return np.asarray(cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], colormap))[:, 0]


def scale_cam_image(cam: Array, target_size: Sequence[int] | None = None) -> Array:
    """Maps (N, *s), each scaled to [0, 1), at another size.

    Args:
        cam: the maps.
        target_size: (width, height), or (depth, width, height) in that order for volumes; None leaves the size.

    Returns:
        (N, *S), float32. Pictures are resized linearly, volumes by cubic splines.
    """
    axes = tuple(range(1, cam.ndim))
    low = cam.min(axis=axes, keepdims=True)
    scaled = (cam - low) / (_EPS + (cam.max(axis=axes, keepdims=True) - low))
    if target_size is None or tuple(target_size[::-1]) == scaled.shape[1:]:
        return scaled.astype(np.float32)
    size = [int(each) for each in target_size[::-1]]
    if len(axes) == 2:
        maps = torch.from_numpy(np.ascontiguousarray(scaled, np.float32))[:, None]
        return F.interpolate(maps, size, mode="bilinear")[:, 0].numpy()
    return np.stack([_splined(np.float32(each), size) for each in scaled])


def _splined(volume: Any, size: Sequence[int]) -> Array:
    from scipy.ndimage import zoom

    found = zoom(volume, [new / old for old, new in zip(volume.shape, size, strict=True)])
    return np.asarray(found, np.float32)


def scale_accross_batch_and_channels(tensor: Array, target_size: Sequence[int]) -> Array:
    """Maps (N, C, H, W), each scaled to [0, 1) at the size (width, height)."""
    flat = scale_cam_image(tensor.reshape(-1, *tensor.shape[2:]), target_size)
    return flat.reshape(*tensor.shape[:2], target_size[1], target_size[0])


def show_factorization_on_image(
    img: Array,
    explanations: Array,
    colors: Sequence[Array] | None = None,
    image_weight: float = 0.5,
    concept_labels: Sequence[str] | None = None,
) -> Array:
    """Concepts in colours over a picture: at every pixel the strongest, as bright as it is strong.

    Args:
        img: (H, W, 3), red, green and blue in [0, 1].
        explanations: where n concepts are, (n, H, W), in [0, 1].
        colors: n colours in [0, 1]; None for a rainbow.
        image_weight: share of the picture.
        concept_labels: n texts, for a legend beside the picture.

    Returns:
        (H, W, 3) uint8, or (H, 2 W, 3) with a legend.
    """
    import cv2
    import matplotlib

    count = len(explanations)
    rainbow = matplotlib.colormaps["gist_rainbow"]
    chosen = [rainbow(index / count) for index in range(count)] if colors is None else colors
    colours = (255 * np.array([each[:3] for each in chosen])).astype(np.uint8)
    hues = cv2.cvtColor(colours[explanations.argmax(axis=0)], cv2.COLOR_RGB2HSV)
    hues[..., 2] = (255 * explanations.max(axis=0)).astype(np.uint8)
    lit = np.float32(cv2.cvtColor(hues, cv2.COLOR_HSV2RGB)) / 255
    result = (255 * (img * image_weight + lit * (1 - image_weight))).astype(np.uint8)
    if concept_labels is None:
        return result
    return np.hstack((result, _legend(chosen, concept_labels, *img.shape[:2])))


def _legend(colors: Sequence[Any], labels: Sequence[str], height: int, width: int) -> Array:
    """A picture (height, width, 3) of coloured lines and what they stand for."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    lines = [Line2D([0], [0], color=tuple(each[:3]), lw=5 * height / 256) for each in colors]
    size = int(14 * height / 256 / max(1, len(lines) / 6))
    figure.legend(lines, labels, loc="center", fontsize=size, fancybox=True, shadow=True, mode="expand")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def create_labels_legend(concept_scores: Array, labels: Mapping[int, str], top_k: int = 2) -> list[str]:
    """For every concept its best classes, a line each: at most three synonyms, and the score."""
    best = np.argsort(concept_scores, axis=1)[:, ::-1][:, :top_k]
    return [
        "\n".join(f"{','.join(labels[each].split(',')[:3])}:{scores[each]:.2f}" for each in chosen)
        for scores, chosen in zip(concept_scores, best, strict=True)
    ]
