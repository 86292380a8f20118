"""torch-cam: maps at the size of the layer."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torchcam import methods as torchcam

from fastcam.bench.contest import Case, Contestant, Entrant, Setting, normalized


def _maps(at: Setting, call: Callable[[], Tensor], alike: Any = nullcontext) -> Sequence[Contestant]:
    return [Contestant(call, lambda maps: normalized(maps, at.size), alike)]


def _with_gradients(kind: type[Any]) -> Entrant:
    def enter(_: Case, at: Setting) -> Sequence[Contestant]:
        at = at.apart()

        def run() -> Tensor:
            with kind(at.model, at.layer, reshape_transform=at.reshape) as extractor:
                (maps,) = extractor(at.targets, at.model(at.images))
            return maps.detach()

        return _maps(at, run)

    return enter


def _without_gradients(
    kind: type[Any],
    alike: Callable[[], AbstractContextManager[Any]] = nullcontext,
    options: Callable[[Setting], dict[str, Any]] = lambda _: {},
) -> Entrant:
    def enter(_: Case, at: Setting) -> Sequence[Contestant]:
        at = at.apart()
        given = options(at)

        def run() -> Tensor:
            with kind(at.model, at.layer, reshape_transform=at.reshape, **given) as extractor, torch.no_grad():
                at.model(at.images)
                (maps,) = extractor(at.targets)
            return maps

        return _maps(at, run, alike)

    return enter


def _scaled_after_upsampling() -> AbstractContextManager[Any]:
    """It scales the masks of Score-CAM to [0, 1] before upsampling."""
    upsample = torchcam.ScoreCAM._upsample
    return mock.patch.object(torchcam.ScoreCAM, "_upsample", lambda cam, a: cam._normalize(upsample(cam, a), 2))


# Its Grad-CAM++ is another formula.
ENTRANTS: dict[str, Entrant] = {
    "cam": _without_gradients(torchcam.CAM, options=lambda at: {"fc_layer": at.head}),
    "grad_cam": _with_gradients(torchcam.GradCAM),
    "xgrad_cam": _with_gradients(torchcam.XGradCAM),
    "layer_cam": _with_gradients(torchcam.LayerCAM),
    "score_cam": _without_gradients(torchcam.ScoreCAM, _scaled_after_upsampling),
}
