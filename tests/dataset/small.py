"""A small trained-looking classifier and small datasets of real photographs, for the tests of whole datasets."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from fastcam.classifiers.preprocessing import Preprocessing
from fastcam.cli import demo
from fastcam.dataset.store import LAST_RUN
from tests.support.conv_net import conv_net

PREPROCESSING = Preprocessing(shorter_side=18, size=(16, 16))
SETTINGS = {"preprocessing": PREPROCESSING, "target_layer": "features", "shard_size": 4, "batch_size": 3}


def network(factor: float = 1.0) -> nn.Module:
    """The tests' small network, the same in every process; its last weights times a factor."""
    model = conv_net()
    with torch.no_grad():
        model.classifier.weight.mul_(factor)
    return model


def jpeg(index: int) -> bytes:
    """A photograph's part, as JPEG; every index another one."""
    photograph = list(demo.photographs().values())[index % 4].convert("RGB")
    left = 5 * index
    buffer = io.BytesIO()
    photograph.resize((120, 90)).crop((left % 40, 0, left % 40 + 60, 50)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def folder(path: Path, count: int = 10) -> Path:
    """Photographs in two folders of classes."""
    for index in range(count):
        file = path / ("cats" if index < count // 2 else "dogs") / f"{index:03d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg(index))
    return path


def contents(path: Path) -> dict[str, bytes]:
    """All files of a folder of maps, with their bytes, but for what tells how long the run took."""
    files = (each for each in sorted(path.rglob("*")) if each.is_file() and each.name != LAST_RUN)
    return {str(each.relative_to(path)): each.read_bytes() for each in files}


def picture(mode: str, size: tuple[int, int] = (20, 30)) -> Image.Image:
    """A picture of smooth values in any of Pillow's modes."""
    values = np.linspace(0, 255, size[0] * size[1]).reshape(size[1], size[0])
    if mode == "I;16":
        return Image.fromarray((values * 257).astype(np.uint16))
    return Image.fromarray(values.astype(np.uint8)).convert(mode)
