"""Functions of images and maps as NumPy arrays."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastcam.compat.pytorch_grad_cam._types import Array

_EPS = 1e-7  # added to the range
_JET = 2  # cv2.COLORMAP_JET


def preprocess_image(img: Array, mean: Sequence[float] = (0.5,) * 3, std: Sequence[float] = (0.5,) * 3) -> Tensor:
    """Convert an image (H, W, 3), uint8 or in [0, 1], to an input (1, 3, H, W)."""
    values = torch.from_numpy(np.ascontiguousarray(img)).movedim(-1, 0)
    values = values.float() / 255 if values.dtype == torch.uint8 else values
    shape = (-1, 1, 1)
    return ((values - values.new_tensor(mean).reshape(shape)) / values.new_tensor(std).reshape(shape))[None]


def deprocess_image(img: Array) -> Array:
    """Convert gradients to a uint8 image: their mean is grey, a standard deviation a tenth of the range."""
    standardized = (img - np.mean(img)) / (np.std(img - np.mean(img)) + 1e-5)
    return np.uint8(np.clip(standardized * 0.1 + 0.5, 0, 1) * 255)  # type: ignore[return-value]


def show_cam_on_image(
    img: Array, mask: Array, use_rgb: bool = False, colormap: int = _JET, image_weight: float = 0.5
) -> Array:
    """Blend a coloured map over an image.

    Args:
        img: (H, W, 3), float, in [0, 1].
        mask: (H, W), in [0, 1].
        use_rgb: the order of the channels: RGB, otherwise BGR.
        colormap: an OpenCV colour map.
        image_weight: weight of the image.

    Returns:
        (H, W, 3) uint8, its largest value 255.

    Raises:
        ValueError: for an image with values above 1, or a weight outside [0, 1].
    """
    if np.max(img) > 1:
        raise ValueError(f"`img` must be a float image in [0, 1], got values up to {np.max(img):g}")
    if not 0 <= image_weight <= 1:
        raise ValueError(f"`image_weight` must lie in [0, 1], got {image_weight}")
    heat = _bgr_colors(colormap)[np.uint8(255 * mask)].astype(np.float32) / 255
    blended = (1 - image_weight) * (heat[..., ::-1] if use_rgb else heat) + image_weight * img
    return np.uint8(255 * (blended / np.max(blended)))  # type: ignore[return-value]


def _bgr_colors(colormap: int) -> Array:
    """Return the 256 colours of an OpenCV colour map, (256, 3) in BGR order."""
    import cv2

    return np.asarray(cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], colormap))[:, 0]


def scale_cam_image(cam: Array, target_size: Sequence[int] | None = None) -> Array:
    """Scale each of the maps (N, *s) to [0, 1) and resize it.

    Args:
        cam: the maps.
        target_size: (width, height), or (depth, width, height) in that order for volumes; None for no resizing.

    Returns:
        (N, *S), float32. Images are resized linearly, volumes by cubic splines.
    """
    axes = tuple(range(1, cam.ndim))
    low = cam.min(axis=axes, keepdims=True)
    scaled = (cam - low) / (_EPS + (cam.max(axis=axes, keepdims=True) - low))
    if target_size is None or tuple(target_size[::-1]) == scaled.shape[1:]:
        return scaled.astype(np.float32)
    size = [int(length) for length in target_size[::-1]]
    if len(axes) == 2:
        maps = torch.from_numpy(np.ascontiguousarray(scaled, np.float32))[:, None]
        return F.interpolate(maps, size, mode="bilinear")[:, 0].numpy()
    return np.stack([_resize_volume(volume.astype(np.float32), size) for volume in scaled])


def _resize_volume(volume: Array, size: Sequence[int]) -> Array:
    from scipy.ndimage import zoom

    resized = zoom(volume, [new / old for old, new in zip(volume.shape, size, strict=True)])
    return np.asarray(resized, np.float32)


def scale_accross_batch_and_channels(tensor: Array, target_size: Sequence[int]) -> Array:
    """Scale each of the maps (N, C, H, W) to [0, 1) and resize it to (width, height)."""
    flat = scale_cam_image(tensor.reshape(-1, *tensor.shape[2:]), target_size)
    return flat.reshape(*tensor.shape[:2], target_size[1], target_size[0])


def show_factorization_on_image(
    img: Array,
    explanations: Array,
    colors: Sequence[Array] | None = None,
    image_weight: float = 0.5,
    concept_labels: Sequence[str] | None = None,
) -> Array:
    """Blend coloured concepts over an image: at every pixel the strongest, with its strength as brightness.

    Args:
        img: (H, W, 3), red, green and blue in [0, 1].
        explanations: the maps of n concepts, (n, H, W), in [0, 1].
        colors: n colours in [0, 1]; None for a rainbow.
        image_weight: weight of the image.
        concept_labels: n texts for a legend beside the image.

    Returns:
        (H, W, 3) uint8, or (H, 2 W, 3) with a legend.
    """
    import cv2
    import matplotlib

    count = len(explanations)
    rainbow = matplotlib.colormaps["gist_rainbow"]
    palette = [rainbow(index / count) for index in range(count)] if colors is None else colors
    rgb = (255 * np.array([color[:3] for color in palette])).astype(np.uint8)
    hsv = cv2.cvtColor(rgb[explanations.argmax(axis=0)], cv2.COLOR_RGB2HSV)
    hsv[..., 2] = (255 * explanations.max(axis=0)).astype(np.uint8)
    overlay = np.float32(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)) / 255
    result = (255 * (img * image_weight + overlay * (1 - image_weight))).astype(np.uint8)
    if concept_labels is None:
        return result
    return np.hstack((result, _legend(palette, concept_labels, *img.shape[:2])))


def _legend(colors: Sequence[Array | tuple[float, ...]], labels: Sequence[str], height: int, width: int) -> Array:
    """Return an image (height, width, 3) of coloured lines and their labels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    lines = [Line2D([0], [0], color=tuple(color[:3]), lw=5 * height / 256) for color in colors]
    size = int(14 * height / 256 / max(1, len(lines) / 6))
    figure.legend(lines, labels, loc="center", fontsize=size, fancybox=True, shadow=True, mode="expand")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def create_labels_legend(concept_scores: Array, labels: Mapping[int, str], top_k: int = 2) -> list[str]:
    """Return per concept a text with one line per top class: at most three synonyms, and the score."""
    best = np.argsort(concept_scores, axis=1)[:, ::-1][:, :top_k]
    return [
        "\n".join(f"{','.join(labels[index].split(',')[:3])}:{scores[index]:.2f}" for index in indices)
        for scores, indices in zip(concept_scores, best, strict=True)
    ]
