"""Methods that try copies of the image or go through the network, beside the peers: ``python -m benchmarks.methods``.

One line is one method on one model and batch: fastcam, the tools that have it, and a bare forward pass, timed in turns.
All get the same eager float32 model and images. Maps or attributions must agree before anything is timed, except
where the tools define the method differently, as the cases say. Peers that put hooks on the model are built anew for
every call: hooks left behind would run in the others' time.
"""

import argparse
import contextlib
import io
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
import torchvision
from captum import attr as captum
from pytorch_grad_cam import AblationCAM, FullGrad, ScoreCAM
from pytorch_grad_cam.ablation_layer import AblationLayer
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torchcam import methods as torchcam

import fastcam
from benchmarks.end_to_end import LOGIT_SCALE, bare_forward
from benchmarks.timing import Timing, interleave, write

LIMIT = 1e-4  # of the range of a map
KINKS = 1e-3  # along a path, float32 decides differently on which side of zero a ReLU stands
SLOW_ROUNDS = 3
Call = Callable[[], Tensor]


@dataclass(frozen=True)
class Setting:
    """A model, its layer and its images; the classes have positive scores, so that no map is all zeros."""

    name: str
    model: nn.Module
    layer: str
    images: Tensor
    targets: list[int]

    @property
    def module(self) -> nn.Module:
        return self.model.get_submodule(self.layer)


Peer = Callable[[Setting], Call]


@dataclass(frozen=True)
class Case:
    """A method, its options, and the peers that have it.

    Attributes:
        limit: largest difference from fastcam, as a share of the range; of a peer missing in ``limits`` :data:`LIMIT`,
            and None for peers that cannot agree.
        slow: few rounds.
        once: peers so slow that the call that checks them is also the one timed.
        scale: of the logits.
    """

    method: str
    peers: dict[str, Peer] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, float | None] = field(default_factory=dict)
    slow: bool = False
    once: tuple[str, ...] = ()
    scale: float = LOGIT_SCALE


def setting(name: str, layer: str, batch: int, scale: float) -> Setting:
    """Random weights; also random biases and means of batch norm, which begin as zeros and tell FullGrad nothing."""
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(weights=None).eval()
    images = torch.randn(batch, 3, 224, 224)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.bias.normal_(0, 0.1)
                module.running_mean.normal_(0, 0.1)
        head = model.fc if hasattr(model, "fc") else model.classifier[-1]
        for parameter in head.parameters():
            parameter.mul_(scale)
        targets = model(images).argmax(1).tolist()
    return Setting(name, model, layer, images, targets)


def with_fastcam(case: Case, at: Setting) -> Call:
    explainer = fastcam.Explainer(at.model, case.method, at.layer, **case.options)

    def run() -> Tensor:
        explanation = explainer(at.images, at.targets)
        if explanation.attributions is not None:
            return explanation.attributions
        return explanation.native if case.method == "occlusion" else explanation.maps

    return run


def with_pytorch_grad_cam(kind: type, make: Callable[[], dict[str, Any]] = dict) -> Peer:
    def peer(at: Setting) -> Call:
        scored = [ClassifierOutputTarget(target) for target in at.targets]

        def run() -> Tensor:
            layers = [] if kind is FullGrad else [at.module]
            with quiet(), kind(at.model, layers, **make()) as cam:
                return torch.from_numpy(cam(at.images, scored))

        return run

    return peer


def with_torchcam(at: Setting) -> Call:
    def run() -> Tensor:
        with torchcam.ScoreCAM(at.model, at.layer) as extractor, torch.no_grad():
            at.model(at.images)
            return extractor(at.targets)[0]

    return run


def with_captum(make: Callable[[Setting], Any], **options: Any) -> Peer:
    def peer(at: Setting) -> Call:
        attribution, targets = make(at), torch.tensor(at.targets)
        return lambda: attribution.attribute(at.images, target=targets, **options).detach()

    return peer


