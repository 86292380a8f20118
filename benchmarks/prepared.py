"""Prepared models beside the untouched one and the peers: ``python -m benchmarks.prepared``.

Grad-CAM by fastcam on the model as it is, prepared in float32 and in bfloat16, each compiled too; by the peers; and the
bare forward pass of every one of these models, all in turns in one process. Before anything is timed the maps must
agree: in float32 to 1e-4 of their range; in bfloat16 by Spearman's correlation of real maps, that of a classifier with
real weights on photographs, for the same class. The architectures have random weights, on which a correlation would say
little; the photographs are explained by EfficientNet-Lite0.
"""

import argparse
import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import fastcam
from benchmarks.keeping import write
from fastcam import demo
from fastcam.agreement import spearman
from fastcam.bench.contest import Case, Contestant, Setting, bare_forward, enlivened
from fastcam.bench.methods import largest_difference
from fastcam.bench.peers import installed
from fastcam.bench.timing import interleave

LIMIT, RANK = 1e-4, 0.99
ANY = 2.0  # the maps of random weights are compared in float32 alone
TOGETHER = ["grad_cam", "grad_cam_pp", "xgrad_cam", "hires_cam", "layer_cam", "eigen_cam", "cam"]
Reshape = Callable[[Tensor], Tensor] | None


@dataclass(frozen=True)
class Architecture:
    """A network, the layer to explain, how many images at a time, and the layer's shape where that is tokens."""

    name: str
    layer: str
    batch: int
    reshape: Reshape = None


ARCHITECTURES = [
    Architecture("resnet18", "layer4", 1),
    Architecture("resnet18", "layer4", 8),
    Architecture("resnet50", "layer4", 8),
    Architecture("vgg16", "features.29", 4),
    Architecture("efficientnet_b0", "features", 8),
    Architecture("convnext_tiny", "features", 4),
    Architecture("vit_b_16", "encoder.layers.encoder_layer_11.ln_1", 4, fastcam.vit_reshape),
]
FORMS: dict[str, dict[str, Any]] = {
    "fp32": {"precision": "fp32"},
    "fp32 compiled": {"precision": "fp32", "compile": True},
    "bf16": {"precision": "bf16"},
    "bf16 compiled": {"precision": "bf16", "compile": True},
}


def network(name: str) -> nn.Module:
    """A torchvision network with seeded random weights, its normalisations with statistics of their own."""
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(weights=None).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return enlivened(model)


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
    """For every image a class whose map is not all zeros: of some random ones the largest map's."""
    explainer = fastcam.Explainer(model, "grad_cam", at.layer, reshape_transform=at.reshape)
    maps = explainer(images, torch.arange(16).repeat(len(images), 1)).native
    return maps.flatten(2).amax(2).argmax(1).tolist()


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
            together = TOGETHER if at.name.startswith("resnet") else TOGETHER[:-1]
            found["fastcam together"] = with_fastcam(prepared, at, images, targets, together)
            found["fastcam all classes"] = with_fastcam(prepared, at, images, "all", "grad_cam")
    same = {name: Contestant(call) for name, call in found.items() if "fastcam fp32" in name}
    differences = check(others | same, found["fastcam"]())
    if at.reshape is not None:
        del found["fastcam all classes"]  # a thousand backward passes through a block: no closed form
    timings = interleave(found, rounds)
    return [
        {
            "model": at.name,
            "batch": at.batch,
            "contestant": name,
            "milliseconds": timing.median * 1e3,
            "spread": timing.spread * 1e3,
            "difference": differences.get(name),
        }
        for name, timing in timings.items()
    ]


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
    parser.add_argument("--only", help="an architecture's name; its rows alone are measured, and nothing is kept")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    console = Console(width=120)
    ranks = real_ranks()
    table = Table("form", "photographs", "median rank", "least", title="EfficientNet-Lite0, real weights")
    for row in ranks:
        table.add_row(row["form"], str(row["images"]), f"{row['median_rank']:.4f}", f"{row['least']:.4f}")
    console.print(table)
    rows = []
    for at in ARCHITECTURES:
        if arguments.only in (None, at.name):
            found = measure(at, arguments.rounds)
            console.print(shown(found))
            rows += found
    if arguments.only is None:
        console.print(f"written: {write('prepared', rows, ranks=ranks)}")


if __name__ == "__main__":
    main()
