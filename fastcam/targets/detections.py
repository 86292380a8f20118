"""Every detection of an image as a target of its own, followed through copies of the image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from fastcam.model.elements import ModelOutput
from fastcam.targets.binding import Bound, Score
from fastcam.targets.candidates import Candidates, overlaps, read_candidates, suppressed, zero_of

Following: TypeAlias = Literal["score", "similarity"]
Part: TypeAlias = Literal["class", "mask"] | int
_SAME = 0.9999  # overlap from which a box has not moved: that of the detection itself, to rounding
_INSIDE = 0.5  # a mask's probability
_SUPPRESSION = 0.7  # overlap of candidates of one class, above which the weaker is left out, as in ultralytics'


@dataclass(frozen=True)
class _Object:
    """One detection: box (4,), class, confidence, the confidences of all classes (C,), and mask (h, w).

    ``others`` (R, 4) are the boxes of the image's other detections of the class.
    """

    box: Tensor
    others: Tensor
    label: int
    confidence: float
    classes: Tensor
    mask: Tensor | None


class Detections(Score):
    """The detections of each image, the most confident first, each with a map of its own: K targets an image.

    Detectors of torchvision, Hugging Face, ultralytics and YOLO-NAS are read as they are, see
    :func:`fastcam.targets.candidates.read_candidates`. Boxes and confidences are in the explanation's ``details``:
    "boxes" (N, K, 4), in pixels of the input or, for Hugging Face, as shares of the image ("are_shares", (N,)), and
    "confidences" (N, K); classes are its ``targets``. An image with fewer detections than another has the cause "no
    detection" there.

    In copies of the image, of which occlusion and RISE make many, the same object is looked for:

    - "score": that of its class for its own box, if this has not moved; else the highest one among the boxes that
      overlap with it by ``iou``, and more than with any other detection of the class; 0 if none does. Of Hugging Face's
      detectors it is a logit.
    - "similarity", the pairwise similarity of D-RISE (arXiv:2006.03204): the highest product, over all boxes, of
      overlap, cosine of the class confidences, and objectness. Where a detector tells one class of each box alone, the
      cosine is 1 for the same class and 0 for others, and the confidence takes the place of the objectness. With
      ``part="mask"`` the overlap is that of the masks.

    >>> found = fastcam.explain(detector, images, "grad_cam", fastcam.targets.Detections(above=0.5))
    >>> found.details["boxes"], found.targets  # (N, K, 4), (N, K)
    >>> fastcam.explain(mask_rcnn, images, "grad_cam", fastcam.targets.Detections(part="mask"))
    >>> similar = fastcam.targets.Detections(following="similarity")
    >>> fastcam.explain(detector, images, "rise", similar, masks=5000, grid=16)  # D-RISE

    Args:
        above: confidence of the detections.
        most: detections of an image, at most.
        index: explain this one alone, 0 for the most confident: (N,) scores instead of (N, K).
        labels: only these classes; None for all.
        iou: smallest overlap that counts as the same object.
        following: "score" or "similarity".
        part: what is scored of a detection that is followed by its score: its "class"; its "mask", the mean of its
            probabilities where the mask of the unchanged image exceeds 0.5; or a keypoint, by its number.
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
        part: Part = "class",
    ) -> None:
        if most < 1:
            raise ValueError(f"`most` must be a positive whole number, got {most!r}")
        if index is not None and not 0 <= index < most:
            raise ValueError(f"`index` must lie in [0, {most}), got {index!r}")
        if following not in get_args(Following):
            raise ValueError(f"`following` must be one of {', '.join(get_args(Following))}, got {following!r}")
        is_keypoint = isinstance(part, int) and not isinstance(part, bool) and part >= 0
        if not is_keypoint and part not in ("class", "mask"):
            raise ValueError(f'`part` must be "class", "mask" or the number of a keypoint, got {part!r}')
        if is_keypoint and following == "similarity":
            raise ValueError('`following="similarity"` compares boxes or masks, and `part` is a keypoint')
        if not 0 <= above <= 1:
            raise ValueError(f"`above` must lie in [0, 1], got {above!r}")
        self.above, self.most, self.index, self.labels = above, most, index, labels
        self.iou, self.following, self.part = iou, following, part

    def bind(self, output: ModelOutput, count: int) -> Bound:
        """Find the detections of every image."""
        images = read_candidates(output, count)
        if len(images) != count:
            raise ValueError(f"the detector returned detections of {len(images)} images for {count}")
        for candidates in images:
            self._check_part(candidates)
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
        kept = order[: self.most]
        return [
            _Object(
                candidates.boxes[place],
                candidates.boxes[kept[(labels[kept] == labels[place]) & (kept != place)]],
                int(labels[place]),
                float(confidences[place]),
                candidates.confidences[place].detach(),
                None if candidates.masks is None else candidates.masks[place].detach() > _INSIDE,
            )
            for place in kept.tolist()
        ]

    def _check_part(self, candidates: Candidates) -> None:
        """Raise for a part that the detections do not have."""
        if self.part == "mask" and candidates.masks is None:
            raise ValueError('`part` is "mask", but the detector returns no masks')
        if isinstance(self.part, int):
            count = 0 if candidates.keypoints is None else candidates.keypoints.shape[1]
            if self.part >= count:
                has = f"has keypoints 0 to {count - 1}" if count else "returns no keypoints"
                raise ValueError(f"`part` is keypoint {self.part}, but the detector {has}")

    def _scores(self, candidates: Candidates, objects: Sequence[_Object], columns: int) -> Tensor:
        """Return the scores (K,) of the objects of an image in a copy of it."""
        none = zero_of(candidates.scores).sum()
        follow = self._score if self.following == "score" else self._similarity
        scores = [follow(candidates, each, none) for each in objects]
        return torch.stack([*scores, *[none] * (columns - len(scores))])

    def _score(self, candidates: Candidates, sought: _Object, none: Tensor) -> Tensor:
        if not len(candidates.boxes):
            return none
        near = _nearness(candidates.boxes, sought.box)
        scores = candidates.of_class(sought.label, candidates.scores)
        is_nearest = near >= overlaps(candidates.boxes, sought.others).amax(1) if len(sought.others) else near >= 0
        for is_it in (near >= _SAME, (near >= self.iou) & is_nearest):
            best, place = scores.where(is_it, -torch.inf).max(0)
            if not bool(best.isinf()):
                return best if self.part == "class" else self._part_of(candidates, int(place), sought)
        return none

    def _part_of(self, candidates: Candidates, place: int, sought: _Object) -> Tensor:
        """Return the score of a candidate's mask or keypoint."""
        if isinstance(self.part, int):
            assert candidates.keypoints is not None
            return candidates.keypoints[place, self.part]
        assert candidates.masks is not None
        assert sought.mask is not None
        inside = sought.mask.to(candidates.masks.dtype)
        return (candidates.masks[place] * inside).sum() / inside.sum().clamp(min=1)

    def _similarity(self, candidates: Candidates, sought: _Object, none: Tensor) -> Tensor:
        if not len(candidates.boxes):
            return none
        if candidates.labels is not None:
            alike = candidates.confidences[:, 0] * (candidates.labels == sought.label)
        else:
            alike = torch.cosine_similarity(candidates.confidences, sought.classes.unsqueeze(0), dim=1)
        return (self._overlaps(candidates, sought) * alike * candidates.objectness).max()

    def _overlaps(self, candidates: Candidates, sought: _Object) -> Tensor:
        """Return how far the boxes, or the masks, of candidates overlap with what is sought, (D,)."""
        if self.part != "mask":
            return _nearness(candidates.boxes, sought.box)
        assert candidates.masks is not None
        assert sought.mask is not None
        masks = candidates.masks.detach() > _INSIDE
        shared, union = (masks & sought.mask).flatten(1).sum(1), (masks | sought.mask).flatten(1).sum(1)
        return shared / union.clamp(min=1)


def _nearness(boxes: Tensor, box: Tensor) -> Tensor:
    """Return how far boxes (D, 4) overlap with one (4,); one without area is still the same as itself."""
    return overlaps(boxes, box.unsqueeze(0))[:, 0].masked_fill((boxes == box).all(1), 1)
