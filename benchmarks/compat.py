"""The classes of ``fastcam.compat`` beside the tools' own, the same calls: ``python -m benchmarks.compat``.

Every class makes its map, or its attributions, from its own constructor on, as people's loops do. Both sides are
compared before they are timed, and then called in turns.
"""

import argparse
import contextlib
import importlib
import inspect
import io
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from benchmarks.networks import network
from benchmarks.results_io import RESULTS, write
from fastcam.bench.contest import DEFAULT_TOLERANCE, EPSILON_TOLERANCE, KINK_TOLERANCE
from fastcam.bench.methods import largest_difference
from fastcam.bench.timing import Patience, Timing, interleave, time_call

SECONDS, ONCE = 6.0, 8.0  # of all rounds of a side; of a call from which it is timed once
SAMPLE = 0.5  # seconds of calls that make one sample
LAYER, CLASSES = "layer4", [7, 281]


@dataclass(frozen=True)
class Case:
    """A class and how it is called.

    Attributes:
        package: "pytorch_grad_cam", "torchcam" or "captum".
        name: of the class.
        call: from the package's module, the class and a setting to the maps.
        given: options of the class or of its call.
        size: of the images; smaller for what the tool takes minutes for.
        limit: to what share of the range both must agree.
    """

    package: str
    name: str
    call: Callable[..., Any]
    given: dict[str, Any] = field(default_factory=dict)
    size: int = 224
    limit: float = DEFAULT_TOLERANCE


def grad_cam(module: Any, name: str, model: nn.Module, images: Tensor, given: dict[str, Any]) -> Any:
    """A map of pytorch-grad-cam's manner."""
    targets = importlib.import_module(f"{module.__name__}.utils.model_targets")
    with getattr(module, name)(model=model, target_layers=[model.get_submodule(LAYER)], **given) as cam:
        return cam(input_tensor=images, targets=[targets.ClassifierOutputTarget(each) for each in CLASSES])


def guided(module: Any, name: str, model: nn.Module, images: Tensor, given: dict[str, Any]) -> Any:
    """Guided backpropagation of one image."""
    return getattr(module, name)(model=model, device="cpu")(images[:1], target_category=CLASSES[0])[None]


def torchcam(module: Any, name: str, model: nn.Module, images: Tensor, given: dict[str, Any]) -> Any:
    """A map of torch-cam's manner."""
    with getattr(module.methods, name)(model, LAYER, **given) as extractor:
        return extractor(CLASSES, model(images))[0]


def captum(module: Any, name: str, model: nn.Module, images: Tensor, given: dict[str, Any]) -> Any:
    """Attributions of Captum's manner."""
    attr = importlib.import_module(f"{module.__name__}.attr")
    kind = getattr(attr, name)
    made = kind(model, model.get_submodule(LAYER)) if name.startswith(("Layer", "GuidedGrad")) else kind(model)
    target = {} if name == "LayerActivation" else {"target": CLASSES}
    return made.attribute(images.clone(), **target, **given)


def noise(module: Any, name: str, model: nn.Module, images: Tensor, given: dict[str, Any]) -> Any:
    """SmoothGrad of Captum's manner."""
    attr = importlib.import_module(f"{module.__name__}.attr")
    return attr.NoiseTunnel(attr.Saliency(model)).attribute(images.clone(), target=CLASSES, **given)


def infidelity(module: Any, name: str, model: nn.Module, images: Tensor, given: dict[str, Any]) -> Any:
    """Captum's measure of attributions that are the image itself."""

    def moved(inputs: Tensor) -> tuple[Tensor, Tensor]:
        change = 0.1 * torch.randn(inputs.shape)
        return change, inputs - change

    metrics = importlib.import_module(f"{module.__name__}.metrics")
    return metrics.infidelity(model, moved, images, images, target=CLASSES, **given)[None]