def occlusion_with_captum(at: Setting) -> Call:
    windows = {"sliding_window_shapes": (3, 32, 32), "strides": (3, 16, 16), "perturbations_per_eval": 16}
    run = with_captum(lambda at: captum.Occlusion(at.model), **windows)(at)
    return lambda: run()[:, 0]  # the same for every colour


def smooth_grad_with_captum(samples: int, at_once: int, level: float = 0.15) -> Peer:
    def peer(at: Setting) -> Call:
        tunnel, targets = captum.NoiseTunnel(captum.Saliency(at.model)), torch.tensor(at.targets)
        deviation = level * (at.images.max() - at.images.min()).item()  # of one image or, nearly, of all
        options = {"nt_samples": samples, "nt_samples_batch_size": at_once, "stdevs": deviation, "abs": False}
        return lambda: tunnel.attribute(at.images, target=targets, **options).detach()

    return peer


def integrated_gradients_with_captum(steps: int) -> Peer:
    options = {"n_steps": steps, "method": "gausslegendre", "internal_batch_size": 16}
    return with_captum(lambda at: captum.IntegratedGradients(at.model), **options)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield


ablation = with_pytorch_grad_cam(AblationCAM, lambda: {"ablation_layer": AblationLayer()})
through_the_network = [
    Case("saliency", {"captum": with_captum(lambda at: captum.Saliency(at.model), abs=False)}),
    Case("guided_backprop", {"captum": with_captum(lambda at: captum.GuidedBackprop(at.model))}),
    Case(
        "guided_grad_cam",
        {"captum": with_captum(lambda at: captum.GuidedGradCam(at.model, at.module), interpolate_mode="bilinear")},
    ),
    Case("full_grad", {"pytorch-grad-cam": with_pytorch_grad_cam(FullGrad)}, {"rescale": "channel"}),
]

CASES: list[tuple[str, str, int, list[Case]]] = [
    (
        "resnet18",
        "layer4",
        1,
        [
            *through_the_network,
            Case(
                "integrated_gradients",
                {"captum": integrated_gradients_with_captum(50)},
                {"steps": 50},
                {"captum": KINKS},
            ),
            Case(
                "smooth_grad",
                {"captum": smooth_grad_with_captum(25, 5)},
                {"samples": 25, "level": 0.15},
                {"captum": None},  # draws other noise
            ),
            Case("occlusion", {"captum": occlusion_with_captum}, {"window": 32, "stride": 16}),
            Case("rise", {}, {"masks": 100}),
            Case("ablation_cam", {"pytorch-grad-cam": ablation}, slow=True),
            Case(
                "score_cam",
                {"pytorch-grad-cam": with_pytorch_grad_cam(ScoreCAM), "torch-cam": with_torchcam},
                {},
                {"torch-cam": None},  # scales every channel to [0, 1] before upsampling, not after
                slow=True,
                scale=10,  # the softmax over the channels leaves several, and rounding does not decide which
            ),
        ],
    ),
    (
        "vgg16",
        "features.29",
        1,
        [Case("ablation_cam", {"pytorch-grad-cam": ablation}, slow=True, once=("pytorch-grad-cam",))],
    ),
    (
        "resnet50",
        "layer4",
        8,
        [
            *through_the_network,
            Case(
                "integrated_gradients",
                {"captum": integrated_gradients_with_captum(10)},
                {"steps": 10},
                {"captum": KINKS},
                slow=True,
            ),
            Case(
                "smooth_grad",
                {"captum": smooth_grad_with_captum(5, 2)},
                {"samples": 5, "level": 0.15},
                {"captum": None},
                slow=True,
            ),
            Case("ablation_cam"),  # 16384 forward passes for pytorch-grad-cam
        ],
    ),
]


def difference(found: Tensor, peer: Tensor) -> float:
    """The largest, as a share of the range, image by image."""
    found, peer = found.double().flatten(1), peer.double().flatten(1)
    low, high = found.aminmax(dim=1)
    if not (high > low).all():
        raise AssertionError("a map without a range shows nothing")
    return ((found - peer).abs().amax(1) / (high - low)).max().item()


