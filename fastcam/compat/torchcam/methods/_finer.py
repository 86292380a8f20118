"""Finer-CAM."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from fastcam.compat.torchcam.methods import _references
from fastcam.compat.torchcam.methods._gradcam import GradCAM, GradCAMpp, LayerCAM
from fastcam.compat.torchcam.methods._refine import _CAMWrapper
from fastcam.compat.torchcam.methods._selection import Classes, plain_classes
from fastcam.compat.torchcam.methods.core import TargetLayer


class FinerCAM(_CAMWrapper):
    """Finer-CAM (arXiv:2501.11309): the map of a class's score minus ``gamma`` times the mean score of other classes.

    Args:
        model: any module.
        target_layer: a module, its name, or a list of either; None for the last one with a spatial output.
        input_shape: passed to ``base_method``.
        base_method: GradCAM, GradCAMpp or LayerCAM.
        gamma: weight of the other classes.
        num_references: number of classes to compare with, those of the nearest scores, if the call names none.
        base_kwargs: further arguments of ``base_method``.

    Raises:
        TypeError, ValueError: for arguments that do not fit the model.
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
        """Return the maps of the last forward pass.

        Args:
            class_idx: a class, or one per image.
            scores: the model's output (N, K).
            comparison_idx: the other classes: one, a list for all images, or a list per image, equally long; None
                for those of the nearest scores.
            normalized: scale every map to [0, 1].
            kwargs: options of ``base_method``.

        Returns:
            Per layer (N, *s), on its device.

        Raises:
            TypeError, ValueError: for arguments that do not fit the last forward pass.
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
        """Return the same as the call, without checking the arguments."""
        contrast = self._contrast(class_idx, scores, comparison_idx, **kwargs)
        return self.base_cam.compute_cams([0] * len(contrast), contrast, normalized, **kwargs)

    def _contrast(
        self,
        class_idx: Classes,
        scores: Tensor | None,
        comparison_idx: int | list[int] | list[list[int]] | None,
        **kwargs: Any,
    ) -> Tensor:
        """Return (N, 1), the score to differentiate, as the output of a model with one class."""
        if kwargs.get("targets") is not None:
            raise ValueError("FinerCAM takes no callables as `targets`, only `class_idx`")
        scores = _references.checked_scores(self.base_cam._with_graph(scores))
        classes = _references.classes_per_image(plain_classes(class_idx), *scores.shape)
        own = torch.tensor(classes, device=scores.device)[:, None]
        if comparison_idx is None:
            others = _references.nearest_classes(scores, own, self.num_references)
        else:
            rows = _references.comparisons_per_image(plain_classes(comparison_idx), classes, scores.shape[1])
            others = torch.tensor(rows, device=scores.device)
        with torch.inference_mode(False), torch.enable_grad():
            return scores.gather(1, own) - self.gamma * scores.gather(1, others).mean(1, keepdim=True)

    def fuse_cams(self, cams: list[Tensor], target_shape: tuple[int, int] | None = None) -> Tensor:
        """Fuse maps as ``base_method`` does."""
        return self.base_cam.fuse_cams(cams, target_shape)

    def __repr__(self) -> str:
        """Return the class name, with that of the wrapped extractor and the settings."""
        return (
            f"FinerCAM(base_method={type(self.base_cam).__name__}, target_layer={self.target_names}, "
            f"gamma={self.gamma}, num_references={self.num_references})"
        )
