"""Captum: pixel attributions, and Grad-CAM at the size of the layer."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias
from unittest import mock

import torch
from captum import attr as captum
from torch import Tensor

from fastcam.bench.contest import Case, Contestant, Entrant, Setting, normalize
from fastcam.methods.baselines import normal_noise

Make: TypeAlias = Callable[[Setting], captum.Attribution]


def _attribution(make: Make, at: Setting, setting: str = "", **options: Any) -> Contestant:
    at = at.with_copy()
    attribution, targets = make(at), torch.tensor(at.targets, device=at.images.device)
    return Contestant(lambda: attribution.attribute(at.images, target=targets, **options).detach(), setting=setting)


def _enter(make: Make, **options: Any) -> Entrant:
    return lambda case, at: [_attribution(make, at, **options)]


def _grad_cam(_: Case, at: Setting) -> Sequence[Contestant]:
    if at.reshape is not None:
        raise ValueError("has no Grad-CAM of tokens")
    contestant = _attribution(lambda at: captum.LayerGradCam(at.model, at.module), at, relu_attributions=True)
    return [replace(contestant, finish=lambda maps: normalize(maps[:, 0], at.size))]


def _integrated_gradients(case: Case, at: Setting) -> Sequence[Contestant]:
    options = {"n_steps": case.options["steps"], "method": "gausslegendre"}
    return [
        _attribution(
            lambda at: captum.IntegratedGradients(at.model),
            at,
            f"{size} at a time",
            internal_batch_size=size,
            **options,
        )
        for size in (8, 16, 32)
    ]


def _smooth_grad(case: Case, at: Setting) -> Sequence[Contestant]:
    samples, level = case.options["samples"], case.options["level"]
    options = {
        "nt_samples": samples,
        "stdevs": level * (at.images.max() - at.images.min()).item(),  # exact for one image, approximate for several
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
            patch=partial(_same_noise, at, level),
        )
        for size in dict.fromkeys((max(1, samples // 5), samples))
    ]


@contextmanager
def _same_noise(at: Setting, level: float) -> Iterator[None]:
    """Make captum draw fastcam's noise; its own has one deviation for all images."""
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
    contestants = [
        _attribution(
            lambda at: captum.Occlusion(at.model), at, f"{count} at a time", perturbations_per_eval=count, **sizes
        )
        for count in (1, 16)
    ]
    return [
        replace(contestant, finish=lambda maps: maps[:, 0]) for contestant in contestants
    ]  # the same for every colour


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
