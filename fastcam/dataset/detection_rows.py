"""A row for every detection: its box, class, score and map."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from fastcam.dataset.loading import LoadedImage
from fastcam.dataset.rows import MapRows, extended, kept_places
from fastcam.explainer import Explainer
from fastcam.explanation import Explanation
from fastcam.targets import Detections

FIELDS = (
    pa.field("detection", pa.int32()),  # 1 for the most confident of the image
    pa.field("confidence", pa.float32()),
    pa.field("box", pa.list_(pa.float32(), 4)),  # left, top, right, bottom, as shares of the model's input
)
_TEXT = re.compile(r"detections(?:>(\d*\.?\d+))?")


def detections_of(texts: Sequence[str]) -> Detections | None:
    """Return the target that "detections" or "detections>0.3" means; None for texts that are classes."""
    matches = [_TEXT.fullmatch(text) for text in texts]
    if not any(matches):
        return None
    match = matches[0]
    if len(texts) > 1 or match is None:
        raise ValueError(f"target {next(filter(None, matches))[0]!r} cannot be mixed with classes")
    return Detections() if match[1] is None else Detections(float(match[1]))


@dataclass(frozen=True)
class DetectionRows(MapRows):
    """The maps of the detections of the images; an image without any has one row, with the cause "no detection"."""

    def of_batch(
        self,
        explainer: "Explainer[Any]",
        explanations: Mapping[Any, Explanation],
        images: Sequence[LoadedImage],
        numbers: Sequence[int],
    ) -> pa.Table:
        """Return a row for every image, method, layer and detection."""
        parts = []
        for key, explanation in explanations.items():
            rows = super().of_batch(explainer, {key: explanation}, images, numbers)
            parts.append(extended(rows, FIELDS, _columns(explanation)))
        return pa.concat_tables(parts)

    def of_failures(self, images: Sequence[LoadedImage], numbers: Sequence[int], reasons: Sequence[str]) -> pa.Table:
        """Return a row for every image."""
        return extended(super().of_failures(images, numbers, reasons), FIELDS, {})


def _columns(explanation: Explanation) -> dict[str, pa.Array]:
    """Return the columns of ``FIELDS`` for the rows of an explanation; null where nothing was detected."""
    kept = kept_places(explanation)
    assert explanation.is_found is not None
    is_null = ~explanation.is_found.cpu().numpy().ravel()[kept]
    per_image = explanation.scores.numel() // len(explanation)
    boxes = explanation.details["boxes"].reshape(len(explanation), per_image, 4).double().numpy()
    size = np.array([*reversed(explanation.size)] * 2, np.float64)
    are_shares = explanation.details["are_shares"].numpy()
    shares = np.where(are_shares[:, None, None], boxes, boxes / size).reshape(-1, 4)[kept].astype(np.float32)
    confidences = explanation.details["confidences"].numpy().ravel()[kept].astype(np.float32)
    return {
        "detection": pa.array((kept % per_image + 1).astype(np.int32), mask=is_null),
        "confidence": pa.array(confidences, mask=is_null),
        "box": pa.FixedSizeListArray.from_arrays(pa.array(shares.ravel()), 4, mask=pa.array(is_null)),
    }
