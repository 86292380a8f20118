"""The CAM classes of pytorch-grad-cam, each defined by a method of the engine."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from fastcam.compat.pytorch_grad_cam import ablated_pyramid, rules
from fastcam.compat.pytorch_grad_cam._types import ReshapeTransform
from fastcam.compat.pytorch_grad_cam.ablation_layer import AblationLayer, AblationLayerFasterRCNN, scores_of_selected
from fastcam.compat.pytorch_grad_cam.base_cam import BaseCAM
from fastcam.compat.pytorch_grad_cam.utils.svd_on_activations import get_2d_projection
from fastcam.methods.registry import Method, get_method
from fastcam.targets.binding import Target, bind


class _Registered(BaseCAM):
    """A class whose method is in the registry."""

    name: str

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: ReshapeTransform | None = None,
        *,
        exact_peer: bool = False,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform, exact_peer=exact_peer)

    def rule(self) -> str | Method:
        """Return the registry name."""
        return self.name


class GradCAM(_Registered):
    """Grad-CAM (arXiv:1610.02391)."""

    name = "grad_cam"
    get_cam_weights = rules.array_function("grad_cam")


class GradCAMPlusPlus(_Registered):
    """Grad-CAM++ (arXiv:1710.11063)."""

    name = "grad_cam_pp"
    get_cam_weights = rules.array_function("grad_cam_pp")

    def rule(self) -> str | Method:
        """Return the paper's rule, or pytorch-grad-cam's with a constant in the denominator."""
        return rules.GRAD_CAM_PP_EPS if self.exact_peer else self.name


class XGradCAM(_Registered):
    """XGrad-CAM (arXiv:2008.02312)."""

    name = "xgrad_cam"
    get_cam_weights = rules.array_function("xgrad_cam")


class HiResCAM(_Registered):
    """HiRes-CAM (arXiv:2011.08891)."""

    name = "hires_cam"


class GradCAMElementWise(_Registered):
    """Grad-CAM, element by element."""

    name = "grad_cam_elementwise"


class LayerCAM(_Registered):
    """LayerCAM (doi:10.1109/TIP.2021.3089943)."""

    name = "layer_cam"


class ScoreCAM(_Registered):
    """Score-CAM (arXiv:1910.01279); ``batch_size`` may be set."""

    def rule(self) -> Method:
        """Return the rule with pytorch-grad-cam's masks."""
        return rules.SCORE_CAM


class AblationCAM(_Registered):
    """Ablation-CAM (doi:10.1109/WACV45572.2020.9093360).

    Args:
        model: any module.
        target_layers: modules.
        reshape_transform: from the output of a layer to (N, C, *s).
        ablation_layer: selects the channels for a ratio below 1; no layer of the model is replaced.
        batch_size: copies of an image per batch, if the model is rerun.
        ratio_channels_to_ablate: below 1, the weights of all but the selected channels are 0; not faster here.
        exact_peer: see ``DIFFERENCES``.

    Raises:
        ValueError: for a ratio outside (0, 1].
    """

    name = "ablation_cam"

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: ReshapeTransform | None = None,
        ablation_layer: nn.Module | None = None,
        batch_size: int = 32,
        ratio_channels_to_ablate: float = 1.0,
        *,
        exact_peer: bool = False,
    ) -> None:
        if not 0 < ratio_channels_to_ablate <= 1:
            raise ValueError(f"`ratio_channels_to_ablate` must lie in (0, 1], got {ratio_channels_to_ablate!r}")
        super().__init__(model, target_layers, reshape_transform, exact_peer=exact_peer)
        self.ablation_layer = cast(AblationLayer, ablation_layer or AblationLayer())
        self.batch_size = batch_size
        self.ratio_channels_to_ablate = ratio_channels_to_ablate

    def rule(self) -> str | Method:
        """Return the registry's rule, or the same for the selected channels only."""
        if self.ratio_channels_to_ablate == 1:
            return self.name
        return rules.weights_method(
            "ablation_cam, selected", self._selected_weights, "activations", "ablated_scores", "scores"
        )

    def native(self, images: Tensor, target: Target, eigen_smooth: bool) -> tuple[Any, list[Tensor]]:
        """Return the model's output, and per layer the signed map; of all levels for a feature pyramid."""
        if not isinstance(self.ablation_layer, AblationLayerFasterRCNN) or self.reshape_transform is None:
            return super().native(images, target, eigen_smooth)
        results = [self._pyramid_map(images, layer, target, eigen_smooth) for layer in self.target_layers]
        return results[0][0], [layer_map for _, layer_map in results]

    @torch.no_grad()
    def _pyramid_map(self, images: Tensor, layer: nn.Module, target: Target, eigen_smooth: bool) -> tuple[Any, Tensor]:
        assert self.reshape_transform is not None
        output, levels = ablated_pyramid.captured_levels(self.model, images, layer)
        bound, rows = bind(output, target, len(images)), torch.arange(len(images))
        activations = self.reshape_transform(levels)
        channels = ablated_pyramid.selected_channels(self.ablation_layer, activations, self.ratio_channels_to_ablate)
        weights = ablated_pyramid.ablated_weights(
            self.model, images, layer, levels, bound, bound(output, rows), channels, self.batch_size
        )
        weighted = weights.reshape(*weights.shape, 1, 1) * activations
        if eigen_smooth:
            return output, torch.from_numpy(get_2d_projection(weighted.cpu().numpy()))
        return output, weighted.sum(1)

    def _selected_weights(self, activations: Tensor, ablated_scores: Tensor, scores: Tensor) -> Tensor:
        ratio = self.ratio_channels_to_ablate
        selected = scores_of_selected(ablated_scores, scores, activations, self.ablation_layer, ratio)
        return get_method(self.name).value(scores, selected)


