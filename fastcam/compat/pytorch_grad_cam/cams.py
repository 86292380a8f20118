"""The classes of pytorch-grad-cam, each a method of the engine."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from fastcam.compat.pytorch_grad_cam import rules
from fastcam.compat.pytorch_grad_cam.ablation_layer import AblationLayer, chosen_alone
from fastcam.compat.pytorch_grad_cam.base_cam import BaseCAM
from fastcam.methods.registry import Method, get_method

Reshape = Callable[[Any], Tensor] | None


class _Registered(BaseCAM):
    """A class whose method is in the registry."""

    name: str

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Reshape = None,
        *,
        exact_peer: bool = False,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform, exact_peer=exact_peer)

    def rule(self) -> str | Method:
        """The registry's name."""
        return self.name


class GradCAM(_Registered):
    """Grad-CAM (arXiv:1610.02391)."""

    name = "grad_cam"
    get_cam_weights = rules.called_with_arrays("grad_cam")


class GradCAMPlusPlus(_Registered):
    """Grad-CAM++ (arXiv:1710.11063)."""

    name = "grad_cam_pp"
    get_cam_weights = rules.called_with_arrays("grad_cam_pp")

    def rule(self) -> str | Method:
        """The paper's, or the tool's with a constant in the denominator."""
        return rules.GRAD_CAM_PP_EPS if self.exact_peer else self.name


class XGradCAM(_Registered):
    """XGrad-CAM (arXiv:2008.02312)."""

    name = "xgrad_cam"
    get_cam_weights = rules.called_with_arrays("xgrad_cam")


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
    """Score-CAM (arXiv:1910.01279); ``batch_size`` can be set."""

    def rule(self) -> Method:
        """With the tool's masks."""
        return rules.SCORE_CAM


class AblationCAM(_Registered):
    """Ablation-CAM (doi:10.1109/WACV45572.2020.9093360).

    Args:
        model: any module.
        target_layers: modules.
        reshape_transform: from what a layer returns to (N, C, *s).
        ablation_layer: chooses the channels, where not all are tried; no layer of the model is exchanged here.
        batch_size: copies of an image at a time, where the model runs again.
        ratio_channels_to_ablate: below 1, the weights of all but the chosen channels are 0; that saves nothing here.
        exact_peer: see ``DIFFERENCES``.

    Raises:
        ValueError: for a ratio that is not in (0, 1].
    """

    name = "ablation_cam"

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Reshape = None,
        ablation_layer: nn.Module | None = None,
        batch_size: int = 32,
        ratio_channels_to_ablate: float = 1.0,
        *,
        exact_peer: bool = False,
    ) -> None:
        if not 0 < ratio_channels_to_ablate <= 1:
            raise ValueError(f"`ratio_channels_to_ablate` must lie in (0, 1], got {ratio_channels_to_ablate!r}")
        super().__init__(model, target_layers, reshape_transform, exact_peer=exact_peer)
        self.ablation_layer, self.batch_size = ablation_layer or AblationLayer(), batch_size
        self.ratio_channels_to_ablate = ratio_channels_to_ablate

    def rule(self) -> str | Method:
        """The registry's, or the same for the chosen channels alone."""
        if self.ratio_channels_to_ablate == 1:
            return self.name
        return rules.weights("ablation_cam, chosen", self._chosen, "activations", "ablated_scores", "scores")

    def _chosen(self, activations: Tensor, ablated_scores: Tensor, scores: Tensor) -> Tensor:
        given = (ablated_scores, scores, activations, self.ablation_layer, self.ratio_channels_to_ablate)
        return get_method(self.name).value(scores, chosen_alone(*given))


class EigenCAM(_Registered):
    """Eigen-CAM (arXiv:2008.00299)."""

    smooths = False

    def rule(self) -> str | Method:
        """The first principal component of the activations."""
        if not self.exact_peer:
            return "eigen_cam"
        return rules.a_map("eigen_cam", lambda found: rules.component(found, found, True), "activations")


class EigenGradCAM(_Registered):
    """Eigen-CAM of activations times gradients."""

    smooths = False

    def rule(self) -> Method:
        """The first principal component of the products."""
        return rules.principal(lambda activations, gradients: activations * gradients, self.exact_peer)


class SegEigenCAM(_Registered):
    """Seg-Eigen-CAM (doi:10.3390/app15137562)."""

    smooths = False

    def rule(self) -> Method:
        """The first principal component, turned so that its peak is positive."""
        return rules.a_map("seg_eigen_cam", rules.absolute_gradients, "activations", "gradients")


class KPCA_CAM(_Registered):  # noqa: N801 - the tool's name
    """KPCA-CAM (arXiv:2410.00267).

    Args:
        model: any module.
        target_layers: modules.
        reshape_transform: from what a layer returns to (N, C, *s).
        kernel: "linear", "poly", "rbf", "sigmoid" or "cosine".
        gamma: of the kernel; None for one over the number of channels.
        exact_peer: see ``DIFFERENCES``.
    """

    smooths = False

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Reshape = None,
        kernel: str = "sigmoid",
        gamma: float | None = None,
        *,
        exact_peer: bool = False,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform, exact_peer=exact_peer)
        self.kernel, self.gamma = kernel, gamma

    def rule(self) -> Method:
        """The first component under the kernel."""
        return rules.a_map("kpca_cam", rules.kernel_pca, "activations")

    def options(self) -> dict[str, Any]:
        """The kernel."""
        return {"kernel": self.kernel, "gamma": self.gamma}


class RandomCAM(_Registered):
    """Random weights: what a map that knows nothing looks like."""

    def rule(self) -> Method:
        """Weights from NumPy's global generator."""
        return rules.weights("random_cam", rules.random_weights, "activations")


class FEM(_Registered):
    """FEM (Fuad et al. 2020).

    Args:
        model: any module.
        target_layers: modules.
        reshape_transform: from what a layer returns to (N, C, *s).
        k: standard deviations above the mean.
        exact_peer: see ``DIFFERENCES``.
    """

    smooths = False

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Reshape = None,
        k: float = 2,
        *,
        exact_peer: bool = False,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform, exact_peer=exact_peer)
        self.k = k

    def rule(self) -> Method:
        """The share of every channel above the threshold."""
        return rules.a_map("fem", rules.fem, "activations")

    def options(self) -> dict[str, Any]:
        """The threshold."""
        return {"k": self.k}


class FullGrad(_Registered):
    """FullGrad (arXiv:1905.00780), every channel's share scaled to [0, 1]; target layers do not matter."""

    name = "full_grad"
    smooths = False

    def options(self) -> dict[str, Any]:
        """The tool's scaling."""
        return {"rescale": "channel", "eps": 1e-7}
