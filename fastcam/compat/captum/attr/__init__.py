"""The interface of ``captum.attr`` over this engine.

Other names, such as DeepLift or the visualisation, come from Captum where it is installed, also in a star import.
"""

from fastcam.compat.captum.attr._ablation import FeatureAblation
from fastcam.compat.captum.attr._bases import (
    Attribution,
    GradientAttribution,
    InternalAttribution,
    LayerAttribution,
    PerturbationAttribution,
)
from fastcam.compat.captum.attr._layers import (
    GuidedGradCam,
    LayerActivation,
    LayerGradCam,
    LayerGradientXActivation,
)
from fastcam.compat.captum.attr._noise import GradientShap, NoiseTunnel
from fastcam.compat.captum.attr._occlusion import Occlusion
from fastcam.compat.captum.attr._paths import InputBaselineXGradient, IntegratedGradients, LayerIntegratedGradients
from fastcam.compat.captum.attr._pixels import (
    Deconvolution,
    GuidedBackprop,
    InputXGradient,
    ModifiedReluGradientAttribution,
    Saliency,
)
from fastcam.compat.captum.fallback import passed_on_before_captum
from fastcam.compat.captum.relations import relate_when_imported

__all__ = [
    "Attribution",
    "Deconvolution",
    "FeatureAblation",
    "GradientAttribution",
    "GradientShap",
    "GuidedBackprop",
    "GuidedGradCam",
    "InputXGradient",
    "IntegratedGradients",
    "LayerActivation",
    "LayerAttribution",
    "LayerGradCam",
    "LayerGradientXActivation",
    "LayerIntegratedGradients",
    "NoiseTunnel",
    "Occlusion",
    "PerturbationAttribution",
    "Saliency",
]


def _by_name(*classes: type) -> dict[str, type]:
    return {kind.__name__: kind for kind in classes}


passed_on_before_captum(
    __name__,
    {
        "_core.feature_ablation": _by_name(FeatureAblation),
        "_core.gradient_shap": _by_name(GradientShap, InputBaselineXGradient),
        "_core.guided_backprop_deconvnet": _by_name(ModifiedReluGradientAttribution, Deconvolution, GuidedBackprop),
        "_core.guided_grad_cam": _by_name(GuidedGradCam),
        "_core.input_x_gradient": _by_name(InputXGradient),
        "_core.integrated_gradients": _by_name(IntegratedGradients),
        "_core.layer.grad_cam": _by_name(LayerGradCam),
        "_core.layer.layer_activation": _by_name(LayerActivation),
        "_core.layer.layer_gradient_x_activation": _by_name(LayerGradientXActivation),
        "_core.layer.layer_integrated_gradients": _by_name(LayerIntegratedGradients),
        "_core.noise_tunnel": _by_name(NoiseTunnel),
        "_core.occlusion": _by_name(Occlusion),
        "_core.saliency": _by_name(Saliency),
        "_utils.attribution": _by_name(
            Attribution, GradientAttribution, InternalAttribution, LayerAttribution, PerturbationAttribution
        ),
    },
)

relate_when_imported()
