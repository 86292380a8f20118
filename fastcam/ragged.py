"""Explanations of images of several sizes, as detectors take them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map

from fastcam import postprocess
from fastcam.explanation import Explanation
from fastcam.pictures.backgrounds import DrawableImages, given_pictures
from fastcam.pictures.overlays import Overlays
from fastcam.scale import Scale


@dataclass(frozen=True, eq=False, repr=False)
class RaggedExplanation(Explanation):
    """The explanation of images of several sizes; its tensors are padded with zeros at the end of each spatial axis.

    Attributes:
        parts: the explanations of the single images, each of its own size, with N = 1.
    """

    parts: tuple[Explanation, ...] = ()

    @classmethod
    def of(cls, parts: Sequence[Explanation]) -> "RaggedExplanation":
        """Return the explanation of all images from those of the single ones, in order."""
        joined = {
            field.name: _join([getattr(part, field.name) for part in parts])
            for field in fields(Explanation)
            if field.name not in ("method", "layer", "output", "notes", "cover")
        }
        return cls(
            method=parts[0].method,
            layer=", ".join(dict.fromkeys(part.layer for part in parts)),
            output=[part.output for part in parts],
            notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
            parts=tuple(parts),
            **joined,
        )

    def with_scale(self, scale: Scale | None) -> Self:
        """Return the explanation with one scale for all its maps."""
        return replace(self, scale=scale, parts=tuple(part.with_scale(scale) for part in self.parts))

    @property
    def sizes(self) -> list[tuple[int, ...]]:
        """The spatial size of every image."""
        return [part.size for part in self.parts]

    @cached_property
    def raw(self) -> Tensor:
        """The maps (N, [K,] *S), each at the size of its image, not normalised, padded to the largest size."""
        return _join([part.raw for part in self.parts])

    @cached_property
    def maps(self) -> Tensor:
        """The maps (N, [K,] *S), each scaled to [0, 1] at the size of its image, padded to the largest size."""
        return _join([part.maps for part in self.parts])

    def write_maps(self, out: Tensor) -> Tensor:
        """Copy ``maps`` into an existing tensor of their shape, which becomes ``maps``."""
        if out.shape != self.maps.shape:
            raise ValueError(f"`out` must have shape {tuple(self.maps.shape)}, got {tuple(out.shape)}")
        self.__dict__["maps"] = out.copy_(self.maps)
        return out

    @cached_property
    def causes(self) -> list[postprocess.Cause] | list[list[postprocess.Cause]]:
        """Why a map shows nothing; see :attr:`.Explanation.causes`."""
        causes: list[Any] = [cause for part in self.parts for cause in part.causes]
        return causes

    def _overlays(self, images: DrawableImages | None, colormap: str, alpha: float) -> Overlays:
        if images is None:
            return [part.overlay(colormap=colormap, alpha=alpha)[0] for part in self.parts]
        pictures = given_pictures(images)
        if len(pictures) != len(self):
            raise ValueError(f"`images` must be {len(self)} pictures, one for each image, got {len(pictures)}")
        pairs = zip(self.parts, pictures, strict=True)
        drawn = [part.overlay(picture[None], colormap=colormap, alpha=alpha)[0] for part, picture in pairs]
        return drawn if isinstance(pictures, list) else np.stack(drawn)


def is_ragged(images: object) -> bool:
    """Whether the images are a list of tensors (C, *S) of several sizes."""
    if not isinstance(images, list) or not all(isinstance(image, Tensor) and image.dim() > 1 for image in images):
        return False
    return len({image.shape for image in images}) > 1 and len({(image.dim(), len(image)) for image in images}) == 1


def join(parts: Sequence[Any]) -> Any:
    """Join the results for single images, explanations or dicts of them, into one of the same form."""
    if isinstance(parts[0], Explanation):
        return RaggedExplanation.of(parts)
    return {key: RaggedExplanation.of([part[key] for part in parts]) for key in parts[0]}


def _join(values: Sequence[Any]) -> Any:
    """Join values of the same form: tensors along their rows, padded; of anything else the first."""
    return tree_map(lambda *leaves: _padded(leaves) if isinstance(leaves[0], Tensor) else leaves[0], *values)


def _padded(tensors: Sequence[Tensor]) -> Tensor:
    """Return tensors (1, *s) of several sizes as one (N, *S), padded with zeros behind."""
    largest = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]

    def pad(tensor: Tensor) -> Tensor:
        missing = [after - before for before, after in zip(tensor.shape[1:], largest, strict=True)]
        return F.pad(tensor, [side for count in reversed(missing) for side in (0, count)])

    return torch.cat([pad(tensor) for tensor in tensors])
