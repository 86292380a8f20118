"""Throughput from a folder of JPEGs to committed maps: ``python -m benchmarks.dataset``.

The images are the demo photographs, cropped and scaled to the sizes of a web dataset. Interleaved, each on a part of
the folder: the model alone (Grad-CAM of images in memory), decoding alone, the whole of ``fastcam.dataset.run``, and
loops with Captum, or pytorch-grad-cam, and a DataLoader with a worker for each core. The goal is 0.90 of the slower of
model and decoding; where both share the CPU cores the sum of their times is the bound, and is reported too. Memory is
measured after every commit of one more run over the whole folder.
"""

import argparse
import itertools
import random
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.data import DataLoader, Dataset

import fastcam
import fastcam.dataset
from benchmarks.networks import network
from benchmarks.results_io import write
from fastcam.classifiers.preprocessing import Preprocessing, read_photograph
from fastcam.cli import demo
from fastcam.dataset.decode import default_decoder
from fastcam.dataset.loading import Loader, load_in_order
from fastcam.dataset.records import Span
from fastcam.dataset.sources import source_of
from fastcam.dataset.workers import usable_cores

BATCH = 8
SEES = Preprocessing()


def make_folder(folder: Path, count: int) -> None:
    """Write distinct JPEGs of 400 to 600 pixels per side."""
    chance, photographs = random.Random(0), [photograph.convert("RGB") for photograph in demo.photographs().values()]
    for index in range(count):
        photograph = photographs[index % len(photographs)]
        width, height = chance.randrange(400, 600), chance.randrange(400, 600)
        left, top = (chance.uniform(0, 0.3) * side for side in photograph.size)
        box = (left, top, left + 0.7 * photograph.width, top + 0.7 * photograph.height)
        photograph.resize((width, height), Image.Resampling.BICUBIC, box).save(folder / f"{index:05d}.jpg", quality=90)


def explain_images(model: nn.Module, images: torch.Tensor, count: int) -> None:
    explainer = fastcam.Explainer(model, "grad_cam", "layer4", batch_size=BATCH)
    for _ in range(0, count, BATCH):
        explainer(images)


def decode(paths: list[str]) -> None:
    source, loader = source_of(paths), Loader(SEES, fastcam.dataset.Limits(), default_decoder())
    with ThreadPoolExecutor(usable_cores()) as threads:
        images = load_in_order(source.items, iter([Span(0, len(paths))]), loader, threads, 4 * BATCH)
        assert all(image.tensor is not None for _, image in images)


def write_maps(model: nn.Module, paths: Any, out: Path, **options: Any) -> None:
    settings = {"target_layer": "layer4", "batch_size": BATCH, "preprocessing": SEES, "shard_size": 250}
    done = fastcam.dataset.run(paths, model, out, **settings, **options)
    assert done.failed == 0


class Photographs(Dataset):
    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return SEES(read_photograph(self.paths[index]))


def run_loop(model: nn.Module, paths: list[str], out: Path) -> None:
    """Run the usual loop with pytorch-grad-cam."""
    from pytorch_grad_cam import GradCAM

    out.mkdir()
    with GradCAM(model=model, target_layers=[model.layer4]) as cam:
        save((cam(input_tensor=batch, targets=None) for batch in batches(paths)), out)


def run_captum(model: nn.Module, paths: list[str], out: Path) -> None:
    """Run the usual loop with Captum; the maps scaled to [0, 1], as the others."""
    from captum.attr import LayerAttribution, LayerGradCam

    explain = LayerGradCam(model, model.layer4)

    def maps(images: torch.Tensor) -> np.ndarray[Any, Any]:
        with torch.no_grad():
            classes = model(images).argmax(1)
        found = explain.attribute(images, classes, relu_attributions=True)
        wide = LayerAttribution.interpolate(found, images.shape[2:], "bilinear")[:, 0].detach().numpy()
        low, high = (each(wide, axis=(1, 2), keepdims=True) for each in (np.min, np.max))
        return (wide - low) / np.maximum(high - low, 1e-12)

    out.mkdir()
    save(map(maps, batches(paths)), out)


def batches(paths: list[str]) -> Iterable[torch.Tensor]:
    return DataLoader(Photographs(paths), batch_size=BATCH, num_workers=usable_cores())


