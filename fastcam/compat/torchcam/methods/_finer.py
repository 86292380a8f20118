"""Finer-CAM."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from fastcam.compat.torchcam.methods import _references
from fastcam.compat.torchcam.methods._gradcam import GradCAM, GradCAMpp, LayerCAM
from fastcam.compat.torchcam.methods._refine import _CAMWrapper
from fastcam.compat.torchcam.methods._selection import Classes, plain
from fastcam.compat.torchcam.methods.core import TargetLayer


class FinerCAM(_CAMWrapper):
    """Finer-CAM (arXiv:2501.11309): the map of a class's score less ``gamma`` times the mean of others'.

    Args:
        model: any module.
        target_layer: a module, its name, or a list of either; None for the last one with a map.
        input_shape: handed on to ``base_method``.
        base_method: GradCAM, GradCAMpp or LayerCAM.
        gamma: how much of the other classes is taken away.
        num_references: with how many classes a class is compared, where the call names none: those of the nearest
            scores.
        base_kwargs: more for ``base_method``.

    Raises:
        TypeError, ValueError: with a sentence that says what was expected and what came.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: TargetLayer = None,
        input_shape: tuple[int, ...] = (3, 224, 224),
        *,
        base_method: type[GradCAM] | type[GradCAMpp] | type[LayerCAM] = GradCAM,
        gamma: float = 0.6,
        num_references: int = 3,
        **base_kwargs: Any,
    ) -> None:
        if base_method not in (GradCAM, GradCAMpp, LayerCAM):
            raise TypeError(f"`base_method` must be GradCAM, GradCAMpp or LayerCAM, got {base_method!r}")
        if isinstance(gamma, bool) or not isinstance(gamma, int | float):
            raise TypeError(f"`gamma` must be a number, got {type(gamma).__name__}")
        if not math.isfinite(gamma) or gamma < 0:
            raise ValueError(f"`gamma` must be finite and not negative, got {gamma}")
        if isinstance(num_references, bool) or not isinstance(num_references, int):
            raise TypeError(f"`num_references` must be a whole number, got {type(num_references).__name__}")
        if num_references < 1:
            raise ValueError(f"`num_references` must be positive, got {num_references}")
        self.gamma, self.num_references = float(gamma), num_references
        self.base_cam: GradCAM | GradCAMpp | LayerCAM
        super().__init__(base_method(model, target_layer, input_shape=input_shape, **base_kwargs))

    def __call__(
        self,
        class_idx: Classes,
        scores: Tensor | None = None,
        comparison_idx: int | list[int] | list[list[int]] | None = None,
        normalized: bool = True,
        **kwargs: Any,
    ) -> list[Tensor]:
        """The maps of the last forward pass.

        Args:
            class_idx: a class, or one per image.
            scores: the model's output (N, K).
            comparison_idx: the other classes: one, a list for all images, or a list per image, equally long; None
                for those of the nearest scores.
            normalized: scale every map to [0, 1].
            kwargs: of ``base_method``.

        Returns:
            For every layer (N, *s), on its device.

        Raises:
            TypeError, ValueError: with a sentence that says what was expected and what came.
        """
        contrast = self._contrast(class_idx, scores, comparison_idx, **kwargs)
        return self.base_cam([0] * len(contrast), contrast, normalized, **kwargs)

    def compute_cams(
        self,
        class_idx: Classes,
        scores: Tensor | None = None,
        comparison_idx: int | list[int] | list[list[int]] | None = None,
        normalized: bool = True,
        **kwargs: Any,
    ) -> list[Tensor]:
        """As the call, of arguments that need no checks."""
        contrast = self._contrast(class_idx, scores, comparison_idx, **kwargs)
        return self.base_cam.compute_cams([0] * len(contrast), contrast, normalized, **kwargs)

    def _contrast(self, class_idx: Any, scores: Any, comparison_idx: Any, **kwargs: Any) -> Tensor:
        """(N, 1): the score to differentiate, as of a model with one class."""
        if kwargs.get("targets") is not None:
            raise ValueError("FinerCAM takes no callables as `targets`, only `class_idx`")
        scores = _references.checked_scores(self.base_cam._with_graph(scores))
        classes = _references.classes_of(plain(class_idx), *scores.shape)
        own = torch.tensor(classes, device=scores.device)[:, None]
        if comparison_idx is None:
            others = _references.nearest(scores, own, self.num_references)
        else:
            rows = _references.rows_of(plain(comparison_idx), classes, scores.shape[1])
            others = torch.tensor(rows, device=scores.device)
        with torch.inference_mode(False), torch.enable_grad():
            return scores.gather(1, own) - self.gamma * scores.gather(1, others).mean(1, keepdim=True)

    def fuse_cams(self, cams: list[Tensor], target_shape: tuple[int, int] | None = None) -> Tensor:
        """As that of ``base_method``."""
        return self.base_cam.fuse_cams(cams, target_shape)

    def __repr__(self) -> str:
        """The class, with the one that makes the maps and its numbers."""
        return (
            f"FinerCAM(base_method={type(self.base_cam).__name__}, target_layer={self.target_names}, "
            f"gamma={self.gamma}, num_references={self.num_references})"
        )
