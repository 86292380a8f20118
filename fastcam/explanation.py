"""Explanations: the maps of a batch, their scores and their display."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from torch import Tensor

from fastcam import foreground, postprocess
from fastcam.pictures import Drawing
from fastcam.scale import Scale


@dataclass(frozen=True, eq=False)
class Explanation(Drawing):
    """Saliency maps of a batch. With K targets per image every map has an axis K after N.

    Attributes:
        method: registry name of the method.
        layer: name of the target layer, fused layers joined by " + ".
        images: (N, C, *S), the input.
        output: output of the model (after ``select``), with detached tensors.
        scores: (N,) or (N, K), the explained scores.
        targets: class indices in the shape of ``scores``, -1 for an index that is no class; None for callables.
        native: (N, [K,] *s), the map at the layer's size, not normalised. For fused layers the fused map at the size
            of the largest, each layer normalised first.
        fused: (N, [K,] *S), for fused layers their fused map at the size of the input; otherwise None.
        attributions: (N, [K,] C, *S), the signed attribution of every input value, for methods that return one.
        details: further results of the method by name, such as ``completeness_gap``; see the docstring of its rule.
        notes: what was found out about the model, such as the grid of a transformer's tokens, and what was guessed.
        signed: (N, [K,] *s), ``native`` before the final ReLU; None without one.
        in_score_units: whether the maps are differences of scores, whose rounding limits them.
        is_empty: (N,) bool, where the target had nothing to score; None if it always had.
        is_unknown: in the shape of ``scores``, where the target is no class of the output, and the map NaN; None where
            the host could tell, which raises an error.
        is_found: in the shape of ``scores``, where there is such a target: an image may have fewer detections than
            another; None where there always is.
        cover: shares of the axes of ``native`` that the images take, from the origin on, where a detector pads them
            itself; None for all.
        scale: of all maps of a dataset; None scales each from its own lowest to its own highest value.
    """

    method: str
    layer: str
    images: Tensor
    output: Any
    scores: Tensor
    targets: Tensor | None
    native: Tensor
    fused: Tensor | None = None
    attributions: Tensor | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    signed: Tensor | None = None
    in_score_units: bool = False
    is_empty: Tensor | None = None
    is_unknown: Tensor | None = None
    is_found: Tensor | None = None
    cover: tuple[float, ...] | None = None
    scale: Scale | None = None

    def __len__(self) -> int:
        """Return N, the number of images."""
        return len(self.native)

    @property
    def size(self) -> tuple[int, ...]:
        """The spatial size of the input."""
        return tuple(self.images.shape[2:])

    @cached_property
    def raw(self) -> Tensor:
        """The maps (N, [K,] *S) at the size of the input, not normalised."""
        return self.fused if self.fused is not None else self._resized(normalize=False)

    @cached_property
    def maps(self) -> Tensor:
        """The maps (N, [K,] *S) at the size of the input, scaled to [0, 1]; zeros if constant, NaN if non-finite.

        With a ``scale`` all are scaled alike.
        """
        if self.scale is not None:
            return self.scale(self.raw)
        maps = self._resized(normalize=True)
        return maps.masked_fill(self._is_rounding, 0) if self.in_score_units else maps

    @property
    def values(self) -> Tensor:
        """The maps (N, [K,] *s), not normalised, as small as they fit the images: ``native``, or else ``raw``."""
        return self.native if self.fused is None and self.cover is None else self.raw

    @property
    def limits(self) -> tuple[float, float] | None:
        """The values that are 0 and 1 in ``maps`` with a ``scale``; None where each map has its own."""
        return None if self.scale is None else (self.scale.low, 2 * self.scale.threshold - self.scale.low)

    def _resized(self, normalize: bool, out: Tensor | None = None) -> Tensor:
        """Return the maps (N, [K,] *S) at the size of the input, each scaled to [0, 1] if ``normalize``."""
        if self.fused is not None:
            return postprocess.resize(self.fused, self.size, normalize, out)
        return postprocess.resize(self.native, self.size, normalize, out, self.cover)

    def with_scale(self, scale: Scale | None) -> Self:
        """Return the explanation with one scale for all its maps, in ``maps`` and in pictures; None for one each."""
        return replace(self, scale=scale)

    @property
    def _is_rounding(self) -> Tensor:
        """Whether a map varies by rounding of its score alone, (N, [K], 1...)."""
        is_rounding = postprocess.is_rounding(self.native, self.scores)
        return is_rounding[(..., *[None] * len(self.size))]

    def write_maps(self, out: Tensor) -> Tensor:
        """Compute ``maps`` into an existing tensor, which becomes ``maps``.

        Args:
            out: (N, [K,] *S), contiguous, float32 unless the images are float64, on the device of the maps.

        Raises:
            TypeError, ValueError: for a tensor that does not fit.
        """
        self._resized(self.scale is None, out)
        if self.scale is not None:
            out.copy_(self.scale(out))
        elif self.in_score_units:
            out.masked_fill_(self._is_rounding, 0)
        self.__dict__["maps"] = out
        return out

    @cached_property
    def status(self) -> list[postprocess.Status] | list[list[postprocess.Status]]:
        """The status of every map, a list of N (or N lists of K): "ok", "constant map" or "non-finite"."""
        return postprocess.statuses(self.causes)

    @cached_property
    def causes(self) -> list[postprocess.Cause] | list[list[postprocess.Cause]]:
        """Why a map shows nothing, in the form of ``status``; "" for one that does. See :func:`postprocess.causes`."""
        return postprocess.causes(
            self.native,
            self.scores,
            signed=self.signed,
            in_score_units=self.in_score_units,
            is_empty=self.is_empty,
            is_unknown=self.is_unknown,
            is_found=self.is_found,
        )

    def masks(self, threshold: float = 0.2, scale: foreground.Scale = "maximum") -> Tensor:
        """Return (N, [K,] *S) bool, where the maps mark something; nowhere in a map that shows nothing.

        Args:
            threshold: above which a map marks, as a share: 0.2 in the paper of CAM, 0.15 in Grad-CAM's.
            scale: of what it is a share, the "maximum" of ``raw`` or its "range".

        Raises:
            ValueError: for another share or scale.
        """
        return foreground.above(self.raw, threshold, scale, len(self.size))

    def boxes(
        self, threshold: float = 0.2, scale: foreground.Scale = "maximum", *, largest_only: bool = True
    ) -> list[Tensor] | list[list[Tensor]]:
        """Return the boxes around what the maps mark, in pixels of the input; see :meth:`masks`.

        Args:
            threshold: as for :meth:`masks`.
            scale: as for :meth:`masks`.
            largest_only: return the box around the largest connected part alone, not one around each of them.

        Returns:
            For each of N images, or of K targets of each, a float64 tensor (M, 4) of left, top, right, bottom, the end
            exclusive, parts with more pixels first; (0, 4) for a map that shows nothing.

        Raises:
            ValueError: for maps without two axes.
            ImportError: without SciPy.
        """
        if len(self.size) != 2:
            raise ValueError(f"boxes are drawn around maps of two axes, got {self.size}")

        def of(masks: npt.NDArray[np.bool_]) -> Any:
            return foreground.component_boxes(masks, largest_only) if masks.ndim == 2 else [of(mask) for mask in masks]

        boxes: list[Tensor] | list[list[Tensor]] = of(self.masks(threshold, scale).cpu().numpy())
        return boxes

    def numpy(self) -> npt.NDArray[np.float32]:
        """Return ``maps`` as a float32 NumPy array."""
        return self.maps.float().cpu().numpy()

    def _title(self, index: Sequence[int]) -> str:
        cause: Any = self.causes
        for i in index:
            cause = cause[i]
        score = f"{self.scores[tuple(index)].item():.2f}"
        name = score if self.targets is None else f"class {self.targets[tuple(index)].item()}: {score}"
        return name if not cause else f"{name} ({cause})"

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.native.shape))
        return f"Explanation(method={self.method!r}, layer={self.layer!r}, native={shape}, size={self.size})"
