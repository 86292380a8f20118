"""Prepared models beside the untouched one and the peers: ``python -m benchmarks.prepared``.

Grad-CAM by fastcam on the model as it is, prepared in float32 and in bfloat16, each compiled too; by the peers; and the
bare forward pass of every one of these models, all in turns in one process. Before anything is timed the maps must
agree: in float32 to 1e-4 of their range; in bfloat16 by Spearman's correlation of real maps, that of a classifier with
real weights on photographs, for the same class. The architectures have random weights, on which a correlation would say
little; the photographs are explained by EfficientNet-Lite0.
"""

import argparse
import copy
import json
import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torchvision
from captum.attr import LayerGradCam
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torchcam import methods as torchcam

import fastcam
from benchmarks import methods
from benchmarks.end_to_end import bare_forward, normalized
from benchmarks.timing import RESULTS, Contestants, Timing, interleave, write
from fastcam import demo
from fastcam.agreement import spearman

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
            nn.init.normal_(module.bias, std=0.1)
    return model


def with_fastcam(model: nn.Module, at: Architecture, images: Tensor, target: Any, method: Any) -> Callable[[], Any]:
    explainer = fastcam.Explainer(model, method, at.layer, reshape_transform=at.reshape)
    if isinstance(method, str) and isinstance(target, list):
        return lambda: explainer(images, target).maps
    return lambda: explainer(images, target)  # maps at the layer's size


def peers(model: nn.Module, at: Architecture, images: Tensor, targets: list[int]) -> Contestants:
    """Every peer that has Grad-CAM for such a layer, with a model to itself."""
    size = tuple(images.shape[2:])

    def of_own() -> tuple[nn.Module, nn.Module]:
        own = copy.deepcopy(model)
        return own, own.get_submodule(at.layer)

    own, layer = of_own()
    cam = GradCAM(own, [layer], reshape_transform=at.reshape)
    scored = [ClassifierOutputTarget(target) for target in targets]
    found: Contestants = {"pytorch-grad-cam": lambda: torch.from_numpy(cam(images, scored))}
    if at.reshape is not None:
        return found
    first, _ = of_own()
    second, layer = of_own()
    attribution = LayerGradCam(second, layer)

    def run_torchcam() -> Tensor:
        with torchcam.GradCAM(first, at.layer) as extractor:
            (maps,) = extractor(targets, first(images))
        return maps

    def run_captum() -> Tensor:
        return attribution.attribute(images, torch.tensor(targets), relu_attributions=True)[:, 0].detach()

    for name, run in (("torch-cam", run_torchcam), ("captum", run_captum)):
        run.finish = lambda maps: normalized(maps, size)  # type: ignore[attr-defined]
        found[name] = run
    return found


def shown_class(model: nn.Module, at: Architecture, images: Tensor) -> list[int]:
    """For every image a class whose map is not all zeros: of some random ones the largest map's."""
    explainer = fastcam.Explainer(model, "grad_cam", at.layer, reshape_transform=at.reshape)
    maps = explainer(images, torch.arange(16).repeat(len(images), 1)).native
    return maps.flatten(2).amax(2).argmax(1).tolist()


def check(found: Contestants, reference: Tensor, names: list[str]) -> dict[str, float]:
    """The largest difference of every float32 map from fastcam's on the untouched model, all in [0, 1]."""
    differences = {}
    for name in names:
        maps = getattr(found[name], "finish", lambda m: m)(found[name]())
        differences[name] = (maps.double() - reference.double()).abs().max().item()
        if not differences[name] <= LIMIT:
            raise AssertionError(f"{name} differs by {differences[name]:.1e}, more than {LIMIT:.0e}")
    return differences


def measure(at: Architecture, rounds: int) -> list[dict[str, Any]]:
    """One architecture: agreement, then the times."""
    model = network(at.name)
    images = torch.randn(at.batch, 3, 224, 224)
    targets = shown_class(model, at, images)
    found: Contestants = {"forward": bare_forward(model, images)}
    found["fastcam"] = with_fastcam(model, at, images, targets, "grad_cam")
    found |= peers(model, at, images, targets)
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
    same = [name for name in found if name in ("pytorch-grad-cam", "torch-cam", "captum") or "fastcam fp32" in name]
    differences = check(found, found["fastcam"](), same)
    if at.reshape is not None:
        del found["fastcam all classes"]  # a thousand backward passes through a block: no closed form
    return rows_of(at.name, at.batch, interleave(found, rounds), differences)


# The methods that try copies or go through the whole network, as benchmarks/methods.py has them.
TRIED = [
    ("resnet18", "score_cam"),
    ("resnet18", "integrated_gradients"),
    ("resnet18", "smooth_grad"),
    ("resnet50", "integrated_gradients"),
    ("resnet50", "smooth_grad"),
    ("resnet50", "guided_backprop"),
]


def measure_method(name: str, method: str, rounds: int) -> list[dict[str, Any]]:
    """One method on one architecture: agreement, then the times."""
    layer, batch, case = next(
        (layer, batch, case)
        for known, layer, batch, cases in methods.CASES
        for case in cases
        if (known, case.method) == (name, method)
    )
    at = methods.setting(name, layer, batch, case.scale)
    found: Contestants = {"forward": bare_forward(at.model, at.images), "fastcam": methods.with_fastcam(case, at)}
    for tool, peer in case.peers.items():
        words, found[tool] = methods.chosen(peer, at)
        print(f"{name} {method}: {tool} {words}", flush=True)
    for form, options in FORMS.items():
        extra = {"tolerance": ANY} if options["precision"] == "bf16" else {}
        prepared = fastcam.prepare(at.model, at.images, target_layer=layer, **options, **extra)
        found[f"fastcam {form}"] = methods.with_fastcam(case, replace(at, model=prepared))
    differences = {}
    with methods.alike(case, at):
        own = found["fastcam"]()
        for contestant, call in found.items():
            if contestant not in ("forward", "fastcam") and "bf16" not in contestant:
                maps = getattr(call, "finish", lambda m: m)(call())
                differences[contestant] = methods.difference(own, maps)
                # A prepared model rounds otherwise, and a unit close to zero may fall on the other side of it.
                limit = methods.KINKS if contestant.startswith("fastcam") else case.limit
                if not differences[contestant] <= limit:
                    raise AssertionError(
                        f"{contestant} differs by {differences[contestant]:.1e}, more than {limit:.0e}"
                    )
    timings = interleave(found, rounds, warm=True)
    return rows_of(f"{name}, {method}{', ' * bool(case.label)}{case.label}", batch, timings, differences)


def rows_of(model: str, batch: int, timings: dict[str, Timing], differences: dict[str, float]) -> list[dict[str, Any]]:
    """What is kept."""
    return [
        {
            "model": model,
            "batch": batch,
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
    parser.add_argument("--only", nargs="+", help="architectures or methods: their rows alone are renewed")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    console = Console(width=120)
    ranks = real_ranks()
    table = Table("form", "photographs", "median rank", "least", title="EfficientNet-Lite0, real weights")
    for row in ranks:
        table.add_row(row["form"], str(row["images"]), f"{row['median_rank']:.4f}", f"{row['least']:.4f}")
    console.print(table)
    measured = [
        *(lambda at=at: measure(at, arguments.rounds) for at in ARCHITECTURES if wanted(at.name, arguments.only)),
        *(
            lambda name=name, method=method: measure_method(name, method, max(3, arguments.rounds // 3))
            for name, method in TRIED
            if wanted(method, arguments.only)
        ),
    ]
    for work in measured:
        rows = work()
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
