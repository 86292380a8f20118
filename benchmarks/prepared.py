"""Prepared models beside the untouched one and the peers: ``python -m benchmarks.prepared``.

Grad-CAM by fastcam on the model as it is, prepared in float32 and in bfloat16, each compiled too; by the peers; and the
bare forward pass of every one of these models, all in turns in one process. Before anything is timed the maps must
agree: in float32 to 1e-4 of their range; in bfloat16 by Spearman's correlation of real maps, that of a classifier with
real weights on photographs, for the same class. The architectures have random weights, on which a correlation would say
little; the photographs are explained by EfficientNet-Lite0.
"""

import argparse
import json
import math
import statistics
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import fastcam
from benchmarks import methods
from benchmarks.networks import network
from benchmarks.results_io import RESULTS, write
from fastcam.bench.contest import KINK_TOLERANCE, Case, Contestant, Entrant, Setting, bare_forward, explain_with_fastcam
from fastcam.bench.methods import largest_difference
from fastcam.bench.methods import measure as measure_case
from fastcam.bench.peers import installed
from fastcam.bench.timing import Patience, interleave
from fastcam.cli import demo
from fastcam.preparation.agreement import spearman

LIMIT, RANK = 1e-4, 0.99
PATIENCE = 10.0  # seconds for all rounds of a contestant
ANY = 2.0  # the maps of random weights are compared in float32 alone
TOGETHER = ["grad_cam", "grad_cam_pp", "xgrad_cam", "hires_cam", "layer_cam", "eigen_cam", "cam"]
Reshape = Callable[[Tensor], Tensor] | None


@dataclass(frozen=True)
class Architecture:
    """What is explained of which network.

    Attributes:
        name: of the network in torchvision.
        layer: the target layer.
        batch: how many images at a time.
        is_pooled: whether average pooling and one linear layer follow it, so that all classes have a closed form.
        reshape: to the layer's shape, where that is tokens.
    """

    name: str
    layer: str
    batch: int
    is_pooled: bool = False
    reshape: Reshape = None


ARCHITECTURES = [
    Architecture("resnet18", "layer4", 1, is_pooled=True),
    Architecture("resnet18", "layer4", 8, is_pooled=True),
    Architecture("resnet50", "layer4", 8, is_pooled=True),
    Architecture("vgg16", "features.29", 4),
    Architecture("efficientnet_b0", "features", 8, is_pooled=True),
    Architecture("convnext_tiny", "features", 4),
    Architecture("vit_b_16", "encoder.layers.encoder_layer_11.ln_1", 4, reshape=fastcam.vit_reshape),
]
FORMS: dict[str, dict[str, Any]] = {
    "fp32": {"precision": "fp32"},
    "fp32 compiled": {"precision": "fp32", "compile": True},
    "bf16": {"precision": "bf16"},
    "bf16 compiled": {"precision": "bf16", "compile": True},
}


def with_fastcam(model: nn.Module, at: Architecture, images: Tensor, target: Any, method: Any) -> Callable[[], Any]:
    explainer = fastcam.Explainer(model, method, at.layer, reshape_transform=at.reshape)
    if isinstance(method, str) and isinstance(target, list):
        return lambda: explainer(images, target).maps
    return lambda: explainer(images, target)  # maps at the layer's size


def peers(model: nn.Module, at: Architecture, images: Tensor, targets: list[int]) -> dict[str, Contestant]:
    """Every peer that has Grad-CAM for such a layer, with a model to itself."""
    setting = Setting(at.name, model, at.layer, images, targets, at.reshape)
    found = {}
    for tool in installed():
        if at.reshape is None or tool.name != "captum":  # it has none of tokens
            (found[tool.name],) = tool.entrants["grad_cam"](Case("grad_cam"), setting)
    return found


def shown_class(model: nn.Module, at: Architecture, images: Tensor) -> list[int]:
    """For every image the class, of a few, whose map has the widest range: the differences are shares of it."""
    explainer = fastcam.Explainer(model, "grad_cam", at.layer, reshape_transform=at.reshape)
    low, high = explainer(images, torch.arange(16).repeat(len(images), 1)).native.flatten(2).aminmax(dim=2)
    return (high - low).argmax(1).tolist()


