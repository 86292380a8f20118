"""Exported explainers beside the exported models they explain: ``python -m benchmarks.exported``.

In every format the explainer and the bare model are files, loaded again and run in turns in one process, with the eager
explainer and the eager forward pass among them. The floor of an explainer is the bare model in its format: of a method
that needs no backward pass, behind pooling and one linear layer as in ResNet-18, at most a tenth may come on top;
MobileNetV3 has a layer more in between, through which the gradient goes back. Maps must agree with the eager ones to
1e-2 of their range before anything is timed.
"""

import argparse
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.export import Dim

import fastcam
from benchmarks.networks import network
from benchmarks.results_io import write
from fastcam.bench.timing import Patience, interleave
from fastcam.exporting.formats import KINDS

LIMIT = 1e-2  # eager maps of these random weights are 2e-3 from those in float64
BATCH = 4
NETWORKS = {"resnet18": ("layer4", "layer3"), "mobilenet_v3_small": ("features", "features.8")}
FORMATS = ("pt2", "aoti", "torchscript")
PATIENCE = Patience(8.0, 15)


def export_model(model: nn.Module, images: Tensor, path: Path, kind: str) -> Callable[[Tensor], Tensor]:
    """The bare model in a format, as a function."""
    if kind == "torchscript":
        torch.jit.save(torch.jit.trace(model, images), path)
        return torch.jit.load(path)
    program = torch.export.export(model, (images,), dynamic_shapes=({0: Dim.AUTO},))
    if kind == "pt2":
        torch.export.save(program, path)
        return torch.export.load(path).module()
    torch._inductor.aoti_compile_and_package(program, package_path=str(path))
    return torch._inductor.aoti_load_package(str(path))


def without_graph(call: Callable[..., Any], *arguments: Tensor) -> Callable[[], Any]:
    def run() -> Any:
        with torch.no_grad():
            return call(*arguments)

    return run


def measure(name: str, folder: Path) -> list[dict[str, Any]]:
    """One row for each format and layer: the explainer's time over that of the bare model in its format."""
    model, images = network(name), torch.randn(BATCH, 3, 224, 224)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    classes = torch.arange(BATCH)
    calls = {"eager": without_graph(model, images)}
    for kind in FORMATS:
        suffix = KINDS[kind].suffixes[0]
        calls[kind] = without_graph(export_model(model, images, folder / f"{name}-{kind}{suffix}", kind), images)
    for layer in NETWORKS[name]:
        explainer = fastcam.Explainer(model, "grad_cam", layer)
        expected = explainer(images, classes).maps
        calls[f"eager, {layer}"] = lambda explainer=explainer: explainer(images, classes).maps
        for kind in FORMATS:
            path = folder / f"{name}-{layer}-{kind}{KINDS[kind].suffixes[0]}"
            fastcam.export(model, images, path, method="grad_cam", target_layer=layer, format=kind)
            run = without_graph(KINDS[kind].load(path), images, classes)
            difference = (run()[1] - expected).abs().max().item()
            assert difference <= LIMIT, f"{name} {layer} {kind}: differs by {difference:.1e}"
            calls[f"{kind}, {layer}"] = run
    times = interleave(calls, dict.fromkeys(calls, PATIENCE.rounds))
    return [
        {
            "network": name,
            "layer": layer,
            "format": kind,
            "backward": layer != NETWORKS[name][0],
            "milliseconds": 1e3 * times[f"{kind}, {layer}"].median,
            "over_its_forward": times[f"{kind}, {layer}"].median / times[kind].median,
            "over_eager_explainer": times[f"{kind}, {layer}"].median / times[f"eager, {layer}"].median,
        }
        for layer in NETWORKS[name]
        for kind in ("eager", *FORMATS)
    ]


def main() -> None:
    """Print the table and write it to results/exported.json."""
    argparse.ArgumentParser(description=main.__doc__).parse_args()
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for name in NETWORKS for row in measure(name, Path(folder))]
    table = Table("network", "layer", "format", "ms", "/ its forward", "/ eager explainer", title=f"{BATCH} images")
    for row in rows:
        ratios = (f"{row['over_its_forward']:.2f}", f"{row['over_eager_explainer']:.2f}")
        table.add_row(row["network"], row["layer"], row["format"], f"{row['milliseconds']:.1f}", *ratios)
    console = Console(width=120)
    console.print(table)
    console.print(f"written: {write('exported', rows, batch=BATCH)}")


if __name__ == "__main__":
    main()
