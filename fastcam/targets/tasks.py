"""Scores of segmentation and detection models, and of neurons inside a network."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fastcam.devices import send, take_rows
from fastcam.model.elements import ModelOutput
from fastcam.targets.binding import Bound, Score, describe_value
from fastcam.targets.candidates import overlaps, zero_of


class Segmentation(Score):
    """Sum of a class's logits over a region, or of their difference from another class's, or along the region's edge.

    The output has shape (N, classes, *S).

    >>> road = fastcam.targets.Segmentation(0)  # everything that is taken for road
    >>> fastcam.targets.Segmentation(0, mask)  # a region of one's own, such as one instance
    >>> fastcam.targets.Segmentation(0, against=1, edge=2)  # why the edge between road and pavement runs where it does

    Args:
        label: the class.
        mask: (*S), or (N, *S) for a region per image, bool or weights; of another size than the output, it is resized
            by area, to the share of every position that it covers. None for where the class is highest or, with one
            channel, where the logit is positive.
        against: a class whose logits are subtracted; None for the class's own alone.
        edge: only positions whose surroundings, up to so many positions along every axis, lie inside and outside of the
            region; None for the whole region.
    """

    def __init__(
        self, label: int, mask: Tensor | None = None, *, against: int | None = None, edge: int | None = None
    ) -> None:
        if edge is not None and edge < 1:
            raise ValueError(f"`edge` must be a positive whole number, got {edge!r}")
        self.label, self.mask, self.against, self.edge = label, mask, against, edge

    def bind(self, output: ModelOutput, count: int) -> Bound:
        """Find the region of every image."""
        if not isinstance(output, Tensor) or output.dim() < 3 or len(output) != count:
            raise ValueError(f"a segmentation score needs an output (N, classes, ...), got {describe_value(output)}")
        for name, label in (("label", self.label), ("against", self.against)):
            if label is not None and not 0 <= label < output.shape[1]:
                raise ValueError(f"`{name}` must lie in [0, {output.shape[1]}), got {label}")
        masks, remarks = self._masks(output.detach(), count)
        if self.edge is not None:
            masks = _edges(masks, self.edge)

        def total(out: Tensor, rows: Tensor) -> Tensor:
            logits = out[:, self.label] if self.against is None else out[:, self.label] - out[:, self.against]
            return (logits * take_rows(masks, rows)).flatten(1).sum(1)

        return Bound(total, is_empty=~masks.flatten(1).any(1), remarks=remarks)

    def _masks(self, output: Tensor, count: int) -> tuple[Tensor, tuple[str, ...]]:
        """Return the region of every image, (N, *S), and what was done for it."""
        size = tuple(output.shape[2:])
        if self.mask is None:
            is_class = output[:, 0] > 0 if output.shape[1] == 1 else output.argmax(1) == self.label
            return is_class, ()
        masks = send(self.mask, output.device)
        if masks.dim() not in (len(size), len(size) + 1) or (masks.dim() > len(size) and len(masks) != count):
            raise ValueError(f"`mask` must have shape {size} or {(count, *size)}, got {tuple(masks.shape)}")
        masks = masks.expand(count, *masks.shape[-len(size) :])
        if tuple(masks.shape[1:]) == size:
            return masks, ()
        resized = _by_area(masks.to(output.dtype), size)
        return resized, (f"the mask of size {tuple(masks.shape[1:])} was resized by area to the output's {size}",)


class Box(Score):
    """Class score of a detected box: the detection with this label and the largest overlap with the box.

    The output is a list of one dict per image with ``boxes`` (D, 4), ``labels`` (D,) and ``scores`` (D,), as
    torchvision's detectors return it, or has ``logits`` (N, D, classes) and ``pred_boxes`` (N, D, 4), as Hugging Face's
    do; the score of those is the class's logit of the overlapping box with the highest. The score is 0 if no detection
    overlaps by at least ``iou``.

    Args:
        label: the class.
        box: (4,) or, one per image, (N, 4): x1, y1, x2, y2 in pixels of the input; for ``pred_boxes``, which are
            relative to the image, as shares of its width and height.
        iou: smallest intersection over union that counts as the same object.
    """

    reads_whole_output = True

    def __init__(self, label: int, box: Sequence[float] | Tensor, iou: float = 0.5) -> None:
        self.label, self.iou = label, iou
        self.box = torch.as_tensor(box, dtype=torch.float32)

    def bind(self, output: ModelOutput, count: int) -> Bound:
        """Check the form of the output."""
        is_list = isinstance(output, Sequence) and all(isinstance(detections, Mapping) for detections in output)
        if not is_list and not _has_relative_boxes(output):
            raise TypeError(
                "a box score needs a list of dicts, one per image, or an output with `logits` and `pred_boxes`, got "
                f"{describe_value(output)}"
            )
        if tuple(self.box.shape) not in ((4,), (count, 4)):
            raise ValueError(f"`box` must have shape (4,) or ({count}, 4), got {tuple(self.box.shape)}")
        boxes = self.box.expand(count, 4)
        if not is_list:
            if float(boxes.max()) > 1:
                raise ValueError(
                    "`box` must hold shares of the image's width and height in [0, 1], as the model's `pred_boxes` do, "
                    f"got {self.box.tolist()}"
                )
            return Bound(lambda out, rows: self._best_logits(out, boxes[rows]))
        return Bound(
            lambda out, rows: torch.stack([self._best(out[i], boxes[row]) for i, row in enumerate(rows.tolist())])
        )

    def _best_logits(self, output: ModelOutput, boxes: Tensor) -> Tensor:
        """Return for every image the class's highest logit (M,) of the boxes that overlap with its box (M, 4)."""
        logits = output.logits[..., self.label]  # (M, D)
        centre, size = output.pred_boxes.detach().split(2, -1)
        corners = torch.cat([centre - size / 2, centre + size / 2], -1)
        near = torch.stack(
            [overlaps(found, box[None])[:, 0] for found, box in zip(corners, boxes.to(corners), strict=True)]
        )
        best = logits.where(near >= self.iou, -torch.inf).amax(1)
        return torch.where(best.isinf(), zero_of(logits).sum(1), best)

    def _best(self, detections: Mapping[str, Tensor], box: Tensor) -> Tensor:
        boxes, scores = detections["boxes"], detections["scores"]
        near = overlaps(boxes.detach(), box.to(boxes)[None])[:, 0]
        near = near.where(detections["labels"] == self.label, -1)
        if len(near) == 0 or near.max() < self.iou:
            return zero_of(scores).sum()
        return scores[near.argmax()]


