"""The base of extractors that wrap another extractor, and Refine-CAM."""

import contextlib
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from fastcam import ops
from fastcam.compat.torchcam.methods._gradcam import GradCAMpp
from fastcam.compat.torchcam.methods._maps import check_maps, common_size, min_max
from fastcam.compat.torchcam.methods._selection import Classes, ModelOutput, Targets
from fastcam.compat.torchcam.methods.core import _CAM


class _CAMWrapper:
    """An extractor that wraps another one, which holds the hooks.

    Attributes:
        base_cam: the wrapped extractor.
    """

    def __init__(self, base_cam: _CAM) -> None:
        self.base_cam = base_cam

    @property
    def model(self) -> nn.Module:
        """The model."""
        return self.base_cam.model

    @property
    def target_names(self) -> list[str]:
        """The names of the layers."""
        return self.base_cam.target_names

    def enable_hooks(self) -> None:
        """Start recording forward passes."""
        self.base_cam.enable_hooks()

    def disable_hooks(self) -> None:
        """Stop recording forward passes."""
        self.base_cam.disable_hooks()

    def reset_hooks(self) -> None:
        """Discard the record of the calling thread's last forward pass."""
        self.base_cam.reset_hooks()

    def remove_hooks(self) -> None:
        """Remove the hooks from the model."""
        self.base_cam.remove_hooks()

    def _hooks_off(self) -> contextlib.AbstractContextManager[None]:
        return self.base_cam._hooks_off()

    def __enter__(self) -> Self:
        """Return the extractor."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        """Remove the hooks from the model and discard their record."""
        self.base_cam.__exit__(exc_type, exc_value, exc_tb)


class RefineCAM(_CAMWrapper):
    """Refine-CAM (arXiv:2605.14641): the product of several layers' maps, each scaled to [0, 1], at one size.

    Args:
        model: any module.
        target_layer: at least two modules or names.
        input_shape: passed to ``base_method``.
        base_method: the class that makes the maps.
        base_kwargs: further arguments of ``base_method``.

    Raises:
        ValueError: for fewer than two layers.
        TypeError: if ``base_method`` is not an extractor class.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: list[nn.Module | str],
        input_shape: tuple[int, ...] = (3, 224, 224),
        *,
        base_method: type[_CAM] = GradCAMpp,
        **base_kwargs: Any,
    ) -> None:
        if not isinstance(target_layer, list) or len(target_layer) < 2:
            raise ValueError(f"`target_layer` must be a list of at least two layers, got {target_layer!r}")
        if not isinstance(base_method, type) or not issubclass(base_method, _CAM):
            raise TypeError(f"`base_method` must be an extractor class, got {base_method!r}")
        super().__init__(base_method(model, target_layer, input_shape=input_shape, **base_kwargs))

    def __call__(
        self,
        class_idx: Classes | None = None,
        scores: ModelOutput | None = None,
        normalized: bool = True,
        target_shape: tuple[int, ...] | None = None,
        *,
        targets: Targets | None = None,
        **kwargs: Any,
    ) -> list[Tensor]:
        """Return one map (N, *S), in a list; the arguments are those of ``base_method`` and of :meth:`fuse_cams`."""
        maps = self.base_cam(class_idx, scores, True, targets=targets, **kwargs)
        return [self.fuse_cams(maps, target_shape, normalized)]

    def compute_cams(
        self,
        class_idx: Classes | None = None,
        scores: ModelOutput | None = None,
        normalized: bool = True,
        target_shape: tuple[int, ...] | None = None,
        *,
        targets: Targets | None = None,
        **kwargs: Any,
    ) -> list[Tensor]:
        """Return the same as the call, without checking the arguments."""
        maps = self.base_cam.compute_cams(class_idx, scores, True, targets=targets, **kwargs)
        return [self.fuse_cams(maps, target_shape, normalized)]

    @staticmethod
    @torch.no_grad()
    def fuse_cams(cams: list[Tensor], target_shape: tuple[int, ...] | None = None, normalized: bool = True) -> Tensor:
        """Return the product of maps, each scaled to [0, 1] and then resampled linearly to one size.

        Args:
            cams: per layer, (N, *s), for the same images.
            target_shape: the size; None for the largest among them, axis by axis.
            normalized: scale the product to [0, 1].

        Returns:
            (N, *S).

        Raises:
            TypeError: for anything but a list of tensors.
            ValueError: for an empty list.
        """
        check_maps(cams)
        size = common_size(cams, target_shape)
        product = torch.stack([ops.upsample_normalize(min_max(cam), size, normalize=False) for cam in cams]).prod(0)
        return min_max(product) if normalized else product

    def __repr__(self) -> str:
        """Return the class name, with that of the wrapped extractor."""
        return f"RefineCAM(base_method={type(self.base_cam).__name__}, target_layer={self.target_names})"
