"""A folder of JPEGs to maps on the GPU that is here: ``python -m benchmarks.device_dataset``.

``fastcam.dataset.run`` with images decoded in threads, in processes and on the GPU, and there with a prepared model and
recorded graphs, beside a DataLoader with as many workers as cores and Captum. The maps must agree before anything is
timed. Each contestant makes the maps of the same files, a part of them in each round, one after the other.
"""

import argparse
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr
from torch import nn
from torch.utils.data import DataLoader

import fastcam.dataset
from benchmarks.dataset import SEES, Photographs
from benchmarks.networks import network
from benchmarks.results_io import gpu_name, write
from fastcam.cli import demo
from fastcam.dataset.workers import usable_cores

BATCH, SIZE = 64, (500, 375)
RANK, HALF_RANK = 0.99, 0.95  # correlation with Captum's maps, from other decoders; and in half precision
GOALS = {"images_a_second": 5000, "times_captum": 6}

Maps = list[np.ndarray[Any, Any]]
Contestant = Callable[[Sequence[str], Path], Callable[[], Maps]]  # makes maps, and returns how to get them


def make_folder(folder: Path, count: int) -> list[str]:
    """Write distinct JPEGs of one size, as web datasets have them."""
    photographs = [photograph.convert("RGB").resize((800, 600)) for photograph in demo.photographs().values()]

    def make(index: int) -> str:
        left, top = index * 7 % 300, index * 13 % 225
        file = folder / f"{index:05d}.jpg"
        cropped = photographs[index % len(photographs)].crop((left, top, left + SIZE[0], top + SIZE[1]))
        cropped.save(file, quality=90)
        return str(file)

    with ThreadPoolExecutor(usable_cores()) as threads:
        return list(threads.map(make, range(count)))


def with_captum(model: nn.Module, device: torch.device) -> Contestant:
    """The usual loop."""
    from captum.attr import LayerAttribution, LayerGradCam

    explain = LayerGradCam(model, model.layer4)

    def make(paths: Sequence[str], out: Path) -> Callable[[], Maps]:
        found: Maps = []
        options = {"num_workers": usable_cores(), "pin_memory": device.type == "cuda"}
        for batch in DataLoader(Photographs(list(paths)), BATCH, **options):
            images = batch.to(device, non_blocking=True)
            with torch.no_grad():
                classes = model(images).argmax(1)
            maps = explain.attribute(images, classes, relu_attributions=True)
            found.extend(LayerAttribution.interpolate(maps, images.shape[2:], "bilinear")[:, 0].detach().cpu().numpy())
        return lambda: found

    return make


def with_fastcam(model: nn.Module, **options: Any) -> Contestant:
    """A run with such options."""

    def make(paths: Sequence[str], out: Path) -> Callable[[], Maps]:
        settings = {"target_layer": "layer4", "batch_size": BATCH, "preprocessing": SEES}
        done = fastcam.dataset.run(list(paths), model, out, **settings, **options)
        if done.failed:
            raise AssertionError(f"{done.failed} images have no map")
        return lambda: [fastcam.dataset.open(out).maps(path)[0] for path in paths]

    return make


def contestants(model: nn.Module, device: torch.device) -> dict[str, Contestant]:
    found = {
        "DataLoader and Captum": with_captum(model, device),
        "fastcam, threads": with_fastcam(model, decode_in="threads"),
        "fastcam, processes": with_fastcam(model, decode_in="processes"),
    }
    if device.type == "cuda":
        on_gpu: dict[str, Any] = {"decoder": "gpu", "decode_in": "threads"}
        prepared = fastcam.prepare(
            model, torch.rand(BATCH, 3, 224, 224, device=device), precision="auto", target_layer="layer4"
        )
        found |= {
            "fastcam, processes, prepared": with_fastcam(prepared, decode_in="processes"),
            "fastcam, GPU decoder": with_fastcam(model, **on_gpu),
            "fastcam, GPU decoder, prepared": with_fastcam(prepared, **on_gpu),
            "fastcam, GPU decoder, prepared, no graph": with_fastcam(prepared, graph=False, **on_gpu),
            "fastcam, GPU decoder, two on the GPU": with_fastcam(model, devices=[0, 0], **on_gpu),
        }
    return found


def check(made: dict[str, Maps]) -> dict[str, float]:
    """Return the least rank correlation of every contestant's maps with the first's, after a check."""
    expected, *_ = made.values()
    found = {}
    for name, maps in made.items():
        found[name] = min(
            float(spearmanr(one.ravel(), other.ravel()).statistic) for one, other in zip(maps, expected, strict=True)
        )
        if not found[name] >= (HALF_RANK if "prepared" in name else RANK):
            raise AssertionError(f"{name}: ranks correlate by {found[name]:.3f}")
    return found


def measure(paths: list[str], work: Path, rounds: int, device: torch.device) -> list[dict[str, Any]]:
    """Return a row for each contestant."""
    entries = contestants(network("resnet50").to(device), device)
    few = paths[: 2 * BATCH]
    ranks = check({name: make(few, work / f"few {name}")() for name, make in entries.items()})
    seconds: dict[str, list[float]] = {name: [] for name in entries}
    for number in range(rounds):
        part = paths[number::rounds]
        for name, make in entries.items():
            start = time.perf_counter()
            make(part, work / f"{number} {name}")
            seconds[name].append((time.perf_counter() - start) / len(part))
    slowest = statistics.median(seconds["DataLoader and Captum"])
    return [
        {
            "what": name,
            "images_a_second": 1 / statistics.median(times),
            "times_captum": slowest / statistics.median(times),
            "rank": ranks[name],
        }
        for name, times in seconds.items()
    ]


def main() -> None:
    """Measure, print and keep as results/device_dataset_<name>.json."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--images", type=int, default=20000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", default="cuda")
    at = parser.parse_args()
    device = torch.device(at.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("benchmarks.device_dataset measures a GPU, and torch finds none here; --device cpu tries it out")
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as name:
        folder, work = Path(name) / "photographs", Path(name) / "work"
        folder.mkdir()
        work.mkdir()
        rows = measure(make_folder(folder, at.images), work, at.rounds, device)
    table = Table(*rows[0], title=f"{at.images} JPEGs of {SIZE[0]} x {SIZE[1]}, ResNet-50, {usable_cores()} cores")
    for row in rows:
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else value for value in row.values()))
    console = Console(width=120)
    console.print(table)
    for name, goal in GOALS.items():
        best = max(row[name] for row in rows)
        console.print(f"{name.replace('_', ' ')}: {best:.1f} at best, wanted {goal}")
    if device.type == "cuda":
        console.print(f"written: {write(f'device_dataset_{gpu_name()}', rows)}")


if __name__ == "__main__":
    main()
