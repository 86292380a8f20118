"""torch-cam: maps at the size of the layer."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias
from unittest import mock

import torch
from torch import Tensor
from torchcam import methods as torchcam

from fastcam.bench.contest import Case, Contestant, Entrant, Setting, normalize

Patch: TypeAlias = Callable[[], AbstractContextManager[object]]


def _contestants(at: Setting, call: Callable[[], Tensor], patch: Patch = nullcontext) -> Sequence[Contestant]:
    return [Contestant(call, lambda maps: normalize(maps, at.size), patch)]


def _with_gradients(kind: "type[torchcam.core._CAM]") -> Entrant:
    def enter(_: Case, at: Setting) -> Sequence[Contestant]:
        at = at.with_copy()

        def run() -> Tensor:
            with kind(at.model, at.layer, reshape_transform=at.reshape) as extractor:
                (maps,) = extractor(at.targets, at.model(at.images))
            return maps.detach()

        return _contestants(at, run)

    return enter


def _without_gradients(
    kind: "type[torchcam.core._CAM]",
    patch: Patch = nullcontext,
    options: Callable[[Setting], dict[str, Any]] = lambda _: {},
) -> Entrant:
    def enter(_: Case, at: Setting) -> Sequence[Contestant]:
        at = at.with_copy()
        extractor_options = options(at)

        def run() -> Tensor:
            with (
                kind(at.model, at.layer, reshape_transform=at.reshape, **extractor_options) as extractor,
                torch.no_grad(),
            ):
                at.model(at.images)
                (maps,) = extractor(at.targets)
            return maps

        return _contestants(at, run, patch)

    return enter


def _scaled_after_upsampling() -> AbstractContextManager[object]:
    """Make Score-CAM scale its masks to [0, 1] after upsampling instead of before."""
    upsample = torchcam.ScoreCAM._upsample
    return mock.patch.object(torchcam.ScoreCAM, "_upsample", lambda cam, a: cam._normalize(upsample(cam, a), 2))


# Grad-CAM++ is left out: torch-cam uses another formula.
ENTRANTS: dict[str, Entrant] = {
    "cam": _without_gradients(torchcam.CAM, options=lambda at: {"fc_layer": at.head}),
    "grad_cam": _with_gradients(torchcam.GradCAM),
    "xgrad_cam": _with_gradients(torchcam.XGradCAM),
    "layer_cam": _with_gradients(torchcam.LayerCAM),
    "score_cam": _without_gradients(torchcam.ScoreCAM, _scaled_after_upsampling),
}
