"""Extractors around another extractor, and Refine-CAM."""

import contextlib
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from fastcam import ops
from fastcam.compat.torchcam.methods._gradcam import GradCAMpp
from fastcam.compat.torchcam.methods._maps import check_maps, common_size, min_max
from fastcam.compat.torchcam.methods._selection import Classes, Targets
from fastcam.compat.torchcam.methods.core import _CAM


class _CAMWrapper:
    """An extractor that asks another one, which holds the hooks.

    Attributes:
        base_cam: that one.
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
        """Keeps forward passes from now on."""
        self.base_cam.enable_hooks()

    def disable_hooks(self) -> None:
        """Keeps no forward passes from now on."""
        self.base_cam.disable_hooks()

    def reset_hooks(self) -> None:
        """Forgets the calling thread's last forward pass."""
        self.base_cam.reset_hooks()

    def remove_hooks(self) -> None:
        """Takes the hooks out of the model."""
        self.base_cam.remove_hooks()

    def _hooks_off(self) -> contextlib.AbstractContextManager[None]:
        return self.base_cam._hooks_off()

    def __enter__(self) -> Self:
        """The object itself."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        """Takes the hooks out of the model and forgets what they kept."""
        self.base_cam.__exit__(exc_type, exc_value, exc_tb)


class RefineCAM(_CAMWrapper):
    """Refine-CAM (arXiv:2605.14641): the product of several layers' maps, each scaled to [0, 1], at one size.

    Args:
        model: any module.
        target_layer: at least two modules or names.
        input_shape: handed on to ``base_method``.
        base_method: the class that makes the maps.
        base_kwargs: more for ``base_method``.

    Raises:
        ValueError: for fewer than two layers.
        TypeError: where ``base_method`` is no class of extractors.
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
            raise TypeError(f"`base_method` must be a class of extractors, got {base_method!r}")
        super().__init__(base_method(model, target_layer, input_shape=input_shape, **base_kwargs))

    def __call__(
        self,
        class_idx: Classes | None = None,
        scores: Any = None,
        normalized: bool = True,
        target_shape: tuple[int, ...] | None = None,
        *,
        targets: Targets | None = None,
        **kwargs: Any,
    ) -> list[Tensor]:
        """One map (N, *S), in a list; the arguments are those of ``base_method`` and of :meth:`fuse_cams`."""
        maps = self.base_cam(class_idx, scores, True, targets=targets, **kwargs)
        return [self.fuse_cams(maps, target_shape, normalized)]

    def compute_cams(
        self,
        class_idx: Classes | None = None,
        scores: Any = None,
        normalized: bool = True,
        target_shape: tuple[int, ...] | None = None,
        *,
        targets: Targets | None = None,
        **kwargs: Any,
    ) -> list[Tensor]:
        """As the call, of arguments that need no checks."""
        maps = self.base_cam.compute_cams(class_idx, scores, True, targets=targets, **kwargs)
        return [self.fuse_cams(maps, target_shape, normalized)]

    @staticmethod
    @torch.no_grad()
    def fuse_cams(cams: list[Tensor], target_shape: tuple[int, ...] | None = None, normalized: bool = True) -> Tensor:
        """The product of maps, each scaled to [0, 1] and then resampled linearly to one size.

        Args:
            cams: of every layer, (N, *s) of the same images.
            target_shape: the size; None for the largest among them, axis by axis.
            normalized: scale the product to [0, 1].

        Returns:
            (N, *S).

        Raises:
            TypeError: where it is not a list of tensors.
            ValueError: where it is empty.
        """
        check_maps(cams)
        size = common_size(cams, target_shape)
        product = torch.stack([ops.upsample_normalize(min_max(each), size, normalize=False) for each in cams]).prod(0)
        return min_max(product) if normalized else product

    def __repr__(self) -> str:
        """The class, with the one that makes the maps."""
        return f"RefineCAM(base_method={type(self.base_cam).__name__}, target_layer={self.target_names})"
