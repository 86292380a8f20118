"""Methods that try copies or go through the network, beside the peers: ``python -m benchmarks.methods``.

One case is one method on one model and batch: fastcam, the tools that have the method, and a bare forward pass, timed
in turns. All get the same eager float32 weights and images; every peer has a copy of the model to itself, since some
leave hooks, gradients or exchanged modules on it. What they return must agree before anything is timed. Where a tool
differs from fastcam in one step of the definition, that step is exchanged for the check (:func:`alike`), never for the
timing.
"""

import argparse
import contextlib
import copy
import functools
import io
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import torch
import torchvision
from captum import attr as captum
from pytorch_grad_cam import AblationCAM, FullGrad, GuidedBackpropReLUModel, ScoreCAM
from pytorch_grad_cam.ablation_layer import AblationLayer
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torchcam import methods as torchcam

import fastcam
from benchmarks.end_to_end import LOGIT_SCALE, bare_forward, normalized
from benchmarks.timing import RESULTS, Timing, interleave, write
from fastcam.methods.baselines import normal_noise

LIMIT = 1e-4  # of the range of a map
# A unit close to zero falls on either side of it as the rounding goes, and its whole share of the gradient comes or
# goes with it: among the many units of many copies, or of a deep network, there are some, and single pixels differ by
# more than rounding. In float64 Integrated Gradients and SmoothGrad differ by less than 1e-8, FullGrad by less than
# 1e-4.
KINKS = 2e-2
FEWEST = 3  # rounds at least
PATIENCE = 10.0  # seconds for all rounds of a contestant
ONCE = 30.0  # seconds of a call from which the one that is checked counts
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

    @property
    def size(self) -> tuple[int, int]:
        return self.images.shape[2], self.images.shape[3]

    def apart(self) -> "Setting":
        """The same with a copy of the model."""
        return replace(self, model=copy.deepcopy(self.model))


Peer = Callable[[Setting], Call]


@dataclass(frozen=True)
class Case:
    """A method, its options, and the peers that have it.

    Attributes:
        method: registry name.
        peers: by the tool's name; for one that can be set, a dict of its settings, of which the fastest takes part.
        options: of the method.
        label: the options in words.
        limit: largest difference of a peer from fastcam, as a share of the range.
        scale: of the logits; large ones make the peers' epsilons vanish.
        note: why a peer is missing.
    """

    method: str
    peers: dict[str, Peer | dict[str, Peer]] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    label: str = ""
    limit: float = LIMIT
    scale: float = LOGIT_SCALE
    note: str = ""


@functools.cache
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
        return explanation.native if case.method == "occlusion" else explanation.maps  # occlusion is signed

    return run


def with_pytorch_grad_cam(kind: type, make: Callable[[], dict[str, Any]] = dict) -> Peer:
    def peer(at: Setting) -> Call:
        at = at.apart()
        cam = kind(at.model, [] if kind is FullGrad else [at.module], **make())
        scored = [ClassifierOutputTarget(target) for target in at.targets]

        def run() -> Tensor:
            with quiet():
                return torch.from_numpy(cam(at.images, scored))

        return run

    return peer


def guided_with_pytorch_grad_cam(at: Setting) -> Call:
    """It takes one image, and adds up gradients in an image that it has seen before."""
    at = at.apart()
    guided = GuidedBackpropReLUModel(at.model)
    return lambda: torch.from_numpy(guided(at.images.clone(), at.targets[0])).movedim(2, 0)[None]


def score_cam_with_torchcam(at: Setting) -> Call:
    at = at.apart()

    def run() -> Tensor:
        with torchcam.ScoreCAM(at.model, at.layer) as extractor, torch.no_grad():
            at.model(at.images)
            return extractor(at.targets)[0]

    run.finish = lambda maps: normalized(maps, at.size)  # type: ignore[attr-defined]
    return run


def with_captum(make: Callable[[Setting], Any], **options: Any) -> Peer:
    def peer(at: Setting) -> Call:
        at = at.apart()
        attribution, targets = make(at), torch.tensor(at.targets)
        return lambda: attribution.attribute(at.images, target=targets, **options).detach()

    return peer


def integrated_gradients_with_captum(steps: int) -> dict[str, Peer]:
    def make(at: Setting) -> Any:
        return captum.IntegratedGradients(at.model)

    fixed = {"n_steps": steps, "method": "gausslegendre"}
    return {f"{size} at a time": with_captum(make, internal_batch_size=size, **fixed) for size in (8, 16, 32)}


