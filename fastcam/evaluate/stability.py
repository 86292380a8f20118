"""Stability: how the prediction and the map change when the photograph does a little."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from fastcam import targets
from fastcam.devices import send
from fastcam.evaluate.similarity import similarities
from fastcam.explainer import Explainer
from fastcam.explanation import Explanation
from fastcam.methods.registry import Method

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Perturb = Callable[[Tensor, float, int], Tensor]  # pixels (N, C, H, W) in [0, 1], a level and a seed


@dataclass(frozen=True, eq=False)
class Stability:
    """What perturbations of the images do.

    Attributes:
        method: name of the method.
        levels: (perturbation, level) of each of P perturbations.
        flipped: (P, N) bool, where the highest class is another.
        similarity: (P, N), the rank correlation with the map of the unchanged image; NaN where a map shows nothing.
    """

    method: str
    levels: list[tuple[str, float]]
    flipped: Tensor
    similarity: Tensor

    def rows(self) -> Iterator[dict[str, float | str]]:
        """Yield for every perturbation how often the prediction changes, and how alike maps are where it does not."""
        for (name, level), flipped, similarity in zip(self.levels, self.flipped, self.similarity, strict=True):
            yield {
                "perturbation": name,
                "level": level,
                "flipped": flipped.float().mean().item(),
                "similarity": similarity[~flipped].nanmean().item(),
            }

    def __str__(self) -> str:
        """A table, a line for every perturbation."""
        lines = [f"{'perturbation':16}{'level':>8}{'predictions changed':>22}{'rank correlation of maps':>27}"]
        lines += [
            f"{row['perturbation']:16}{row['level']:8g}{row['flipped']:22.1%}{row['similarity']:27.3f}"
            for row in self.rows()
        ]
        return "\n".join(lines)

    def plot(self) -> "Figure":
        """Return a matplotlib figure: a panel for every kind of perturbation, both curves over its levels.

        Raises:
            ImportError: without matplotlib.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise ImportError('plots need matplotlib: pip install "fastcam[plot]"') from None
        rows = list(self.rows())
        names = list(dict.fromkeys(name for name, _ in self.levels))
        figure = Figure(figsize=(3.2 * len(names), 3.2), layout="constrained")
        panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
        for panel, name in zip(panels, names, strict=True):
            chosen = [row for row in rows if row["perturbation"] == name]
            levels = [f"{row['level']:g}" for row in chosen]
            panel.plot(levels, [row["similarity"] for row in chosen], marker="o", label="rank correlation of maps")
            panel.plot(levels, [row["flipped"] for row in chosen], marker="o", label="predictions changed")
            panel.set_title(name)
            panel.set_ylim(-0.05, 1.05)
        panels[0].legend()
        return figure


def stability(
    model: nn.Module,
    images: Tensor,
    method: str | Method = "grad_cam",
    target: targets.Target = None,
    *,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    levels: Mapping[str, Sequence[float]] | None = None,
    seed: int = 0,
    **options: Any,
) -> Stability:
    """Perturb images and compare predictions and maps with those of the unchanged ones, which fix the class.

    Args:
        model: a classifier, from (N, C, H, W) to (N, classes).
        images: (N, C, H, W), its input.
        method: a method.
        target: as for :func:`fastcam.explain`.
        mean: that was subtracted from pixels in [0, 1], per channel.
        std: by which they were divided.
        levels: of the perturbations by name; None takes all of them: "noise" (standard deviation of pixels in [0, 1]),
            "jpeg" (quality), "blur" (standard deviation in pixels), "brightness" (factor).
        seed: of the noise.
        options: of :class:`fastcam.Explainer`.

    Raises:
        TypeError, ValueError: for images that are no pixels in [0, 1] before ``mean`` and ``std``, an unknown
            perturbation, or a model without classes.
        ImportError: without SciPy and scikit-image.
    """
    chosen = DEFAULT_LEVELS if levels is None else levels
    for name in chosen:
        if name not in PERTURBATIONS:
            raise ValueError(f"a perturbation must be one of {', '.join(PERTURBATIONS)}, got {name!r}")
    if not isinstance(images, Tensor) or images.dim() != 4:
        raise TypeError("`images` must be a tensor (N, C, H, W)")
    shift, scale = (
        torch.as_tensor(each, dtype=images.dtype, device=images.device)[:, None, None] for each in (mean, std)
    )
    pixels = images * scale + shift
    if pixels.amin() < -0.01 or pixels.amax() > 1.01:
        raise ValueError(
            "the images are no pixels in [0, 1]: pass the `mean` and `std` that they were normalised with, got values "
            f"from {pixels.amin().item():.2f} to {pixels.amax().item():.2f}"
        )
    explainer: Explainer[Any] = Explainer(model, method, **options)
    clean = _explain(explainer, images, target)
    classes = clean.targets if clean.targets is not None else target
    places = [(name, float(level)) for name, each in chosen.items() for level in each]
    flipped, similar = [], []
    for name, level in places:
        changed = PERTURBATIONS[name](pixels.clamp(0, 1), level, seed).clamp(0, 1)
        explanation = _explain(explainer, (changed - shift) / scale, classes)
        flipped.append((explanation.output.argmax(1) != clean.output.argmax(1)).cpu())
        axes = len(clean.size)
        similar.append(similarities(_by_image(clean.raw, axes), _by_image(explanation.raw, axes))["spearman"])
    return Stability(clean.method, places, torch.stack(flipped), torch.stack(similar))


def _explain(explainer: "Explainer[Any]", images: Tensor, target: targets.Target) -> Explanation:
    explanation = explainer(images, target)
    if not isinstance(explanation, Explanation) or not isinstance(explanation.output, Tensor):
        raise ValueError("stability is measured for one method, of a model with an output (N, classes)")
    if explanation.output.dim() != 2:
        raise ValueError(f"stability needs an output (N, classes), got {tuple(explanation.output.shape)}")
    return explanation


def _by_image(maps: Tensor, axes: int) -> Tensor:
    """Return maps (N, *S); of several targets only one is possible."""
    if maps.dim() > axes + 1:
        raise ValueError("stability is measured for one target an image")
    return maps


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
