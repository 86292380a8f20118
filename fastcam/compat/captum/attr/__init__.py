"""The interface of ``captum.attr`` over this engine.

What is not in ``__all__``, DeepLift or the visualisation say, is Captum's own where that is installed.
"""

from typing import Any

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
from fastcam.compat.captum.attr._noise import GradientShap, InputBaselineXGradient, NoiseTunnel
from fastcam.compat.captum.attr._occlusion import Occlusion
from fastcam.compat.captum.attr._paths import IntegratedGradients, LayerIntegratedGradients
from fastcam.compat.captum.attr._pixels import (
    Deconvolution,
    GuidedBackprop,
    InputXGradient,
    ModifiedReluGradientAttribution,
    Saliency,
)
from fastcam.compat.imports import tools_own
from fastcam.compat.modules import passed_on

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


def __getattr__(name: str) -> Any:
    """What only Captum has: its own.

    Raises:
        AttributeError: where Captum is not installed, or has it not either.
    """
    return tools_own("captum.attr", name)


def _named(*classes: type) -> dict[str, Any]:
    return {each.__name__: each for each in classes}


passed_on(
    __name__,
    {
        "_core.feature_ablation": _named(FeatureAblation),
        "_core.gradient_shap": _named(GradientShap, InputBaselineXGradient),
        "_core.guided_backprop_deconvnet": _named(ModifiedReluGradientAttribution, Deconvolution, GuidedBackprop),
        "_core.guided_grad_cam": _named(GuidedGradCam),
        "_core.input_x_gradient": _named(InputXGradient),
        "_core.integrated_gradients": _named(IntegratedGradients),
        "_core.layer.grad_cam": _named(LayerGradCam),
        "_core.layer.layer_activation": _named(LayerActivation),
        "_core.layer.layer_gradient_x_activation": _named(LayerGradientXActivation),
        "_core.layer.layer_integrated_gradients": _named(LayerIntegratedGradients),
        "_core.noise_tunnel": _named(NoiseTunnel),
        "_core.occlusion": _named(Occlusion),
        "_core.saliency": _named(Saliency),
        "_utils.attribution": _named(
            Attribution, GradientAttribution, InternalAttribution, LayerAttribution, PerturbationAttribution
        ),
    },
)
