"""What a run costs beside the network and the pictures: ``python -m benchmarks.dataset_costs``.

Four costs that a user with a fast network, or with many pictures, meets:

- **a run** over small pictures with a network of two convolutions, whose parts are timed alone in the same rounds: the
  explainer, decoding on one thread, and a run over tensors in memory, which has no pictures to decode;
- **a map** of a random image, from all shards of a folder;
- **a list** of a million paths, opened; and a folder of files;
- **memory** that the list holds.

The floor of a run is its decoding and its explaining at the same time, on as many cores as there are; what is more is
threads, queues, hashes, rows and Parquet.
"""

import argparse
import functools
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import nn

import fastcam
import fastcam.dataset
from benchmarks.results_io import write
from fastcam.classifiers.preprocessing import Preprocessing
from fastcam.dataset.decode import Limits, default_decoder
from fastcam.dataset.loading import Loader
from fastcam.dataset.sources import source_of

SIDE, BATCH = 64, 64
SEES = Preprocessing(SIDE, (SIDE, SIDE))
LISTED = 1_000_000


class Tensors:
    """Samples in memory."""

    def __init__(self, count: int) -> None:
        self.count, self.samples = count, torch.randn(BATCH, 3, SIDE, SIDE)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.samples[index % BATCH]


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)).eval()


def make_pictures(folder: Path, count: int) -> list[str]:
    """Write distinct JPEGs of 64 x 64."""
    chance = np.random.default_rng(0)
    for index in range(count):
        blocks = chance.integers(0, 256, (8, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(blocks).save(folder / f"{index:06d}.jpg", quality=90)
    return sorted(map(str, folder.iterdir()))


def run(source: Any, out: Path) -> None:
    done = fastcam.dataset.run(source, network(), out, target_layer="3", preprocessing=SEES, batch_size=BATCH)
    assert done.failed == 0


def explain(count: int) -> None:
    explainer, images = fastcam.Explainer(network(), "grad_cam", "3"), torch.randn(BATCH, 3, SIDE, SIDE)
    for _ in range(0, count, BATCH):
        explainer(images)


def decode(paths: list[str]) -> None:
    loader = Loader(SEES, Limits(), default_decoder())
    assert all(loader(item).tensor is not None for item in source_of(paths).items(0, len(paths)))


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def time_runs(paths: list[str], work: Path, rounds: int) -> dict[str, float]:
    """Return seconds an image."""
    turns: dict[str, Callable[[int], object]] = {
        "explainer alone": lambda turn: explain(len(paths)),
        "decoding alone, one thread": lambda turn: decode(paths),
        "run over tensors in memory": lambda turn: run(Tensors(len(paths)), work / f"tensors {turn}"),
        "run over pictures": lambda turn: run(paths, work / f"pictures {turn}"),
    }
    times: dict[str, list[float]] = {name: [] for name in turns}
    for turn in range(rounds):
        for name, call in turns.items():
            times[name].append(seconds(functools.partial(call, turn)) / len(paths))
    return {name: statistics.median(values) for name, values in times.items()}


def time_access(out: Path, count: int = 2000) -> float:
    """Return seconds a map, of images in no order, after the first ones."""
    maps = fastcam.dataset.open(out)
    names = list(maps)
    random.Random(0).shuffle(names)
    for name in names[:100]:
        maps.maps(name)
    return seconds(lambda: [maps.maps(name) for name in names[100:count]]) / (min(count, len(names)) - 100)


def time_list(work: Path) -> tuple[float, float]:
    """Return seconds and megabytes of opening a list of a million paths."""
    file = work / "paths.txt"
    with file.open("w") as lines:
        lines.writelines(f"/data/photographs/{index % 1000:04d}/{index:08d}.jpg\n" for index in range(LISTED))
    before, start = psutil.Process().memory_info().rss, time.perf_counter()
    source = source_of(str(file))
    taken = time.perf_counter() - start
    assert len(source) == LISTED
    return taken, (psutil.Process().memory_info().rss - before) / 1e6


def measure(work: Path, count: int, rounds: int) -> dict[str, float]:
    (work / "in").mkdir()
    paths = make_pictures(work / "in", count)
    listing, megabytes = time_list(work)
    folder = seconds(lambda: source_of(str(work / "in"))) / count
    costs = time_runs(paths, work, rounds)
    own = costs["run over tensors in memory"] - costs["explainer alone"]
    return {
        **{f"{name}, ms an image": 1e3 * value for name, value in costs.items()},
        "the runner's own cost, ms an image": 1e3 * own,
        "a random map, ms": 1e3 * time_access(work / "pictures 0"),
        "a list of a million paths, s": listing,
        "a list of a million paths, MB": megabytes,
        "a folder, s a million files": 1e6 * folder,
    }


def main() -> None:
    """Print the table and write it to results/dataset_costs.json."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as name:
        results = measure(Path(name), arguments.images, arguments.rounds)
    table = Table("what", "value", title=f"{arguments.images:,} JPEGs of {SIDE} x {SIDE}")
    for what, value in results.items():
        table.add_row(what, f"{value:.3g}")
    console = Console(width=120)
    console.print(table)
    rows = [{"what": what, "value": value} for what, value in results.items()]
    console.print(f"written: {write('dataset_costs', rows, images=arguments.images)}")


if __name__ == "__main__":
    main()
