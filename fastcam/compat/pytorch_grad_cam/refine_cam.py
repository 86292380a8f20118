"""RefineCAM: the product of several layers' maps (arXiv:2605.14641)."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from fastcam.compat.pytorch_grad_cam._types import Array, ReshapeTransform, Targets
from fastcam.compat.pytorch_grad_cam.base_cam import BaseCAM
from fastcam.compat.pytorch_grad_cam.cams import GradCAMPlusPlus
from fastcam.compat.pytorch_grad_cam.utils.image import scale_cam_image


class RefineCAM:
    """The product of the maps of several layers.

    Args:
        model: any module.
        target_layers: modules.
        reshape_transform: from the output of a layer to (N, C, *s).
        base_method: a CAM class.
        exact_peer: treat ``eigen_smooth`` as ``aug_smooth``, as pytorch-grad-cam does.
        kwargs: further arguments of ``base_method``.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: ReshapeTransform | None = None,
        base_method: Callable[..., Any] = GradCAMPlusPlus,
        *,
        exact_peer: bool = False,
        **kwargs: Any,
    ) -> None:
        options = kwargs | ({"exact_peer": True} if exact_peer else {})
        self.exact_peer = exact_peer
        self.base_cam = base_method(model, target_layers, reshape_transform, **options)
        self.base_cam_per_layer = [base_method(model, [layer], reshape_transform, **options) for layer in target_layers]

    def __call__(self, *args: Any, **kwargs: Any) -> Array:
        """Call :meth:`forward`."""
        return self.forward(*args, **kwargs)

    def forward(self, input_tensor: Tensor, targets: Targets | None = None, eigen_smooth: bool = False) -> Array:
        """Return maps (N, *S), float32, in [0, 1), from one pass if ``base_method`` is a class of this package.

        Args:
            input_tensor: (N, C, *S).
            targets: N callables from an image's output to its score; None for the highest class.
            eigen_smooth: passed to ``base_method``.
        """
        if self.exact_peer and eigen_smooth:
            maps = [cam(input_tensor, targets, True) for cam in self.base_cam_per_layer]
        elif isinstance(self.base_cam, BaseCAM):
            layer_maps = self.base_cam.compute_cam_per_layer(input_tensor, targets, eigen_smooth)
            maps = [scale_cam_image(cams[:, 0]) for cams in layer_maps]
        else:
            maps = [cam(input_tensor, targets, eigen_smooth=eigen_smooth) for cam in self.base_cam_per_layer]
        return scale_cam_image(np.prod(np.stack(maps), axis=0))