def smooth_grad_with_captum(samples: int, batches: tuple[int, ...], level: float = 0.15) -> dict[str, Peer]:
    def peer(at: Setting, size: int) -> Call:
        at = at.apart()
        tunnel, targets = captum.NoiseTunnel(captum.Saliency(at.model)), torch.tensor(at.targets)
        deviation = level * (at.images.max() - at.images.min()).item()  # of one image or, nearly, of all
        options = {"nt_samples": samples, "nt_samples_batch_size": size, "stdevs": deviation, "abs": False}
        return lambda: tunnel.attribute(at.images, target=targets, **options).detach()

    return {f"{size} samples at a time": functools.partial(peer, size=size) for size in batches}


def occlusion_with_captum(window: int, stride: int, at_once: int) -> Peer:
    sizes = {"sliding_window_shapes": (3, window, window), "strides": (3, stride, stride)}

    def peer(at: Setting) -> Call:
        run = with_captum(lambda at: captum.Occlusion(at.model), **sizes, perturbations_per_eval=at_once)(at)
        return lambda: run()[:, 0]  # the same for every colour

    return peer


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield


CAPTUM_SALIENCY = with_captum(lambda at: captum.Saliency(at.model), abs=False)
CAPTUM_GUIDED = with_captum(lambda at: captum.GuidedBackprop(at.model))
CAPTUM_GUIDED_GRAD_CAM = with_captum(lambda at: captum.GuidedGradCam(at.model, at.module), interpolate_mode="bilinear")
ABLATION = with_pytorch_grad_cam(AblationCAM, lambda: {"ablation_layer": AblationLayer()})

