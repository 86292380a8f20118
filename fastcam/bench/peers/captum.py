"""Captum: attributions of the pixels, and Grad-CAM at the size of the layer."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

import torch
from captum import attr as captum
from torch import Tensor

from fastcam.bench.contest import Case, Contestant, Entrant, Setting, normalized
from fastcam.methods.baselines import normal_noise


def _attribution(make: Callable[[Setting], Any], at: Setting, setting: str = "", **options: Any) -> Contestant:
    at = at.apart()
    attribution, targets = make(at), torch.tensor(at.targets, device=at.images.device)
    return Contestant(lambda: attribution.attribute(at.images, target=targets, **options).detach(), setting=setting)


def _enter(make: Callable[[Setting], Any], **options: Any) -> Entrant:
    return lambda case, at: [_attribution(make, at, **options)]


def _grad_cam(_: Case, at: Setting) -> Sequence[Contestant]:
    if at.reshape is not None:
        raise ValueError("has no Grad-CAM of tokens")
    found = _attribution(lambda at: captum.LayerGradCam(at.model, at.module), at, relu_attributions=True)
    return [replace(found, finish=lambda maps: normalized(maps[:, 0], at.size))]


def _integrated_gradients(case: Case, at: Setting) -> Sequence[Contestant]:
    fixed = {"n_steps": case.options["steps"], "method": "gausslegendre"}
    return [
        _attribution(
            lambda at: captum.IntegratedGradients(at.model),
            at,
            f"{size} at a time",
            internal_batch_size=size,
            **fixed,
        )
        for size in (8, 16, 32)
    ]


def _smooth_grad(case: Case, at: Setting) -> Sequence[Contestant]:
    samples, level = case.options["samples"], case.options["level"]
    options = {
        "nt_samples": samples,
        "stdevs": level * (at.images.max() - at.images.min()).item(),  # of one image or, nearly, of all
        "abs": False,
    }
    return [
        replace(
            _attribution(
                lambda at: captum.NoiseTunnel(captum.Saliency(at.model)),
                at,
                f"{size} at a time",
                nt_samples_batch_size=size,
                **options,
            ),
            alike=partial(_same_noise, at, level),
        )
        for size in dict.fromkeys((max(1, samples // 5), samples))
    ]


@contextmanager
def _same_noise(at: Setting, level: float) -> Iterator[None]:
    """It draws other noise, with one deviation for all images."""
    deviation = level * (at.images.amax((1, 2, 3)) - at.images.amin((1, 2, 3)))
    drawn = 0

    def noise(_: float, deviations: Tensor) -> Tensor:
        nonlocal drawn
        count = len(deviations) // len(at.images)
        samples = torch.stack([normal_noise(at.images, drawn + index) for index in range(count)])
        drawn += count
        return (deviation.reshape(-1, 1, 1, 1, 1) * samples).flatten(0, 1)

    with mock.patch.object(torch, "normal", noise):
        yield


def _occlusion(case: Case, at: Setting) -> Sequence[Contestant]:
    channels, window, stride = at.images.shape[1], case.options["window"], case.options["stride"]
    sizes = {"sliding_window_shapes": (channels, window, window), "strides": (channels, stride, stride)}
    found = [
        _attribution(
            lambda at: captum.Occlusion(at.model), at, f"{count} at a time", perturbations_per_eval=count, **sizes
        )
        for count in (1, 16)
    ]
    return [replace(each, finish=lambda found: found[:, 0]) for each in found]  # the same for every colour


ENTRANTS: dict[str, Entrant] = {
    "grad_cam": _grad_cam,
    "saliency": _enter(lambda at: captum.Saliency(at.model), abs=False),
    "input_x_gradient": _enter(lambda at: captum.InputXGradient(at.model)),
    "deconvnet": _enter(lambda at: captum.Deconvolution(at.model)),
    "guided_backprop": _enter(lambda at: captum.GuidedBackprop(at.model)),
    "guided_grad_cam": _enter(lambda at: captum.GuidedGradCam(at.model, at.module), interpolate_mode="bilinear"),
    "integrated_gradients": _integrated_gradients,
    "smooth_grad": _smooth_grad,
    "occlusion": _occlusion,
}
