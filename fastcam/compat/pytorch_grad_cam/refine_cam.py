"""Maps of several layers multiplied: what all of them show (RefineCAM, arXiv:2605.14641)."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from fastcam.compat.pytorch_grad_cam.base_cam import Array, BaseCAM
from fastcam.compat.pytorch_grad_cam.cams import GradCAMPlusPlus
from fastcam.compat.pytorch_grad_cam.utils.image import scale_cam_image


class RefineCAM:
    """The product of the maps of several layers.

    Args:
        model: any module.
        target_layers: modules.
        reshape_transform: from what a layer returns to (N, C, *s).
        base_method: a class of the package, or one like them.
        exact_peer: take ``eigen_smooth`` for ``aug_smooth``, as the tool does.
        kwargs: of the class.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None = None,
        base_method: Callable[..., Any] = GradCAMPlusPlus,
        *,
        exact_peer: bool = False,
        **kwargs: Any,
    ) -> None:
        options = kwargs | ({"exact_peer": True} if exact_peer else {})
        self.exact_peer = exact_peer
        self.base_cam = base_method(model, target_layers, reshape_transform, **options)
        self.base_cam_per_layer = [base_method(model, [each], reshape_transform, **options) for each in target_layers]

    def __call__(self, *args: Any, **kwargs: Any) -> Array:
        """As :meth:`forward`."""
        return self.forward(*args, **kwargs)

    def forward(self, input_tensor: Tensor, targets: Any = None, eigen_smooth: bool = False) -> Array:
        """Maps (N, *S), float32, in [0, 1); from one pass, where the class makes the maps of all layers in one.

        Args:
            input_tensor: (N, C, *S).
            targets: N callables from an image's output to its score; None for the highest class.
            eigen_smooth: of the class.
        """
        if self.exact_peer and eigen_smooth:
            maps = [each(input_tensor, targets, True) for each in self.base_cam_per_layer]
        elif isinstance(self.base_cam, BaseCAM):
            each_layer = self.base_cam.compute_cam_per_layer(input_tensor, targets, eigen_smooth)
            maps = [scale_cam_image(each[:, 0]) for each in each_layer]
        else:
            maps = [each(input_tensor, targets, eigen_smooth=eigen_smooth) for each in self.base_cam_per_layer]
        return scale_cam_image(np.prod(np.stack(maps), axis=0))