def _has_relative_boxes(output: ModelOutput) -> bool:
    return all(isinstance(getattr(output, name, None), Tensor) for name in ("logits", "pred_boxes"))


def _by_area(masks: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return masks (N, *S) at another size: the mean over the area of every new position."""
    pools: dict[int, Callable[..., Tensor]] = {
        1: F.adaptive_avg_pool1d,
        2: F.adaptive_avg_pool2d,
        3: F.adaptive_avg_pool3d,
    }
    return pools[len(size)](masks.unsqueeze(1), size).squeeze(1)


def _edges(masks: Tensor, width: int) -> Tensor:
    """Return where the surroundings of a position in masks (N, *S) are partly inside and partly outside, bool.

    Beyond the edge of the map there is nothing, neither inside nor outside.
    """
    pools: dict[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
    inside, size = (masks > 0).float().unsqueeze(1), 2 * width + 1
    near_inside, near_outside = (pools[masks.dim() - 1](each, size, 1, width) for each in (inside, 1 - inside))
    return ((near_inside > 0) & (near_outside > 0)).squeeze(1)


class Anchors(Score):
    """Highest score of a class over all candidate boxes, before non-maximum suppression: differentiable everywhere.

    Args:
        label: position of the class along ``axis``, including any coordinates before the classes.
        axis: the axis of the output (N, ...) that holds the classes; all other axes are candidates. None takes the
            shorter of two: (N, candidates, classes) or, as YOLO has them, (N, 4 + classes, candidates).
    """

    def __init__(self, label: int, axis: int | None = None) -> None:
        self.label, self.axis = label, axis

    def bind(self, output: ModelOutput, count: int) -> Bound:
        """Check that the output has such a class."""
        if not isinstance(output, Tensor) or output.dim() < 3 or len(output) != count:
            raise ValueError(
                f"a score over candidate boxes needs an output (N, ..., ...), got {describe_value(output)}"
            )
        axis = self._class_axis(output)
        if axis % output.dim() == 0 or not 0 <= self.label < output.shape[axis]:
            raise ValueError(
                f"`label` must lie in [0, size of the axis) with `axis` not 0 for an output {tuple(output.shape)}, "
                f"got label {self.label}, axis {axis}"
            )
        entries = output.detach().movedim(axis, 1).flatten(2)  # (N, entries, candidates)
        if self.label < 4 < entries.shape[1] and entries[:, 4:].amax() <= 1 < entries[:, : self.label + 1].amax():
            raise ValueError(
                f"entry {self.label} of axis {axis} is a coordinate of the boxes, which come first: class c is 4 + c"
            )
        return Bound(lambda out, rows: out.select(axis, self.label).flatten(1).amax(1))

    def _class_axis(self, output: Tensor) -> int:
        if self.axis is not None:
            return self.axis
        return 1 if output.dim() == 3 and output.shape[1] < output.shape[2] else -1


class Neuron(Score):
    """One neuron, one channel or a whole layer inside the network, as in Zeiler and Fergus.

    Args:
        layer: the layer's name in the model.
        channel: index, or None for all channels.
        position: "max" for the strongest position of every image (fixed on the unchanged image), "sum" for the total
            activation, or the coordinates.
    """

    def __init__(
        self, layer: str, channel: int | None = None, position: Literal["max", "sum"] | Sequence[int] = "max"
    ) -> None:
        if isinstance(position, str) and position not in ("max", "sum"):
            raise ValueError(f'`position` must be "max", "sum" or coordinates, got {position!r}')
        self.layer: str = layer
        self.channel, self.position = channel, position

    def bind(self, output: ModelOutput, count: int) -> Bound:
        """Find the strongest position of every image."""
        if not isinstance(output, Tensor) or output.dim() < 2 or len(output) != count:
            raise ValueError(f"layer {self.layer!r} must return (N, C, ...) to be scored, got {describe_value(output)}")
        if self.channel is not None and not 0 <= self.channel < output.shape[1]:
            raise ValueError(f"`channel` must lie in [0, {output.shape[1]}), got {self.channel}")
        if self.position == "sum":
            return Bound(lambda out, rows: self._channel(out).flatten(1).sum(1))
        positions = self._positions(self._channel(output.detach()))
        return Bound(lambda out, rows: self._channel(out).flatten(1).gather(1, take_rows(positions, rows))[:, 0])

    def _channel(self, output: Tensor) -> Tensor:
        return output if self.channel is None else output[:, self.channel]

    def _positions(self, values: Tensor) -> Tensor:
        """Return flat positions (N, 1) in values (N, ...)."""
        if self.position == "max":
            return values.flatten(1).argmax(1, keepdim=True)
        size = values.shape[1:]
        coordinates = tuple(map(int, self.position))
        if len(coordinates) != len(size) or any(not 0 <= c < s for c, s in zip(coordinates, size, strict=False)):
            raise ValueError(f"`position` must be coordinates in {tuple(size)}, got {coordinates}")
        flat = 0
        for coordinate, length in zip(coordinates, size, strict=True):
            flat = flat * length + coordinate
        return torch.full((len(values), 1), flat, device=values.device)