def same_upsampling() -> contextlib.AbstractContextManager[Any]:
    """For the check only: pytorch-grad-cam's ScoreCAM puts the corners of the masks on those of the image."""
    wanted = {"mode": "bilinear", "align_corners": False}
    return mock.patch.object(nn, "UpsamplingBilinear2d", lambda size: nn.Upsample(size, **wanted))


def checked(case: Case, calls: dict[str, Call]) -> tuple[dict[str, float | None], dict[str, Timing]]:
    """Each peer's largest difference from fastcam, and the time of those that are timed once.

    Raises:
        AssertionError: where a difference is larger than it may be.
    """
    own = calls["fastcam"]()
    differences: dict[str, float | None] = {}
    timings = {}
    for name in case.peers:
        limit = case.limits.get(name, LIMIT)
        differences[name] = None
        if limit is None:
            continue
        start = time.perf_counter()
        with same_upsampling():
            maps = calls[name]()
        timings[name] = Timing(time.perf_counter() - start, 0.0)
        differences[name] = found = difference(own, maps)
        if not found <= limit:
            raise AssertionError(f"{name}'s {case.method} differs from fastcam's by {found:.1e}, more than {limit:.0e}")
    return differences, {name: timings[name] for name in case.once}


def measure(case: Case, at: Setting, rounds: int) -> list[dict[str, Any]]:
    calls: dict[str, Call] = {"fastcam": with_fastcam(case, at)}
    calls |= {name: peer(at) for name, peer in case.peers.items()}
    differences, once = checked(case, calls)
    at.model.zero_grad(set_to_none=True)
    timed = {name: call for name, call in calls.items() if name not in once}
    few = min(rounds, SLOW_ROUNDS) if case.slow else rounds
    timings = interleave({"forward": bare_forward(at.model, at.images), **timed}, few) | once
    forward = timings.pop("forward").median
    return [
        {
            "model": at.name,
            "batch": len(at.images),
            "method": case.method,
            "options": case.options,
            "tool": tool,
            "milliseconds": timing.median * 1e3,
            "spread": timing.spread * 1e3,
            "forward_milliseconds": forward * 1e3,
            "times_forward": timing.median / forward,
            "difference": differences.get(tool),
            "rounds": 1 if tool in once else few,
        }
        for tool, timing in timings.items()
    ]


def shown(rows: list[dict[str, Any]], title: str) -> Table:
    table = Table("method", "tool", "median", "spread", "x forward", "largest difference", title=title)
    for row in rows:
        table.add_row(
            row["method"],
            row["tool"],
            f"{row['milliseconds']:.1f} ms",
            "once" if row["rounds"] == 1 else f"{row['spread']:.1f} ms",
            f"{row['times_forward']:.2f}",
            "" if row["difference"] is None else f"{row['difference']:.1e}",
        )
    return table


def main() -> None:
    """Prints the tables and, without --only, keeps them as results/methods.json."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="at least 2")
    parser.add_argument("--only", default="", help='a part of "model method"')
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    console = Console(width=120)
    rows: list[dict[str, Any]] = []
    failed = []
    for name, layer, batch, cases in CASES:
        found: list[dict[str, Any]] = []
        for case in cases:
            if arguments.only not in f"{name} {case.method}":
                continue
            try:
                found += measure(case, setting(name, layer, batch, case.scale), arguments.rounds)
            except (AssertionError, RuntimeError) as error:  # the others still count
                failed.append(f"{name} {case.method}: {error}")
            if not arguments.only:
                write("methods", rows + found)  # after every case: the whole takes minutes
        if found:
            console.print(shown(found, f"{name}, batch {batch}"))
        rows += found
    for line in failed:
        console.print(f"not timed: {line}", markup=False, highlight=False, soft_wrap=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