_GRAD_CAM = partial(Case, "pytorch_grad_cam", call=grad_cam)
_TORCHCAM = partial(Case, "torchcam", call=torchcam)
_CAPTUM = partial(Case, "captum", call=captum)
_SEGMENTS = torch.arange(224)[:, None] // 32 * 7 + torch.arange(224) // 32  # 49 squares

CASES = [
    *(_GRAD_CAM(name) for name in ("GradCAM", "XGradCAM", "HiResCAM", "GradCAMElementWise", "LayerCAM", "RandomCAM")),
    *(_GRAD_CAM(name) for name in ("EigenCAM", "EigenGradCAM", "FEM", "SegEigenCAM", "FinerCAM")),
    _GRAD_CAM("GradCAMPlusPlus", limit=EPSILON_TOLERANCE),
    _GRAD_CAM("KPCA_CAM", limit=EPSILON_TOLERANCE),
    _GRAD_CAM("ShapleyCAM", limit=KINK_TOLERANCE),
    _GRAD_CAM("FullGrad", limit=KINK_TOLERANCE),
    _GRAD_CAM("ScoreCAM", limit=EPSILON_TOLERANCE),
    _GRAD_CAM("AblationCAM", limit=EPSILON_TOLERANCE),
    Case("pytorch_grad_cam", "GuidedBackpropReLUModel", guided, limit=EPSILON_TOLERANCE),
    _TORCHCAM("CAM", given={"fc_layer": "fc"}),
    *(_TORCHCAM(name) for name in ("GradCAM", "GradCAMpp", "XGradCAM", "LayerCAM", "FinerCAM")),
    _TORCHCAM("SmoothGradCAMpp", limit=KINK_TOLERANCE),
    _TORCHCAM("ScoreCAM", limit=EPSILON_TOLERANCE),
    _TORCHCAM("SSCAM", given={"num_samples": 2}, size=64, limit=EPSILON_TOLERANCE),
    _TORCHCAM("ISCAM", given={"num_samples": 2}, size=64, limit=EPSILON_TOLERANCE),
    *(_CAPTUM(name) for name in ("LayerGradCam", "LayerActivation", "LayerGradientXActivation")),
    *(_CAPTUM(name, limit=EPSILON_TOLERANCE) for name in ("Saliency", "InputXGradient")),
    *(_CAPTUM(name, limit=KINK_TOLERANCE) for name in ("GuidedBackprop", "Deconvolution", "GuidedGradCam")),
    _CAPTUM("IntegratedGradients", given={"n_steps": 20}, limit=KINK_TOLERANCE),
    _CAPTUM("LayerIntegratedGradients", given={"n_steps": 20}, limit=EPSILON_TOLERANCE),
    _CAPTUM("GradientShap", given={"baselines": torch.zeros(2, 3, 224, 224)}, limit=KINK_TOLERANCE),
    Case("captum", "NoiseTunnel", noise, {"nt_samples": 10, "stdevs": 0.1}, limit=KINK_TOLERANCE),
    _CAPTUM("Occlusion", given={"sliding_window_shapes": (3, 32, 32), "strides": (3, 16, 16)}),
    _CAPTUM("FeatureAblation", given={"feature_mask": _SEGMENTS}),
    Case("captum", "infidelity", infidelity, limit=EPSILON_TOLERANCE),
]


