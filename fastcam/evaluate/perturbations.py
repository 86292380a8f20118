"""What happens to photographs: noise, compression, blur, light; in pixels, which a model's input is brought to."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fastcam.devices import send
from fastcam.evaluate.case import Case
from fastcam.evaluate.copies import Copy

Perturb = Callable[[Tensor, float, int], Tensor]  # pixels (N, C, H, W) in [0, 1], a level and a seed
Levels = Mapping[str, Sequence[float]]  # by the perturbation's name
Colours = Sequence[float]  # per channel, or one for all
TOLERANCE = 0.01  # of pixels outside [0, 1]: interpolation overshoots


@dataclass(frozen=True)
class Normalization:
    """How pixels in [0, 1] became the model's input.

    Attributes:
        mean: that was subtracted, per channel or one for all.
        std: by which they were divided.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def pixels(self, images: Tensor) -> Tensor:
        """Return the pixels (N, C, H, W) of a model's input, in [0, 1] where they are photographs."""
        return images * _by_channel(self.std, images) + _by_channel(self.mean, images)

    def images(self, pixels: Tensor) -> Tensor:
        """Return the model's input for pixels."""
        return (pixels - _by_channel(self.mean, pixels)) / _by_channel(self.std, pixels)


@dataclass(frozen=True)
class Perturbed(Copy):
    """The images as a perturbation of their pixels leaves them, the same for every image.

    Attributes:
        name: of the perturbation.
        level: its strength, in the unit of the perturbation.
        seed: of what is random.
        normalization: of the images.
    """

    depends_on_map: ClassVar[bool] = False
    name: str
    level: float
    seed: int
    normalization: Normalization

    def make(self, case: Case, rows: slice) -> Tensor:
        """Return the perturbed images."""
        pixels = self.normalization.pixels(case.batch.images_of(rows)).clamp(0, 1)
        return self.normalization.images(PERTURBATIONS[self.name](pixels, self.level, self.seed).clamp(0, 1))


def list_levels(levels: Levels | None) -> list[tuple[str, float]]:
    """Return every perturbation and level; None takes those of ``DEFAULT_LEVELS``.

    Raises:
        ValueError: for an unknown perturbation.
    """
    chosen = DEFAULT_LEVELS if levels is None else levels
    for name in chosen:
        if name not in PERTURBATIONS:
            raise ValueError(f"a perturbation must be one of {', '.join(PERTURBATIONS)}, got {name!r}")
    return [(name, float(level)) for name, each in chosen.items() for level in each]


def perturbed(images: Tensor, levels: Levels | None, mean: Colours, std: Colours, seed: int) -> list[Perturbed]:
    """Return a copy of images (N, C, H, W) for every level.

    Raises:
        ValueError: for an unknown perturbation, and for images that were no pixels in [0, 1].
    """
    normalization = Normalization(tuple(mean), tuple(std))
    copies = [Perturbed(name, level, seed, normalization) for name, level in list_levels(levels)]
    if images.dim() != 4:
        raise ValueError(f"photographs are perturbed, (N, C, H, W); got images {tuple(images.shape)}")
    pixels = normalization.pixels(images)
    low, high = pixels.amin().item(), pixels.amax().item()
    if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):
        raise ValueError(
            "the images are no pixels in [0, 1]: pass the `mean` and `std` that they were normalised with, got values "
            f"from {low:.2f} to {high:.2f}"
        )
    return copies


def _by_channel(values: Colours, images: Tensor) -> Tensor:
    return torch.as_tensor(values, dtype=images.dtype, device=images.device)[:, None, None]


def _noise(pixels: Tensor, level: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(pixels.shape[1:], generator=generator)
    return pixels + level * send(noise, pixels.device).to(pixels.dtype)


def _jpeg(pixels: Tensor, level: float, seed: int) -> Tensor:
    if pixels.shape[1] not in (1, 3):
        raise ValueError(f"JPEG is for images of 1 or 3 channels, got {pixels.shape[1]}")
    compressed = []
    for image in (pixels * 255).round().byte().movedim(1, -1).cpu().numpy():
        file = io.BytesIO()
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(file, "JPEG", quality=round(level))
        compressed.append(torch.from_numpy(np.array(Image.open(file))).reshape(image.shape))
    return (torch.stack(compressed).movedim(-1, 1) / 255).to(pixels)


def _blur(pixels: Tensor, level: float, seed: int) -> Tensor:
    reach = max(1, round(3 * level))
    offsets = torch.arange(-reach, reach + 1, dtype=pixels.dtype, device=pixels.device)
    kernel = torch.exp(-(offsets**2) / (2 * level**2))
    kernel = kernel / kernel.sum()
    flat = pixels.reshape(-1, 1, *pixels.shape[2:])
    padded = F.pad(flat, [reach] * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel[None, None, None]), kernel[None, None, :, None]).reshape(pixels.shape)


def _brightness(pixels: Tensor, level: float, seed: int) -> Tensor:
    return pixels * level


PERTURBATIONS: dict[str, Perturb] = {"noise": _noise, "jpeg": _jpeg, "blur": _blur, "brightness": _brightness}
DEFAULT_LEVELS: dict[str, tuple[float, ...]] = {
    "noise": (0.02, 0.05, 0.1, 0.2),
    "jpeg": (75, 50, 25, 10),
    "blur": (1, 2, 4),
    "brightness": (0.6, 0.8, 1.2, 1.4),
}
