"""Scenes whose objects are known to the pixel: parts of photographs on textures, as a real network recognises them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fastcam.cli.demo import efficientnet_lite0

SIZE = 224
TEXTURES = ("brick.png", "grass.png", "gravel.png")
# Centre and half axes of an ellipse around the object, in pixels of scikit-image's photographs.
OBJECTS = {
    "chelsea.png": (225, 130, 150, 125),
    "coffee.png": (300, 190, 210, 175),
    "rocket.jpg": (320, 210, 120, 200),
    "motorcycle_left.png": (370, 270, 330, 220),
}
SCALES = (100, 140, 180)  # pixels of the longer axis


Ellipse = tuple[int, int, int, int]


@dataclass(frozen=True)
class Scenes:
    """Scenes that the network recognises.

    Attributes:
        images: (N, 3, 224, 224), the network's input.
        masks: (N, 224, 224) bool, the object.
        classes: (N,) that the network sees in the object's own photograph, and in the scene.
    """

    images: Tensor
    masks: Tensor
    classes: Tensor


def scenes(places: int, seed: int = 0) -> tuple[nn.Module, Scenes]:
    """Return EfficientNet-Lite0 with its weights, and the scenes that it recognises of ``places`` for each object."""
    import skimage.data

    model, folder = efficientnet_lite0(), Path(skimage.data.__file__).parent
    generator = np.random.default_rng(seed)
    images, masks, classes = [], [], []
    for name, ellipse in OBJECTS.items():
        if not (folder / name).exists():
            continue
        photograph = Image.open(folder / name).convert("RGB")
        known = _highest(model, [_square(photograph, ellipse)])[0]
        made = list(_placed(photograph, ellipse, folder, places, generator))
        for (picture, mask), found in zip(made, _highest(model, [each for each, _ in made]), strict=True):
            if found == known:
                images.append(_input(picture))
                masks.append(torch.from_numpy(mask))
                classes.append(found)
    return model, Scenes(torch.stack(images), torch.stack(masks), torch.tensor(classes))


def _placed(
    photograph: Image.Image,
    ellipse: Ellipse,
    folder: Path,
    count: int,
    generator: np.random.Generator,
) -> Iterator[tuple[Image.Image, np.ndarray]]:
    """Yield scenes with the object at random places and sizes, and where it is."""
    x, y, across, down = ellipse
    for index in range(count):
        scale = SCALES[index % len(SCALES)] / (2 * max(across, down))
        width, height = round(2 * across * scale), round(2 * down * scale)
        part = photograph.crop((x - across, y - down, x + across, y + down)).resize(
            (width, height), Image.Resampling.LANCZOS
        )
        left, top = (int(generator.integers(0, SIZE - side + 1)) for side in (width, height))
        texture = Image.open(folder / TEXTURES[index % len(TEXTURES)]).convert("RGB")
        corner = int(generator.integers(0, texture.width - SIZE)), int(generator.integers(0, texture.height - SIZE))
        scene = np.array(texture.crop((*corner, corner[0] + SIZE, corner[1] + SIZE)))
        rows, columns = np.ogrid[:SIZE, :SIZE]
        inside = ((columns + 0.5 - left - width / 2) / (width / 2)) ** 2 + (
            (rows + 0.5 - top - height / 2) / (height / 2)
        ) ** 2 < 1
        whole = np.zeros_like(scene)
        whole[top : top + height, left : left + width] = np.asarray(part)
        scene[inside] = whole[inside]
        yield Image.fromarray(scene), inside


def _square(photograph: Image.Image, ellipse: Ellipse) -> Image.Image:
    x, y, across, down = ellipse
    return photograph.crop((x - across, y - down, x + across, y + down)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def _input(picture: Image.Image) -> Tensor:
    return (torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() - 127) / 128


def _highest(model: nn.Module, pictures: list[Image.Image]) -> list[int]:
    with torch.no_grad():
        found: list[int] = model(torch.stack([_input(each) for each in pictures])).argmax(1).tolist()
    return found