class EigenCAM(_Registered):
    """Eigen-CAM (arXiv:2008.00299)."""

    smooths = False

    def rule(self) -> str | Method:
        """Return the first principal component of the activations."""
        if not self.exact_peer:
            return "eigen_cam"
        return rules.map_method("eigen_cam", lambda a: rules.principal_component(a, a, True), "activations")


class EigenGradCAM(_Registered):
    """Eigen-CAM of activations times gradients."""

    smooths = False

    def rule(self) -> Method:
        """Return the first principal component of the products."""
        return rules.principal_component_method(lambda activations, gradients: activations * gradients, self.exact_peer)


class SegEigenCAM(_Registered):
    """Seg-Eigen-CAM (doi:10.3390/app15137562)."""

    smooths = False

    def rule(self) -> Method:
        """Return the first principal component, with the sign that makes its peak positive."""
        return rules.map_method("seg_eigen_cam", rules.absolute_gradients, "activations", "gradients")


class KPCA_CAM(_Registered):  # noqa: N801 - pytorch-grad-cam's name
    """KPCA-CAM (arXiv:2410.00267).

    Args:
        model: any module.
        target_layers: modules.
        reshape_transform: from the output of a layer to (N, C, *s).
        kernel: "linear", "poly", "rbf", "sigmoid" or "cosine".
        gamma: coefficient of the kernel; None for one over the number of channels.
        exact_peer: see ``DIFFERENCES``.
    """

    smooths = False

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: ReshapeTransform | None = None,
        kernel: str = "sigmoid",
        gamma: float | None = None,
        *,
        exact_peer: bool = False,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform, exact_peer=exact_peer)
        self.kernel, self.gamma = kernel, gamma

    def rule(self) -> Method:
        """Return the first component under the kernel."""
        return rules.map_method("kpca_cam", rules.kernel_pca, "activations")

    def options(self) -> dict[str, Any]:
        """Return the kernel and its coefficient."""
        return {"kernel": self.kernel, "gamma": self.gamma}


class RandomCAM(_Registered):
    """Random weights, a baseline for other methods."""

    def rule(self) -> Method:
        """Return weights from NumPy's global generator."""
        return rules.weights_method("random_cam", rules.random_weights, "activations")


class FEM(_Registered):
    """FEM (Fuad et al. 2020).

    Args:
        model: any module.
        target_layers: modules.
        reshape_transform: from the output of a layer to (N, C, *s).
        k: threshold, in standard deviations above the mean.
        exact_peer: see ``DIFFERENCES``.
    """

    smooths = False

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: ReshapeTransform | None = None,
        k: float = 2,
        *,
        exact_peer: bool = False,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform, exact_peer=exact_peer)
        self.k = k

    def rule(self) -> Method:
        """Return weights by the share of every channel above the threshold."""
        return rules.map_method("fem", rules.fem, "activations")

    def options(self) -> dict[str, Any]:
        """Return the threshold."""
        return {"k": self.k}


class FullGrad(_Registered):
    """FullGrad (arXiv:1905.00780), the contribution of every channel scaled to [0, 1]; target layers are ignored."""

    name = "full_grad"
    smooths = False

    def options(self) -> dict[str, Any]:
        """Return pytorch-grad-cam's scaling."""
        return {"rescale": "channel", "eps": 1e-7}
