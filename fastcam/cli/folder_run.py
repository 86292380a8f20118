"""Explanation of photographs by a classifier: overlays on disk and one result per overlay."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastcam import render
from fastcam.classifiers.class_choice import ClassChoice, class_count
from fastcam.classifiers.models import Classifier
from fastcam.classifiers.preprocessing import read_photograph, write_png
from fastcam.cli.photographs import unique_stems
from fastcam.explainer import Explainer
from fastcam.explanation import Explanation
from fastcam.targets import Logit


@dataclass(frozen=True)
class Result:
    """A written overlay.

    Attributes:
        photograph: the explained file.
        method: registry name.
        predicted: name of the class with the highest score.
        probability: its probability.
        explained: name of the explained class.
        status: "ok", "constant map" or "non-finite".
        milliseconds: time in the model and the methods for this photograph, without reading and writing.
        file: the overlay.
    """

    photograph: Path
    method: str
    predicted: str
    probability: float
    explained: str
    status: str
    milliseconds: float
    file: Path


@dataclass(frozen=True)
class Failure:
    """A photograph that could not be explained, and the reason."""

    photograph: Path
    reason: str


def probabilities(output: Tensor) -> Tensor:
    """Convert logits to probabilities (N, classes); probabilities are kept, a single output gets the sigmoid."""
    scores = output.detach().double()
    if scores.dim() == 1:
        scores = scores.unsqueeze(1)
    if bool((scores >= 0).all()) and torch.allclose(scores.sum(1), torch.ones(len(scores)).to(scores), atol=1e-3):
        return scores
    return scores.sigmoid() if scores.shape[1] == 1 else scores.softmax(1)


@dataclass(frozen=True)
class FolderRun:
    """A classifier, its explainer (with a list of methods) and the options of the overlays.

    ``score`` is the explained score of a class: logit, probability or log-probability; photographs of
    more than ``max_pixels`` are not decoded.
    """

    classifier: Classifier
    explainer: Explainer[dict[str, Explanation]]
    targets: ClassChoice
    device: torch.device
    out: Path
    colormap: str = "jet"
    alpha: float = 0.5
    score: type[Logit] = Logit
    max_pixels: int | None = None

    def over(self, photographs: Sequence[Path], batch_size: int) -> Iterator[list[Result] | Failure]:
        """Explain photographs batch by batch and write their overlays into ``out``.

        Yields:
            For every photograph its results or its failure.

        Raises:
            ValueError, TypeError, RuntimeError: if the model, its layers and the targets do not fit together.
            OSError: if ``out`` cannot be written.
        """
        stems = dict(zip(photographs, unique_stems(photographs), strict=True))
        self.out.mkdir(parents=True, exist_ok=True)
        for start in range(0, len(photographs), batch_size):
            pictures: dict[Path, Image.Image] = {}
            for path in photographs[start : start + batch_size]:
                try:
                    pictures[path] = self.classifier.preprocessing.crop(
                        read_photograph(path, max_pixels=self.max_pixels)
                    )
                except ValueError as error:
                    yield Failure(path, str(error))
            if pictures:
                yield from self._batch(pictures, stems)

    def _batch(self, pictures: dict[Path, Image.Image], stems: dict[Path, str]) -> Iterator[list[Result]]:
        images = torch.stack([self.classifier.preprocessing.tensor(picture) for picture in pictures.values()])
        started = time.perf_counter()
        explanations = self.explainer(images.to(self.device), self.targets.target(self.classifier, self.score))
        for explanation in explanations.values():
            explanation.numpy()  # waits for the device
        milliseconds = 1000 * (time.perf_counter() - started) / len(images)
        first = next(iter(explanations.values()))
        highest, classes = probabilities(first.output).cpu().max(1)
        names = self.classifier.class_names(class_count(first.output))
        overlays = {
            method: self._draw(explanation, list(pictures.values())) for method, explanation in explanations.items()
        }
        for index, path in enumerate(pictures):
            predicted, probability = names[int(classes[index])], float(highest[index])
            yield [
                Result(
                    path, method, predicted, probability, names[target], status, milliseconds,
                    self._write(overlays[method][index], k, f"{stems[path]}.{method}", target),
                )
                for method, explanation in explanations.items()
                for k, target, status in _per_target(explanation, index)
            ]  # fmt: skip

    def _write(self, overlays: render.Bytes, k: int, name: str, target: int) -> Path:
        """Write the overlay of target ``k`` of a photograph; with several targets the file name includes the class."""
        file = self.out / (f"{name}.{target}.png" if len(overlays) > 1 else f"{name}.png")
        write_png(Image.fromarray(overlays[k]), file)
        return file

    def _draw(self, explanation: Explanation, pictures: list[Image.Image]) -> render.Bytes:
        """Return overlays (N, K, H, W, 3), K = 1 if one class is explained."""
        overlays = np.asarray(explanation.overlay(pictures, colormap=self.colormap, alpha=self.alpha))
        return overlays[:, None] if overlays.ndim == 4 else overlays


def _per_target(explanation: Explanation, index: int) -> list[tuple[int, int, str]]:
    """Return (position, class, status) of the classes explained for one image, without duplicates."""
    if explanation.targets is None:
        raise ValueError("overlays are named after class indices; this explanation has none")
    classes, status = explanation.targets[index], explanation.status[index]
    if isinstance(status, str):
        return [(0, int(classes), status)]
    indices: list[int] = classes.tolist()
    return [(indices.index(target), target, status[indices.index(target)]) for target in dict.fromkeys(indices)]
