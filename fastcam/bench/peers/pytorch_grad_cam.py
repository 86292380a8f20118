"""pytorch-grad-cam: maps at the size of the images."""

import contextlib
import io
from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import TypeAlias
from unittest import mock

import numpy as np
import pytorch_grad_cam
import torch
from pytorch_grad_cam import eigen_cam, eigen_grad_cam
from pytorch_grad_cam.ablation_layer import AblationLayer
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from fastcam.bench.contest import Case, Contestant, Entrant, Setting
from fastcam.explainer import Explainer

Patch: TypeAlias = Callable[[Setting], contextlib.AbstractContextManager[object]]


def _cam(
    kind: type[BaseCAM],
    patch: Patch = lambda _: contextlib.nullcontext(),
    make_options: Callable[[], dict[str, AblationLayer]] = dict,
) -> Entrant:
    def enter(_: Case, at: Setting) -> Sequence[Contestant]:
        at = at.with_copy()
        # FullGrad takes all convolutions and batch norms with a bias, whatever the layer.
        layers, reshape = ([], None) if kind is pytorch_grad_cam.FullGrad else ([at.module], at.reshape)
        cam = kind(at.model, layers, reshape_transform=reshape, **make_options())
        scored = [ClassifierOutputTarget(target) for target in at.targets]

        def run() -> Tensor:
            with contextlib.redirect_stderr(io.StringIO()):  # its progress bars
                return torch.from_numpy(cam(at.images, scored))

        return [Contestant(run, patch=partial(patch, at))]

    return enter


def _guided_backprop(_: Case, at: Setting) -> Sequence[Contestant]:
    """Every call gets a copy of the image, since the tool accumulates gradients in it."""
    if len(at.images) > 1:
        raise ValueError("takes one image at a time")
    at = at.with_copy()
    guided = pytorch_grad_cam.GuidedBackpropReLUModel(at.model)
    return [Contestant(lambda: torch.from_numpy(guided(at.images.clone(), at.targets[0])).movedim(2, 0)[None])]


def _corners_not_aligned(_: Setting) -> contextlib.AbstractContextManager[object]:
    """Make Score-CAM upsample its masks with ``align_corners=False`` instead of True."""
    return mock.patch.object(nn, "UpsamplingBilinear2d", lambda size: nn.Upsample(size, mode="bilinear"))


def _same_sign(module: ModuleType, method: str) -> Patch:
    """Give principal components, whose sign is arbitrary, the sign that they have in fastcam."""

    def patch(at: Setting) -> contextlib.AbstractContextManager[object]:
        explainer = Explainer(at.model, method, at.layer, reshape_transform=at.reshape)
        own, project = explainer(at.images, at.targets).native.cpu().numpy(), module.get_2d_projection

        def project_with_sign(samples: np.ndarray) -> np.ndarray:
            maps = project(samples)
            opposite = (maps * own).sum((1, 2), keepdims=True) < 0
            return maps * (1 - 2 * opposite)

        return mock.patch.object(module, "get_2d_projection", project_with_sign)

    return patch


ENTRANTS: dict[str, Entrant] = {
    "eigen_cam": _cam(pytorch_grad_cam.EigenCAM, _same_sign(eigen_cam, "eigen_cam")),
    "eigen_grad_cam": _cam(pytorch_grad_cam.EigenGradCAM, _same_sign(eigen_grad_cam, "eigen_grad_cam")),
    "grad_cam": _cam(pytorch_grad_cam.GradCAM),
    "grad_cam_pp": _cam(pytorch_grad_cam.GradCAMPlusPlus),
    "xgrad_cam": _cam(pytorch_grad_cam.XGradCAM),
    "hires_cam": _cam(pytorch_grad_cam.HiResCAM),
    "layer_cam": _cam(pytorch_grad_cam.LayerCAM),
    "grad_cam_elementwise": _cam(pytorch_grad_cam.GradCAMElementWise),
    "score_cam": _cam(pytorch_grad_cam.ScoreCAM, _corners_not_aligned),
    "ablation_cam": _cam(pytorch_grad_cam.AblationCAM, make_options=lambda: {"ablation_layer": AblationLayer()}),
    "guided_backprop": _guided_backprop,
    "full_grad": _cam(pytorch_grad_cam.FullGrad),
}
