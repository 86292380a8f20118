"""Photographs as a model's input, from files, PIL images and arrays."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastcam.classifiers.own_preprocessing import ModelLike, find_preprocessing
from fastcam.classifiers.preprocessing import Pixels, Preprocessing, read_photograph, readable_errors, to_rgb

ImageLike: TypeAlias = str | Path | Image.Image | Pixels


def load_images(
    images: ImageLike | Sequence[ImageLike],
    model: ModelLike | None = None,
    *,
    size: int | tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Tensor:
    """Return photographs as the model's input, preprocessed as by the command line.

    They are turned upright by their EXIF orientation, put over white where they are transparent, resized, cropped to
    the centre and normalised.

    Args:
        images: paths, PIL images or uint8 arrays (H, W), (H, W, 3) or (H, W, 4): one, or a list.
        model: timm's and torchvision's models, and a model with a ``fastcam.classifiers.Preprocessing`` in its
            attribute ``preprocessing``, bring their own; a name as "torchvision:resnet18" or "timm:resnet18", or a
            ``Preprocessing``, says it without the model.
        size: (height, width) of the input, or one number for both, in place of the model's own.
        mean: per channel, on the scale [0, 1], in place of the model's own.
        std: per channel, in place of the model's own. Where the model has none of its own, what is not given of
            ``size``, ``mean`` and ``std`` is that of most ImageNet classifiers: 224, resized to 256 before.

    Returns:
        (N, 3, H, W) float32 on the CPU, N = 1 for a single image; (N, 1, H, W) for one mean.

    Raises:
        ValueError: for a file that cannot be read, an array of another shape, or a preprocessing that is not known.
        TypeError: for anything else than images.
    """
    preprocessing = None if model is None else find_preprocessing(model)
    if preprocessing is None and size is mean is std is None:
        name = "these images" if model is None else f"{model if isinstance(model, str) else type(model).__name__}"
        raise ValueError(
            f"the preprocessing of {name} is not known: pass a model of timm or torchvision, its name as "
            "'torchvision:resnet18', a fastcam.classifiers.Preprocessing, or size=, mean= and std="
        )
    preprocessing = (preprocessing or Preprocessing()).changed(size=size, mean=mean, std=std)
    is_one = isinstance(images, str | Path | Image.Image) or (isinstance(images, np.ndarray) and images.ndim < 4)
    photographs = [images] if is_one else _as_list(images)
    return torch.stack([preprocessing(_read(image, index)) for index, image in enumerate(photographs)])


def _as_list(images: object) -> list[object]:
    if not isinstance(images, Sequence | np.ndarray):
        raise TypeError(
            f"`images` must be paths, PIL images or uint8 arrays, one or a list, got {type(images).__name__}"
        )
    if len(images) == 0:
        raise ValueError("`images` must hold at least one image, got none")
    return list(images)


def _read(image: object, index: int) -> Image.Image:
    """Return an upright RGB image; errors name its place in the list, and the file."""
    try:
        if isinstance(image, str | Path):
            return read_photograph(image)
        if isinstance(image, np.ndarray):
            image = _from_array(image)
        if isinstance(image, Image.Image):
            with readable_errors():
                return to_rgb(image)
    except ValueError as error:
        file = f", {str(image)!r}" if isinstance(image, str | Path) else ""
        raise ValueError(f"image {index}{file}: {error}") from None
    raise TypeError(f"image {index} must be a path, a PIL image or a uint8 array, got {type(image).__name__}")


def _from_array(array: Pixels) -> Image.Image:
    is_image = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not is_image or array.size == 0:
        raise ValueError(
            f"an array must be uint8 (H, W), (H, W, 3) or (H, W, 4), got {array.dtype} {tuple(array.shape)}"
        )
    return Image.fromarray(np.ascontiguousarray(array))
