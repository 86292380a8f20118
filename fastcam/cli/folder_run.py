"""Explanation of photographs by a classifier: overlays on disk and one result per overlay."""

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
from fastcam.cli import outputs
from fastcam.cli.sheet import Sheet
from fastcam.explainer import Explainer
from fastcam.explanation import Explanation
from fastcam.pictures.captions import captioned
from fastcam.pictures.page import Page
from fastcam.pictures.placement import place
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
        cause: why the map shows nothing, see :func:`fastcam.postprocess.causes`.
        file: the overlay.
        cropped: share of the photograph that is cropped away before the model.
        replaced: whether the file was there before.
    """

    photograph: Path
    method: str
    predicted: str
    probability: float
    explained: str
    status: str
    cause: str
    file: Path
    cropped: float
    replaced: bool


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
class Style:
    """How overlays are drawn.

    Attributes:
        colormap: see :func:`fastcam.render.colors`.
        alpha: share of the colour.
        crop: draw over the crop that the model sees, in its size, instead of the whole photograph.
        caption: write class, probability and a colour scale below.
    """

    colormap: str = "jet"
    alpha: float = 0.5
    crop: bool = False
    caption: bool = False


@dataclass(frozen=True)
class _Picture:
    """A photograph, its crop, and what is drawn on: either of them."""

    path: Path
    size: tuple[int, int]
    crop: Image.Image
    background: render.Bytes


@dataclass(frozen=True)
class FolderRun:
    """A classifier, its explainer (with a list of methods) and the options of the overlays.

    ``score`` is the explained score of a class: logit, probability or log-probability. ``sheet`` gets a row for every
    photograph and class, ``page`` one for every photograph. Photographs of more than ``max_pixels`` are not decoded.
    """

    classifier: Classifier
    explainer: Explainer[dict[str, Explanation]]
    targets: ClassChoice
    device: torch.device
    out: Path
    style: Style = Style()
    score: type[Logit] = Logit
    sheet: Sheet | None = None
    page: Page | None = None
    max_pixels: int | None = None

    def over(self, photographs: Sequence[Path], batch_size: int) -> Iterator[list[Result] | Failure]:
        """Explain photographs batch by batch and write their overlays into ``out``.

        Yields:
            For every photograph its results or its failure.

        Raises:
            ValueError, TypeError, RuntimeError: if the model, its layers and the targets do not fit together.
            OSError: if ``out`` cannot be written.
        """
        existing = [path for path in photographs if path.exists()]  # missing ones must not move the common folder
        names = dict(zip(existing, outputs.names(existing), strict=True))
        outputs.make_folder(self.out)
        for start in range(0, len(photographs), batch_size):
            pictures: list[_Picture] = []
            for path in photographs[start : start + batch_size]:
                try:
                    pictures.append(self._read(path))
                except ValueError as error:
                    yield Failure(path, str(error))
            if pictures:
                yield from self._batch(pictures, names)

    def _read(self, path: Path) -> _Picture:
        photograph = read_photograph(path, max_pixels=self.max_pixels)
        crop = self.classifier.preprocessing.crop(photograph)
        return _Picture(
            path, photograph.size, crop, np.asarray((crop if self.style.crop else photograph).convert("RGB"))
        )

    def _batch(self, pictures: list[_Picture], names: dict[Path, str]) -> Iterator[list[Result]]:
        images = torch.stack([self.classifier.preprocessing.tensor(picture.crop) for picture in pictures])
        explanations = self.explainer(images.to(self.device), self.targets.target(self.classifier, self.score))
        first = next(iter(explanations.values()))
        shares = probabilities(first.output).cpu()
        labels = self.classifier.class_names(class_count(first.output))
        maps = {method: _maps(explanation) for method, explanation in explanations.items()}
        for index, picture in enumerate(pictures):
            yield self._write_all(picture, index, names[picture.path], explanations, maps, shares[index], labels)

    def _write_all(
        self,
        picture: _Picture,
        index: int,
        name: str,
        explanations: dict[str, Explanation],
        maps: dict[str, render.Floats],
        shares: Tensor,
        labels: Sequence[str],
    ) -> list[Result]:
        """Write the overlays of one photograph, of every method and class."""
        highest, results = int(shares.argmax()), []
        cropped = self.classifier.preprocessing.share_cropped(picture.size)
        rows: dict[int, list[render.Bytes]] = {}
        for method, explanation in explanations.items():
            for k, target, status, cause in _per_target(explanation, index):
                drawn = self._draw(picture, maps[method][index, k])
                rows.setdefault(target, [picture.background]).append(drawn)
                if self.style.caption:
                    drawn = captioned(drawn, f"{labels[target]}  {_share(shares, target):.1%}", self.style.colormap)
                # With several targets the file name includes the class.
                number = f".{target}" if maps[method].shape[1] > 1 else ""
                file = self.out / f"{name}.{method}{number}.png"
                replaced = file.exists()
                file.parent.mkdir(parents=True, exist_ok=True)
                write_png(Image.fromarray(drawn), file)
                results.append(
                    Result(
                        picture.path, method, labels[highest], _share(shares, highest), labels[target], status, cause,
                        file, cropped, replaced,
                    )
                )  # fmt: skip
        if self.page is not None:
            named = [
                (f"{method}, {labels[target]}  {_share(shares, target):.1%}", _values(explanation)[index, k])
                for method, explanation in explanations.items()
                for k, target, _, _ in _per_target(explanation, index)
            ]
            self.page.add(name, np.asarray(picture.crop.convert("RGB")), named)
        if self.sheet is not None:
            for target, row in rows.items():
                self.sheet.add(name, labels[target], _share(shares, target), row)
        return results

    def _draw(self, picture: _Picture, map_: render.Floats) -> render.Bytes:
        """Return a map (H, W) over the crop, or at its place over the whole photograph, unchanged around it."""
        if not self.style.crop:
            box = self.classifier.preprocessing.box(picture.size)
            map_ = place(map_, box, (picture.size[1], picture.size[0]))
        return render.overlay(picture.background, map_, self.style.colormap, self.style.alpha)


def _maps(explanation: Explanation) -> render.Floats:
    """Return maps (N, K, H, W), K = 1 if one class is explained."""
    maps: render.Floats = explanation.maps.detach().float().cpu().numpy()
    return maps[:, None] if maps.ndim == 3 else maps


def _values(explanation: Explanation) -> render.Floats:
    """Return maps (N, K, h, w) that are not normalised."""
    values: render.Floats = explanation.values.detach().float().cpu().numpy()
    return values[:, None] if explanation.scores.dim() == 1 else values


def _share(shares: Tensor, index: int) -> float:
    return float(shares[index])


def _per_target(explanation: Explanation, index: int) -> list[tuple[int, int, str, str]]:
    """Return (position, class, status, cause) of the classes explained for one image, without duplicates."""
    if explanation.targets is None:
        raise ValueError("overlays are named after class indices; this explanation has none")
    classes, status, cause = explanation.targets[index], explanation.status[index], explanation.causes[index]
    if isinstance(status, str):
        return [(0, int(classes), status, str(cause))]
    indices: list[int] = classes.tolist()
    places = {target: indices.index(target) for target in indices}
    return [(k, target, status[k], cause[k]) for target, k in places.items()]