def check(found: dict[str, Contestant], reference: Tensor) -> dict[str, float]:
    """The largest difference of every float32 map from fastcam's on the untouched model, as a share of the range."""
    differences = {}
    for name, each in found.items():
        differences[name] = largest_difference(reference, each.finish(each.call()))
        if not differences[name] <= LIMIT:
            raise AssertionError(f"{name} differs by {differences[name]:.1e}, more than {LIMIT:.0e}")
    return differences


def measure(at: Architecture, rounds: int) -> list[dict[str, Any]]:
    """One architecture: agreement, then the times."""
    model = network(at.name)
    images = torch.randn(at.batch, 3, 224, 224)
    targets = shown_class(model, at, images)
    found = {"forward": bare_forward(model, images), "fastcam": with_fastcam(model, at, images, targets, "grad_cam")}
    others = peers(model, at, images, targets)
    found |= {name: each.call for name, each in others.items()}
    layer: dict[str, Any] = {"target_layer": at.layer, "reshape_transform": at.reshape}
    for name, form in FORMS.items():
        extra = {"tolerance": ANY} if form["precision"] == "bf16" else {}
        prepared = fastcam.prepare(model, images, **form, **layer, **extra)
        found[f"forward {name}"] = bare_forward(prepared, images)
        found[f"fastcam {name}"] = with_fastcam(prepared, at, images, targets, "grad_cam")
        if name == "fp32":
            together = TOGETHER if at.is_pooled else TOGETHER[:-1]
            found["fastcam together"] = with_fastcam(prepared, at, images, targets, together)
            if at.is_pooled:
                found["fastcam all classes"] = with_fastcam(prepared, at, images, "all", "grad_cam")
    same = {name: Contestant(call) for name, call in found.items() if "fastcam fp32" in name}
    differences = check(others | same, found["fastcam"]())
    return [
        row_of(at.name, at.batch, name, timing.median, timing.spread, differences.get(name))
        for name, timing in interleave(found, rounds).items()
    ]


# The methods that try copies or go through the whole network, as benchmarks/methods.py has them.
TRIED = [
    ("resnet18", "score_cam"),
    ("resnet18", "ablation_cam"),
    ("resnet18", "integrated_gradients"),
    ("resnet18", "smooth_grad"),
    ("resnet50", "integrated_gradients"),
    ("resnet50", "smooth_grad"),
    ("resnet50", "guided_backprop"),
]


def with_prepared(form: dict[str, Any]) -> Entrant:
    """Fastcam on a prepared model: a unit close to zero may be on its other side, and half precision is no float32."""
    is_half = form["precision"] != "fp32"

    def enter(case: Case, at: Setting) -> Sequence[Contestant]:
        tolerance = {"tolerance": ANY} if is_half else {}
        prepared = fastcam.prepare(at.model, at.images, target_layer=at.layer, **form, **tolerance)
        found = explain_with_fastcam(case, replace(at, model=prepared))
        return [replace(found, limit=math.inf if is_half else KINK_TOLERANCE)]

    return enter


def measure_method(name: str, method: str, rounds: int) -> list[dict[str, Any]]:
    """One method on one architecture: agreement, then the times."""
    layer, batch, case = next(
        (layer, batch, case)
        for known, layer, batch, cases in methods.CASES
        for case in cases
        if (known, case.method) == (name, method)
    )
    forms = {f"fastcam {form}": with_prepared(options) for form, options in FORMS.items()}
    at = Setting.of(name, network(name), torch.randn(batch, 3, 224, 224), layer)
    rows = measure_case(case, at, Patience(PATIENCE, rounds), forms)
    refused = [f"{row['tool']}: {row['refused']}" for row in rows if row["refused"]]
    if refused:
        raise AssertionError("; ".join(refused))
    model = f"{name}, `{method}`{', ' * bool(case.label)}{case.label}"
    forward = row_of(model, batch, "forward", rows[0]["forward_milliseconds"] / 1e3, 0.0, None)
    return [forward] + [
        row_of(model, batch, row["tool"], row["milliseconds"] / 1e3, row["spread"] / 1e3, row["difference"])
        for row in rows
    ]


