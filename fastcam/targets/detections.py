"""Every detection of an image as a target of its own, followed through copies of the image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from fastcam.model.elements import ModelOutput
from fastcam.targets.binding import Bound, Score
from fastcam.targets.candidates import Candidates, overlaps, read_candidates, suppressed

Following: TypeAlias = Literal["score", "similarity"]
_SAME = 0.99  # overlap from which a box has not moved
_SUPPRESSION = 0.7  # overlap of candidates of one class, above which the weaker is left out, as in ultralytics'


@dataclass(frozen=True)
class _Object:
    """One detection: its box (4,), its class, its confidence, and the confidences of all classes (C,)."""

    box: Tensor
    label: int
    confidence: float
    classes: Tensor


class Detections(Score):
    """The detections of each image, the most confident first, each with a map of its own: K targets an image.

    Detectors of torchvision, Hugging Face, ultralytics and YOLO-NAS are read as they are, see
    :func:`fastcam.targets.candidates.read_candidates`. Boxes and confidences are in the explanation's ``details``:
    "boxes" (N, K, 4), in pixels of the input or, for Hugging Face, as shares of the image ("are_shares", (N,)), and
    "confidences" (N, K); classes are its ``targets``. An image with fewer detections than another has the cause "no
    detection" there.

    In copies of the image, of which occlusion and RISE make many, the same object is looked for:

    - "score": that of its class for its own box, if this is still there; else the highest one among the boxes that
      overlap with it by ``iou``; 0 if none does. Of Hugging Face's detectors it is a logit.
    - "similarity", the pairwise similarity of D-RISE (arXiv:2006.03204): the highest product, over all boxes, of
      overlap, cosine of the class confidences, and objectness. Where a detector tells one class of each box alone, the
      cosine is 1 for the same class and 0 for others, and the confidence takes the place of the objectness.

    >>> found = fastcam.explain(detector, images, "grad_cam", fastcam.targets.Detections(above=0.5))
    >>> found.details["boxes"], found.targets  # (N, K, 4), (N, K)
    >>> similar = fastcam.targets.Detections(following="similarity")
    >>> fastcam.explain(detector, images, "rise", similar, masks=5000, grid=16)  # D-RISE

    Args:
        above: confidence of the detections.
        most: detections of an image, at most.
        index: explain this one alone, 0 for the most confident: (N,) scores instead of (N, K).
        labels: only these classes; None for all.
        iou: smallest overlap that counts as the same object.
        following: "score" or "similarity".
    """

    reads_whole_output = True

    def __init__(
        self,
        above: float = 0.5,
        most: int = 10,
        *,
        index: int | None = None,
        labels: Sequence[int] | None = None,
        iou: float = 0.5,
        following: Following = "score",
    ) -> None:
        if most < 1:
            raise ValueError(f"`most` must be a positive whole number, got {most!r}")
        if index is not None and not 0 <= index < most:
            raise ValueError(f"`index` must lie in [0, {most}), got {index!r}")
        if following not in get_args(Following):
            raise ValueError(f"`following` must be one of {', '.join(get_args(Following))}, got {following!r}")
        self.above, self.most, self.index, self.labels = above, most, index, labels
        self.iou, self.following = iou, following

    def bind(self, output: ModelOutput, count: int) -> Bound:
        """Find the detections of every image."""
        images = read_candidates(output, count)
        if len(images) != count:
            raise ValueError(f"the detector returned detections of {len(images)} images for {count}")
        objects = [self._objects(each) for each in images]
        if self.index is not None:
            objects = [each[self.index : self.index + 1] for each in objects]
        columns = max(1, *map(len, objects))
        device = images[0].boxes.device
        boxes, confidences = torch.zeros(count, columns, 4), torch.zeros(count, columns)
        labels, is_found = torch.full((count, columns), -1), torch.zeros(count, columns, dtype=torch.bool)
        for row, found in enumerate(objects):
            for column, each in enumerate(found):
                boxes[row, column], confidences[row, column] = each.box.cpu(), each.confidence
                labels[row, column], is_found[row, column] = each.label, True
        if self.index is not None:
            labels, is_found, boxes, confidences = (each[:, 0] for each in (labels, is_found, boxes, confidences))
        are_shares = torch.tensor([each.are_shares for each in images])
        details = {"boxes": boxes, "confidences": confidences, "are_shares": are_shares}

        def score(out: ModelOutput, rows: Tensor) -> Tensor:
            copies = read_candidates(out, len(rows))
            scores = [
                self._scores(copy, objects[row], columns) for copy, row in zip(copies, rows.tolist(), strict=True)
            ]
            values = torch.stack(scores)
            return values if self.index is None else values[:, 0]

        return Bound(score, shown=labels.to(device), is_found=is_found.to(device), details=details)

    def _objects(self, candidates: Candidates) -> list[_Object]:
        """Return the detections of an image, the most confident first."""
        confidences, labels = candidates.best()
        is_kept = confidences > self.above
        if self.labels is not None:
            is_kept &= torch.isin(labels, torch.as_tensor(list(self.labels), device=labels.device))
        kept = is_kept.nonzero()[:, 0]
        order = kept[confidences[kept].argsort(descending=True, stable=True)]
        if not candidates.are_final:
            order = torch.tensor(
                suppressed(candidates.boxes, order, labels, _SUPPRESSION, self.most), dtype=torch.int64
            )
        return [
            _Object(
                candidates.boxes[place],
                int(labels[place]),
                float(confidences[place]),
                candidates.confidences[place].detach(),
            )
            for place in order[: self.most].tolist()
        ]

    def _scores(self, candidates: Candidates, objects: Sequence[_Object], columns: int) -> Tensor:
        """Return the scores (K,) of the objects of an image in a copy of it."""
        none = candidates.scores.sum() * 0  # a function of the image still, with a gradient of zero
        follow = self._score if self.following == "score" else self._similarity
        scores = [follow(candidates, each, none) for each in objects]
        return torch.stack([*scores, *[none] * (columns - len(scores))])

    def _score(self, candidates: Candidates, sought: _Object, none: Tensor) -> Tensor:
        if not len(candidates.boxes):
            return none
        near = _nearness(candidates.boxes, sought.box)
        scores = candidates.of_class(sought.label, candidates.scores)
        for overlap in (_SAME, self.iou):
            best = scores.where(near >= overlap, -torch.inf).max()
            if not bool(best.isinf()):
                return best
        return none

    def _similarity(self, candidates: Candidates, sought: _Object, none: Tensor) -> Tensor:
        if not len(candidates.boxes):
            return none
        near = _nearness(candidates.boxes, sought.box)
        if candidates.labels is not None:
            alike = candidates.confidences[:, 0] * (candidates.labels == sought.label)
        else:
            alike = torch.cosine_similarity(candidates.confidences, sought.classes.unsqueeze(0), dim=1)
        return (near * alike * candidates.objectness).max()


def _nearness(boxes: Tensor, box: Tensor) -> Tensor:
    """Return how far boxes (D, 4) overlap with one (4,); one without area is still the same as itself."""
    return overlaps(boxes, box.unsqueeze(0))[:, 0].masked_fill((boxes == box).all(1), 1)