def measure(case: Case, patience: Patience) -> dict[str, Any]:
    """Times of both sides, and how far they agree."""
    model = _rectified(network("resnet18"))
    images = torch.randn(len(CLASSES), 3, case.size, case.size, generator=torch.Generator().manual_seed(0))
    modules = {
        "fastcam": importlib.import_module(f"fastcam.compat.{case.package}"),
        "peer": importlib.import_module(case.package),
    }
    exact = _exact(case, modules["fastcam"])
    checked = {}
    for side, module in modules.items():
        call = partial(case.call, module, case.name, model, images)
        with _seeded():
            seconds, found = time_call(partial(call, case.given | (exact if side == "fastcam" else {})))
        checked[side] = partial(_quietly, call, case.given), seconds, torch.as_tensor(found).detach()
    difference = largest_difference(checked["fastcam"][2].flatten(1), checked["peer"][2].flatten(1))
    turns = {side: patience.turns(seconds) for side, (_, seconds, _) in checked.items()}
    calls = {side: call for side, (call, _, _) in checked.items() if turns[side] > 1}
    once = {side: Timing(seconds, 0.0) for side, (_, seconds, _) in checked.items() if side not in calls}
    # A sample lasts a while: what runs first after the other side finds its threads spinning, and memory given back.
    timings = interleave(calls, {side: turns[side] for side in calls}, SAMPLE) | once
    return {
        "package": case.package,
        "class": case.name,
        "size": case.size,
        "batch": len(images),
        "milliseconds": timings["fastcam"].median * 1e3,
        "spread": timings["fastcam"].spread * 1e3,
        "peer_milliseconds": timings["peer"].median * 1e3,
        "peer_rounds": turns["peer"],
        "times_faster": timings["peer"].median / timings["fastcam"].median,
        "difference": difference,
        "agrees": difference <= case.limit,
    }


def _rectified(model: nn.Module) -> nn.Module:
    """The network with rectifiers that do not work in place, and each of its own: some of the tools need that."""
    for name, each in list(model.named_modules()):
        if isinstance(each, nn.ReLU):
            model.set_submodule(name, nn.ReLU())
    return model.eval()


def _exact(case: Case, module: Any) -> dict[str, Any]:
    """What makes our class agree where its own number is another."""
    if case.package == "captum":
        return {}
    holder = module.methods if case.package == "torchcam" else module
    taken = inspect.signature(getattr(holder, case.name)).parameters
    return {"exact_peer": True} if not {"exact_peer", "kwargs", "base_kwargs"}.isdisjoint(taken) else {}


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """From one state of the generators, without the tools' bars and warnings."""
    torch.manual_seed(0)
    np.random.seed(0)
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _quietly(call: Callable[..., Any], given: dict[str, Any]) -> None:
    with _seeded():
        call(given)


def exchanged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows in the file, those of the same class exchanged."""
    new = {(row["package"], row["class"]): row for row in rows}
    kept = json.loads((RESULTS / "compat.json").read_text())["rows"]
    return [new.pop((row["package"], row["class"]), row) for row in kept] + list(new.values())


def table(rows: list[dict[str, Any]]) -> Table:
    """Every class beside its peer."""
    found = Table("package", "class", title="Classes of fastcam.compat", caption="ResNet-18, two images")
    for name in ("ms", "+-", "the tool's ms", "times faster", "difference"):
        found.add_column(name, justify="right")
    for row in rows:
        once = "" if row["peer_rounds"] > 1 else " once"
        found.add_row(
            row["package"],
            row["class"] + (f", {row['size']} pixels" if row["size"] != 224 else ""),
            f"{row['milliseconds']:.0f}",
            f"{row['spread'] / 2:.0f}",
            f"{row['peer_milliseconds']:.0f}{once}",
            f"{row['times_faster']:.2f}",
            f"{row['difference']:.0e}" + ("" if row["agrees"] else " !"),
        )
    return found


def main() -> None:
    """Prints the table and keeps it as results/compat.json; with --only, in place of the rows that are there."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="of the fast ones; at least 2")
    parser.add_argument("--only", default="", help='cases with this in "package class"')
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    patience = Patience(SECONDS, arguments.rounds, once=ONCE)
    chosen = [case for case in CASES if arguments.only in f"{case.package} {case.name}"]
    console = Console(width=140)
    rows = []
    for case in track(chosen, console=console):
        rows.append(measure(case, patience))
    write("compat", exchanged(rows) if arguments.only else rows)
    console.print(table(rows))
    sys.exit(0 if all(row["agrees"] for row in rows) else 1)


if __name__ == "__main__":
    main()