def row_of(
    model: str, batch: int, contestant: str, median: float, spread: float, difference: float | None
) -> dict[str, Any]:
    """What is kept of a contestant; times in seconds."""
    times = {"milliseconds": median * 1e3, "spread": spread * 1e3}
    is_known = difference is not None and math.isfinite(difference)
    return (
        {"model": model, "batch": batch, "contestant": contestant}
        | times
        | {"difference": difference if is_known else None}
    )


def real_ranks() -> list[dict[str, Any]]:
    """Spearman's correlation of every form's maps of photographs with the untouched model's, for the same classes."""
    model = demo.efficientnet_lite0()
    images = torch.stack([demo.PREPROCESSING(each) for each in demo.photographs().values()])
    exact = fastcam.explain(model, images, "grad_cam")
    rows = []
    for name, form in FORMS.items():
        found = fastcam.explain(fastcam.prepare(model, images, **form), images, "grad_cam", exact.targets)
        ranks = [spearman(a, b) for a, b in zip(exact.raw, found.raw, strict=True)]
        rows.append({"form": name, "images": len(images), "median_rank": statistics.median(ranks), "least": min(ranks)})
        if not rows[-1]["median_rank"] >= RANK:
            raise AssertionError(f"{name}: the ranks correlate by {rows[-1]['median_rank']:.4f}, less than {RANK}")
    return rows


def shown(rows: list[dict[str, Any]]) -> Table:
    """The times of one architecture, beside those of the untouched and of the own forward pass."""
    at = f"{rows[0]['model']}, batch {rows[0]['batch']}"
    table = Table("contestant", "median", "spread", "x forward", "x own forward", "largest difference", title=at)
    times = {row["contestant"]: row["milliseconds"] for row in rows}
    for row in rows:
        name, time = row["contestant"], row["milliseconds"]
        own = times.get(own_forward(name))
        difference = row["difference"]
        table.add_row(
            name,
            f"{time:.1f} ms",
            f"{row['spread']:.1f} ms",
            f"{time / times['forward']:.2f}",
            f"{time / own:.2f}" if own else "",
            f"{difference:.1e}" if difference is not None else "",
        )
    return table


def own_forward(contestant: str) -> str:
    """The bare forward pass of the model that a contestant of fastcam runs."""
    form = contestant.removeprefix("fastcam").strip()
    if not contestant.startswith("fastcam"):
        return ""
    if form in ("together", "all classes"):
        return "forward fp32"
    return f"forward {form}".strip()


def main() -> None:
    """Prints the tables and keeps them as results/prepared.json."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", nargs="+", help="architectures or methods: their rows alone are renewed")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    console = Console(width=120)
    ranks = real_ranks()
    table = Table("form", "photographs", "median rank", "least", title="EfficientNet-Lite0, real weights")
    for row in ranks:
        table.add_row(row["form"], str(row["images"]), f"{row['median_rank']:.4f}", f"{row['least']:.4f}")
    console.print(table)
    work = [partial(measure, at) for at in ARCHITECTURES if wanted(at.name, arguments.only)]
    work += [partial(measure_method, name, method) for name, method in TRIED if wanted(method, arguments.only)]
    for each in work:
        rows = each(rounds=arguments.rounds)
        console.print(shown(rows))
        console.print(f"written: {write('prepared', renewed(rows), ranks=ranks)}")


def wanted(name: str, only: list[str] | None) -> bool:
    """Whether a name was asked for, or everything."""
    return only is None or name in only


def renewed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is kept already, these rows in the place of those of the same model and batch."""
    path = RESULTS / "prepared.json"
    kept = json.loads(path.read_text())["rows"] if path.exists() else []
    new = {(row["model"], row["batch"]) for row in rows}
    return [row for row in kept if (row["model"], row["batch"]) not in new] + rows


if __name__ == "__main__":
    main()