# Model, layer, batch, cases.
CASES: list[tuple[str, str, int, list[Case]]] = [
    (
        "resnet18",
        "layer4",
        1,
        [
            Case("saliency", {"captum": CAPTUM_SALIENCY}),
            Case("guided_backprop", {"captum": CAPTUM_GUIDED, "pytorch-grad-cam": guided_with_pytorch_grad_cam}),
            Case("guided_grad_cam", {"captum": CAPTUM_GUIDED_GRAD_CAM}),
            Case("full_grad", {"pytorch-grad-cam": with_pytorch_grad_cam(FullGrad)}, {"rescale": "channel"}),
            Case(
                "integrated_gradients",
                {"captum": integrated_gradients_with_captum(50)},
                {"steps": 50},
                "50 steps",
                KINKS,
            ),
            Case(
                "smooth_grad",
                {"captum": smooth_grad_with_captum(25, (5, 25))},
                {"samples": 25, "level": 0.15},
                "25 samples",
                KINKS,
            ),
            Case(
                "occlusion",
                {"captum": {f"{size} at a time": occlusion_with_captum(32, 16, size) for size in (1, 16)}},
                {"window": 32, "stride": 16},
                "window 32, stride 16",
            ),
            Case("rise", {}, {"masks": 400}, "400 masks", note="no tool beside it"),
            Case("ablation_cam", {"pytorch-grad-cam": ABLATION}, label="linear head"),
            Case(
                "score_cam",
                {"pytorch-grad-cam": with_pytorch_grad_cam(ScoreCAM), "torch-cam": score_cam_with_torchcam},
                label="512 channels",
                scale=10,  # the softmax over the channels' scores leaves several channels, not one
            ),
        ],
    ),
    ("vgg16", "features.29", 1, [Case("ablation_cam", {"pytorch-grad-cam": ABLATION}, label="512 channels")]),
    (
        "resnet50",
        "layer4",
        8,
        [
            Case("saliency", {"captum": CAPTUM_SALIENCY}),
            Case("guided_backprop", {"captum": CAPTUM_GUIDED}),
            Case("guided_grad_cam", {"captum": CAPTUM_GUIDED_GRAD_CAM}),
            Case(
                "full_grad", {"pytorch-grad-cam": with_pytorch_grad_cam(FullGrad)}, {"rescale": "channel"}, limit=KINKS
            ),
            Case(
                "integrated_gradients",
                {"captum": integrated_gradients_with_captum(10)},
                {"steps": 10},
                "10 steps",
                KINKS,
            ),
            Case(
                "smooth_grad",
                {"captum": smooth_grad_with_captum(5, (1, 5))},
                {"samples": 5, "level": 0.15},
                "5 samples",
                KINKS,
            ),
            Case("ablation_cam", label="linear head", note="16384 forward passes for pytorch-grad-cam: minutes"),
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


@contextlib.contextmanager
def alike(case: Case, at: Setting) -> Iterator[None]:
    """For the check: the steps in which the tools differ, done in fastcam's way.

    - The masks of pytorch-grad-cam's Score-CAM have their corners on the image's corners.
    - torch-cam scales them to [0, 1] before upsampling, not after.
    - Captum draws other noise, with one deviation for all images.
    """
    upsample, drawn = torchcam.ScoreCAM._upsample, 0
    deviation = case.options.get("level", 0) * (at.images.amax((1, 2, 3)) - at.images.amin((1, 2, 3)))

    def noise(_: float, deviations: Tensor) -> Tensor:
        nonlocal drawn
        count = len(deviations) // len(at.images)
        samples = torch.stack([normal_noise(at.images, drawn + index) for index in range(count)])
        drawn += count
        return (deviation.reshape(-1, 1, 1, 1, 1) * samples).flatten(0, 1)

    with (
        mock.patch.object(nn, "UpsamplingBilinear2d", lambda size: nn.Upsample(size, mode="bilinear")),
        mock.patch.object(torchcam.ScoreCAM, "_upsample", lambda cam, a: cam._normalize(upsample(cam, a), 2)),
        mock.patch.object(torch, "normal", noise),
    ):
        yield


def timed(call: Call) -> tuple[float, Tensor]:
    start = time.perf_counter()
    found = call()
    return time.perf_counter() - start, found


def chosen(peer: Peer | dict[str, Peer], at: Setting) -> tuple[str, Call]:
    """A peer's fastest setting in words, and the peer with it."""
    if not isinstance(peer, dict):
        return "", peer(at)
    calls = {words: each(at) for words, each in peer.items()}
    next(iter(calls.values()))()  # the first call of all is slower
    best = min(calls, key=lambda words: timed(calls[words])[0])
    return best, calls[best]


def measure(case: Case, at: Setting, rounds: int) -> list[dict[str, Any]]:
    """Agreement first, then everybody in turns, the slow less often.

    Raises:
        AssertionError: where a peer differs from fastcam by more than it may.
    """
    calls: dict[str, Call] = {"forward": bare_forward(at.model, at.images), "fastcam": with_fastcam(case, at)}
    words = {}
    for name, peer in case.peers.items():
        words[name], calls[name] = chosen(peer, at)
    seconds: dict[str, float] = {}
    differences: dict[str, float] = {}
    for name, call in calls.items():
        with alike(case, at):
            seconds[name], found = timed(call)
        if name == "fastcam":
            own = found
        elif name != "forward":
            differences[name] = difference(own, getattr(call, "finish", lambda maps: maps)(found))
            if not differences[name] <= case.limit:
                raise AssertionError(
                    f"{name}'s {case.method} differs from fastcam's by {differences[name]:.1e} of the range, "
                    f"more than {case.limit:.0e}"
                )
    once = {name: Timing(took, 0.0) for name, took in seconds.items() if took > ONCE}
    turns = {name: min(rounds, max(FEWEST, int(PATIENCE / took))) for name, took in seconds.items() if name not in once}
    timings = interleave({name: calls[name] for name in turns}, turns, warm=True) | once
    forward = timings.pop("forward").median
    return [
        {
            "model": at.name,
            "batch": len(at.images),
            "method": case.method,
            "case": case.label,
            "tool": tool,
            "setting": words.get(tool, ""),
            "milliseconds": timing.median * 1e3,
            "spread": timing.spread * 1e3,
            "forward_milliseconds": forward * 1e3,
            "times_forward": timing.median / forward,
            "difference": differences.get(tool),
            "rounds": turns.get(tool, 1),
            "note": case.note,
        }
        for tool, timing in timings.items()
    ]


def shown(rows: list[dict[str, Any]], title: str) -> Table:
    table = Table("method", "tool", "median", "spread", "x forward", "rounds", "largest difference", title=title)
    for row in rows:
        own = row["tool"] == "fastcam"
        table.add_row(
            f"{row['method']}{', ' * bool(row['case'])}{row['case']}" if own else "",
            f"{row['tool']}{', ' * bool(row['setting'])}{row['setting']}",
            f"{row['milliseconds']:.1f} ms",
            f"{row['spread']:.1f} ms" if row["rounds"] > 1 else "",
            f"{row['times_forward']:.2f}",
            str(row["rounds"]),
            f"({row['note']})" if own and row["note"] else "" if own else f"{row['difference']:.1e}",
        )
    return table


def exchanged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows in the file, those of the same model and method exchanged."""
    kept = json.loads((RESULTS / "methods.json").read_text())["rows"]
    keys = [(row["model"], row["method"]) for row in kept]
    for key in dict.fromkeys((row["model"], row["method"]) for row in rows):
        new = [row for row in rows if (row["model"], row["method"]) == key]
        first = keys.index(key) if key in keys else len(kept)
        kept = (
            [row for row in kept[:first] if (row["model"], row["method"]) != key]
            + new
            + [row for row in kept[first:] if (row["model"], row["method"]) != key]
        )
        keys = [(row["model"], row["method"]) for row in kept]
    return kept


def main() -> None:
    """Prints the tables and keeps them as results/methods.json; with --only, in place of the rows that are there."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="of the fast ones; at least 2")
    parser.add_argument("--only", default="", help='cases with this in "model method"')
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    console = Console(width=140)
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
    if arguments.only:
        write("methods", exchanged(rows))
    for line in failed:
        console.print(f"not timed: {line}", markup=False, highlight=False, soft_wrap=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
