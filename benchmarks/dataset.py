"""A folder of JPEGs to committed maps: ``python -m benchmarks.dataset``.

The photographs of the demo, cut and scaled to the sizes of a web dataset. In turns, on a part of the folder each: the
model alone (Grad-CAM of images that are in memory), decoding alone, ``fastcam.dataset.run`` with both and with the
writing, and the loop that a user would write with pytorch-grad-cam and a DataLoader. The goal is 0.90 of the slower of
model and decoding; where both share the processor's cores the sum of their times is the bound, and is told too. Memory
is that of one more run over the whole folder, after every commit.
"""

import argparse
import random
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
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
from benchmarks.keeping import write
from benchmarks.networks import network
from fastcam.classifiers.preprocessing import Preprocessing, read_photograph
from fastcam.cli import demo
from fastcam.dataset.decode import usual_decoder
from fastcam.dataset.loading import Loader, in_order
from fastcam.dataset.runner import usual_workers
from fastcam.dataset.sources import source_of
from fastcam.dataset.store import Span

BATCH = 8
SEES = Preprocessing()


def make_folder(folder: Path, count: int) -> None:
    """JPEGs of 400 to 600 pixels a side, no two alike."""
    chance, photographs = random.Random(0), [each.convert("RGB") for each in demo.photographs().values()]
    for index in range(count):
        photograph = photographs[index % len(photographs)]
        width, height = chance.randrange(400, 600), chance.randrange(400, 600)
        left, top = (chance.uniform(0, 0.3) * side for side in photograph.size)
        box = (left, top, left + 0.7 * photograph.width, top + 0.7 * photograph.height)
        photograph.resize((width, height), Image.Resampling.BICUBIC, box).save(folder / f"{index:05d}.jpg", quality=90)


def alone(model: nn.Module, images: torch.Tensor, count: int) -> None:
    explainer = fastcam.Explainer(model, "grad_cam", "layer4", batch_size=BATCH)
    for _ in range(0, count, BATCH):
        explainer(images)


def decode(paths: list[str]) -> None:
    source, loader = source_of(paths), Loader(SEES, fastcam.dataset.Limits(), usual_decoder())
    with ThreadPoolExecutor(usual_workers()) as threads:
        for _, images in in_order(source, iter([Span(0, len(paths))]), loader, threads, 4 * BATCH):
            assert all(each.tensor is not None for each in images)


def mapped(model: nn.Module, paths: Any, out: Path, **options: Any) -> None:
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


def looped(model: nn.Module, paths: list[str], out: Path) -> None:
    """What people write today."""
    from pytorch_grad_cam import GradCAM

    out.mkdir()
    with GradCAM(model=model, target_layers=[model.layer4]) as cam:
        position = 0
        for batch in DataLoader(Photographs(paths), batch_size=BATCH, num_workers=2):
            for each in cam(input_tensor=batch, targets=None):
                np.save(out / f"{position}.npy", each)
                position += 1


def check(paths: list[str], ours: Path, theirs: Path) -> float:
    """The largest difference of the maps, which are in [0, 1]; float16 has 1e-3 of that."""
    maps = fastcam.dataset.open(ours)
    pairs = ((maps.maps(path)[0], np.load(theirs / f"{index}.npy")) for index, path in enumerate(paths))
    worst = max(float(np.abs(a - b).max()) for a, b in pairs)
    if not worst <= 5e-3:
        raise AssertionError(f"the maps differ by {worst:.1e}")
    return worst


def memory(model: nn.Module, folder: Path, out: Path) -> list[float]:
    """The most megabytes ever held, after every commit of a run over all."""
    found: list[float] = []

    def report(done: fastcam.dataset.Progress) -> None:
        if done.commit is not None:
            found.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)

    mapped(model, str(folder), out, report=report)
    return found


def measure(folder: Path, work: Path, count: int, rounds: int) -> dict[str, Any]:
    model = network("resnet50")
    paths = sorted(map(str, folder.iterdir()))
    images = torch.stack([SEES(read_photograph(path)) for path in paths[:BATCH]])
    prepared = fastcam.prepare(model, images, precision="bf16", target_layer="layer4", tolerance=2.0)
    turns: dict[str, Callable[[list[str], Path], None]] = {
        "model alone": lambda part, out: alone(model, images, len(part)),
        "decoding alone": lambda part, out: decode(part),
        "fastcam map": lambda part, out: mapped(model, part, out),
        "model alone, bf16": lambda part, out: alone(prepared, images, len(part)),
        "fastcam map, bf16": lambda part, out: mapped(prepared, part, out),
        "pytorch-grad-cam and a DataLoader": lambda part, out: looped(model, part, out),
    }
    mapped(model, paths[: 2 * BATCH], work / "a")
    looped(model, paths[: 2 * BATCH], work / "b")
    difference = check(paths[: 2 * BATCH], work / "a", work / "b")
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(rounds):
        part = paths[number * count // rounds : (number + 1) * count // rounds]
        for name, call in turns.items():
            start = time.perf_counter()
            call(part, work / f"{number}{name}")
            seconds[name].append((time.perf_counter() - start) / len(part))
    rows = {name: statistics.median(each) for name, each in seconds.items()}
    spreads = {name: max(each) - min(each) for name, each in seconds.items()}
    megabytes = memory(model, folder, work / "memory")
    return {"seconds": rows, "spreads": spreads, "megabytes": megabytes, "difference": difference}


def shown(found: dict[str, Any], count: int) -> Table:
    seconds = found["seconds"]
    table = Table(
        "what", "images a second", "spread", "share of the slower", "share of the bound", title=f"{count} JPEGs"
    )
    for name, each in seconds.items():
        model = seconds["model alone, bf16" if "bf16" in name else "model alone"]
        decoding = seconds["decoding alone"]
        shares = ["", ""]
        if "alone" not in name:
            shares = [f"{max(model, decoding) / each:.2f}", f"{(model + decoding) / each:.2f}"]
        table.add_row(name, f"{1 / each:.1f}", f"{found['spreads'][name] / each:.0%}", *shares)
    return table


def main() -> None:
    """Prints the table and keeps it as results/dataset.json."""
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
        found = measure(folder, work, arguments.images, arguments.rounds)
    console = Console(width=120)
    console.print(shown(found, arguments.images))
    first, last = found["megabytes"][0], found["megabytes"][-1]
    console.print(f"peak of the resident memory after the first shard {first:.0f} MB, after the last {last:.0f} MB")
    rows = [{"what": name, "milliseconds": 1e3 * each} for name, each in found["seconds"].items()]
    extra = {name: found[name] for name in ("megabytes", "difference")}
    console.print(f"written: {write('dataset', rows, images=arguments.images, **extra)}")


if __name__ == "__main__":
    main()
