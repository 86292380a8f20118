"""Detections in photographs: pictures on disk, and one result for each detection and method."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fastcam import render
from fastcam.classifiers.preprocessing import read_photograph, write_png
from fastcam.cli import outputs
from fastcam.explainer import Explainer
from fastcam.explanation import Explanation
from fastcam.pictures.boxes import draw_boxes
from fastcam.targets import Detections

Corners = tuple[float, float, float, float]  # left, top, right, bottom, in pixels of the photograph


@dataclass(frozen=True)
class Found:
    """A detection that was explained.

    Attributes:
        photograph: the file.
        number: 1 for the most confident.
        label: its class, by name where that is known.
        confidence: from 0 to 1.
        box: in pixels of the photograph.
        method: registry name.
        status: "ok", "constant map" or "non-finite".
        cause: why the map shows nothing.
        file: the overlay.
    """

    photograph: Path
    number: int
    label: str
    confidence: float
    box: Corners
    method: str
    status: str
    cause: str
    file: Path


@dataclass(frozen=True)
class Failure:
    """Why a photograph could not be explained."""

    reason: str


@dataclass(frozen=True)
class Frame:
    """How a photograph becomes the detector's input.

    Attributes:
        size: height and width; None for those of the photograph.
        mean: of the colours, from 0 to 1.
        std: of the colours.
        device: of the model.
    """

    size: tuple[int, int] | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    device: torch.device

    def __call__(self, picture: render.Bytes) -> Tensor:
        """Return a picture (H, W, 3) as (1, 3, h, w)."""
        image = torch.from_numpy(picture.copy()).to(self.device).permute(2, 0, 1).unsqueeze(0) / 255
        if self.size is not None:
            image = F.interpolate(image, self.size, mode="bilinear", antialias=True)
        mean, std = (torch.tensor(each, device=self.device)[:, None, None] for each in (self.mean, self.std))
        return (image - mean) / std


@dataclass(frozen=True)
class DetectionRun:
    """A detector, its explainer (with a list of methods), and how detections are drawn.

    Attributes:
        explainer: of the detector.
        target: which detections are explained.
        frame: makes the inputs.
        names: of the classes, possibly none.
        out: folder of the pictures.
        colormap: see :func:`fastcam.render.colors`.
        alpha: share of the colour.
        max_pixels: of a photograph.
    """

    explainer: "Explainer[dict[str, Explanation]]"
    target: Detections
    frame: Frame
    names: Sequence[str]
    out: Path
    colormap: str
    alpha: float
    max_pixels: int

    def over(self, photographs: Sequence[Path]) -> Iterator[tuple[Path, list[Found] | Failure]]:
        """Yield each photograph, and what was found in it, or why nothing could be."""
        existing = [path for path in photographs if path.exists()]  # missing ones must not move the common folder
        names = dict(zip(existing, outputs.names(existing), strict=True))
        outputs.make_folder(self.out)
        for path in photographs:
            try:
                picture = np.asarray(read_photograph(path, max_pixels=self.max_pixels).convert("RGB"))
            except ValueError as error:
                yield path, Failure(str(error))
                continue
            yield path, self._explain(path, names[path], picture)

    def _explain(self, path: Path, name: str, picture: render.Bytes) -> list[Found]:
        image = self.frame(picture)
        explanations = self.explainer(image, self.target)
        first = next(iter(explanations.values()))
        assert first.is_found is not None
        assert first.targets is not None
        count = int(first.is_found[0].sum())
        size = (1, 1) if bool(first.details["are_shares"][0]) else image.shape[2:]
        boxes = _scaled(first.details["boxes"][0, :count], size, picture.shape[:2])
        labels = [self._label(int(label)) for label in first.targets[0, :count]]
        confidences = first.details["confidences"][0, :count].tolist()
        texts = [f"{number + 1} {labels[number]} {confidences[number]:.0%}" for number in range(count)]
        (self.out / name).parent.mkdir(parents=True, exist_ok=True)
        write_png(Image.fromarray(draw_boxes(picture, boxes, texts)), self.out / f"{name}.png")
        found = []
        for method, explanation in explanations.items():
            drawn = explanation.overlay(picture[None], colormap=self.colormap, alpha=self.alpha)[0]
            for number in range(count):
                file = self.out / f"{name}.{number + 1}.{method}.png"
                whole = draw_boxes(drawn[number], boxes[number : number + 1], texts[number : number + 1], ["#ffffff"])
                write_png(Image.fromarray(whole), file)
                left, top, right, bottom = boxes[number].tolist()
                found.append(
                    Found(
                        photograph=path,
                        number=number + 1,
                        label=labels[number],
                        confidence=confidences[number],
                        box=(left, top, right, bottom),
                        method=method,
                        status=str(explanation.status[0][number]),
                        cause=str(explanation.causes[0][number]),
                        file=file,
                    )
                )
        return found

    def _label(self, label: int) -> str:
        return self.names[label] if 0 <= label < len(self.names) else str(label)


def _scaled(boxes: Tensor, size: Sequence[int], photograph: Sequence[int]) -> npt.NDArray[np.float64]:
    """Return boxes (D, 4) of an input of a size (height, width) in pixels of the photograph."""
    scale = torch.tensor([photograph[1] / size[1], photograph[0] / size[0]] * 2, dtype=torch.float64)
    scaled: npt.NDArray[np.float64] = (boxes.double() * scale).numpy()
    return scaled


def chosen_labels(texts: Sequence[str], names: Sequence[str]) -> list[int]:
    """Return the classes that users wrote, by number or name.

    Raises:
        ValueError: for a name that no class has.
    """
    by_name: dict[str, int] = {}
    for index, name in enumerate(names):
        by_name.setdefault(name.casefold(), index)
    labels = []
    for text in texts:
        if text.isdecimal():
            labels.append(int(text))
        elif text.casefold() in by_name:
            labels.append(by_name[text.casefold()])
        else:
            known = f"; it has {', '.join(names[:20])}" if names else ": give its number"
            raise ValueError(f"--label {text!r} is no class of the detector{known}")
    return labels


def write_table(found: Sequence[Found], file: Path) -> None:
    """Write a row for each detection and method."""
    heads = ["photograph", "detection", "class", "confidence", "left", "top", "right", "bottom", "method", "status"]
    with file.open("w", newline="", encoding="utf-8") as text:
        writer = csv.writer(text)
        writer.writerow([*heads, "file"])
        for each in found:
            box = [f"{x:.2f}" for x in each.box]
            confidence = f"{each.confidence:.6f}"
            row = [each.photograph, each.number, each.label, confidence, *box, each.method, each.status, each.file]
            writer.writerow(row)