def save(found: Iterable[np.ndarray[Any, Any]], out: Path) -> None:
    for position, values in enumerate(itertools.chain.from_iterable(found)):
        np.save(out / f"{position}.npy", values)


def check_maps(paths: list[str], ours: Path, theirs: Path) -> float:
    """Return the largest difference of the maps, which are in [0, 1]; float16 resolves 1e-3."""
    maps = fastcam.dataset.open(ours)
    pairs = ((maps.maps(path)[0], np.load(theirs / f"{index}.npy")) for index, path in enumerate(paths))
    worst = max(float(np.abs(a - b).max()) for a, b in pairs)
    if not worst <= 5e-3:
        raise AssertionError(f"the maps differ by {worst:.1e}")
    return worst


def memory(model: nn.Module, folder: Path, out: Path) -> list[float]:
    """Return the peak resident megabytes after every commit of a run over the whole folder."""
    peaks: list[float] = []

    def report(done: fastcam.dataset.Progress) -> None:
        if done.commit is not None:
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)

    write_maps(model, str(folder), out, report=report)
    return peaks


def measure(folder: Path, work: Path, count: int, rounds: int) -> dict[str, Any]:
    model = network("resnet50")
    paths = sorted(map(str, folder.iterdir()))
    images = torch.stack([SEES(read_photograph(path)) for path in paths[:BATCH]])
    prepared = fastcam.prepare(model, images, precision="bf16", target_layer="layer4", tolerance=2.0)
    turns: dict[str, Callable[[list[str], Path], None]] = {
        "model alone": lambda part, out: explain_images(model, images, len(part)),
        "decoding alone": lambda part, out: decode(part),
        "fastcam map": lambda part, out: write_maps(model, part, out),
        "model alone, bf16": lambda part, out: explain_images(prepared, images, len(part)),
        "fastcam map, bf16": lambda part, out: write_maps(prepared, part, out),
        "pytorch-grad-cam and a DataLoader": lambda part, out: run_loop(model, part, out),
        "Captum and a DataLoader": lambda part, out: run_captum(model, part, out),
    }
    few = paths[: 2 * BATCH]
    write_maps(model, few, work / "a")
    run_loop(model, few, work / "b")
    run_captum(model, few, work / "c")
    difference = max(check_maps(few, work / "a", work / theirs) for theirs in ("b", "c"))
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(rounds):
        part = paths[number * count // rounds : (number + 1) * count // rounds]
        for name, call in turns.items():
            start = time.perf_counter()
            call(part, work / f"{number}{name}")
            seconds[name].append((time.perf_counter() - start) / len(part))
    rows = {name: statistics.median(times) for name, times in seconds.items()}
    spreads = {name: max(times) - min(times) for name, times in seconds.items()}
    megabytes = memory(model, folder, work / "memory")
    return {"seconds": rows, "spreads": spreads, "megabytes": megabytes, "difference": difference}


def make_table(results: dict[str, Any], count: int) -> Table:
    seconds = results["seconds"]
    table = Table(
        "what", "images a second", "spread", "share of the slower", "share of the bound", title=f"{count} JPEGs"
    )
    for name, value in seconds.items():
        model = seconds["model alone, bf16" if "bf16" in name else "model alone"]
        decoding = seconds["decoding alone"]
        shares = ["", ""]
        if "alone" not in name:
            shares = [f"{max(model, decoding) / value:.2f}", f"{(model + decoding) / value:.2f}"]
        table.add_row(name, f"{1 / value:.1f}", f"{results['spreads'][name] / value:.0%}", *shares)
    return table


def main() -> None:
    """Print the table and write it to results/dataset.json."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as name:
        folder, work = Path(name) / "photographs", Path(name) / "work"
        folder.mkdir()
        work.mkdir()
        make_folder(folder, arguments.images)
        results = measure(folder, work, arguments.images, arguments.rounds)
    console = Console(width=120)
    console.print(make_table(results, arguments.images))
    first, last = results["megabytes"][0], results["megabytes"][-1]
    console.print(f"peak resident memory after the first shard {first:.0f} MB, after the last {last:.0f} MB")
    rows = [{"what": name, "milliseconds": 1e3 * value} for name, value in results["seconds"].items()]
    extra = {name: results[name] for name in ("megabytes", "difference")}
    console.print(f"written: {write('dataset', rows, images=arguments.images, **extra)}")


if __name__ == "__main__":
    main()
