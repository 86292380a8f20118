"""What finding likeness costs: ``python -m benchmarks.features``.

- **a search** among a million vectors of 512 numbers in float16, of one query and of 256, in turns with its floor (the
  matrix product of the same vectors, already in float32, in the same blocks) and with what people write (all distances
  in float32, sorted); the neighbours must agree first; and the memory beyond the vectors;
- **an index** of faiss over the same vectors, built and searched;
- **places** for 50,000 vectors of 512 numbers in clusters, and how many neighbours they keep;
- **features** of a dataset of photographs beside the loop that people write: a DataLoader, a hook, ``.cpu()``.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from sklearn.manifold import trustworthiness
from torch import nn
from torch.utils.data import DataLoader, Dataset

import fastcam.features
from benchmarks.networks import network
from benchmarks.results_io import write
from fastcam.bench.timing import interleave
from fastcam.classifiers.preprocessing import Preprocessing, read_photograph
from fastcam.cli import demo
from fastcam.features import exact_search, neighbours

LENGTH = 512
NEIGHBOURS = 10
TRUSTED = 4_000  # vectors that trustworthiness is measured on: it is quadratic
PHOTOGRAPHS = 160


def clusters(count: int, seed: int = 0) -> np.ndarray:
    """Vectors (count, 512) float16 on a bent surface of ten dimensions, in 200 clusters, as a network's are."""
    generator = np.random.default_rng(seed)
    centres, bend = generator.normal(size=(200, 10)), generator.normal(size=(10, LENGTH))
    vectors = np.empty((count, LENGTH), np.float16)
    for start in range(0, count, 50_000):
        part = vectors[start : start + 50_000]
        hidden = centres[generator.integers(0, 200, len(part))] + 0.3 * generator.normal(size=(len(part), 10))
        part[:] = np.maximum(hidden @ bend, 0)
    return vectors


def peak(call: Callable[[], Any]) -> float:
    """Megabytes of memory that a call takes at most beyond what was there."""
    process, found, done = psutil.Process(), [], threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        while not done.wait(0.002):
            found.append(process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    call()
    done.set()
    thread.join()
    return (max(found, default=before) - before) / 2**20


def searches(count: int, rounds: int) -> list[dict[str, Any]]:
    """Of one and of many queries."""
    vectors = clusters(count)
    lengths = exact_search.lengths_of(vectors)
    exact = torch.from_numpy(vectors.astype(np.float32))
    exact /= exact.norm(dim=1, keepdim=True)
    rows = []
    for asked in (1, 256):
        queries = vectors[:asked]
        unit = exact[:asked]

        def floor(unit: torch.Tensor = unit) -> None:
            step = exact_search.BLOCK if len(unit) > exact_search.FEW else exact_search.SMALL_BLOCK
            for start in range(0, count, step):
                unit @ exact[start : start + step].T

        def sort(unit: torch.Tensor = unit) -> torch.Tensor:
            return (unit @ exact.T).argsort(dim=1, descending=True)[:, :NEIGHBOURS]

        def search(queries: np.ndarray = queries) -> exact_search.Neighbours:
            return fastcam.features.search(vectors, queries, NEIGHBOURS, lengths=lengths)

        found = search()
        assert (np.take_along_axis(found.indices, np.zeros((asked, 1), int), 1)[:, 0] == np.arange(asked)).all()
        agree = (sort().numpy() == found.indices).mean()
        assert agree > 0.99, agree  # float32 orders equally near ones otherwise
        timings = interleave({"floor": floor, "search": search, "sort": sort}, rounds)
        rows += [
            {
                "what": f"{asked} of {count}",
                "contestant": name,
                "seconds": timing.median,
                "times_floor": timing.median / timings["floor"].median,
            }
            for name, timing in timings.items()
        ]
        rows[-2]["megabytes"] = peak(search)
        rows[-1]["megabytes"] = peak(sort)
    return rows


def index(count: int) -> list[dict[str, Any]]:
    """Built, then searched for 256 queries."""
    import faiss

    vectors = clusters(count)
    start = time.perf_counter()
    built = neighbours._build(faiss, vectors, "cosine")
    seconds = time.perf_counter() - start
    faiss.extract_index_ivf(built).nprobe = neighbours._PROBES
    queries = exact_search.prepared(vectors[:256], "cosine")
    exact = fastcam.features.search(vectors, vectors[:256], NEIGHBOURS).indices
    start = time.perf_counter()
    found = built.search(queries, NEIGHBOURS)[1]
    searched = time.perf_counter() - start
    shared = np.mean([len(set(a) & set(b)) / NEIGHBOURS for a, b in zip(found, exact, strict=True)])
    return [{"what": f"index of {count}", "built": seconds, "searched_256": searched, "found": float(shared)}]


def places(count: int) -> list[dict[str, Any]]:
    """Seconds, and trustworthiness on a sample."""
    vectors = clusters(count, 1)
    start = time.perf_counter()
    found = fastcam.features.layout(vectors)
    seconds = time.perf_counter() - start
    chosen = np.random.default_rng(0).permutation(count)[:TRUSTED]
    kept = trustworthiness(vectors[chosen].astype(np.float32), found[chosen], n_neighbors=10, metric="cosine")
    return [{"what": f"places of {count}", "seconds": seconds, "trustworthiness": float(kept)}]


class Photographs(Dataset[torch.Tensor]):
    """As people write it."""

    def __init__(self, folder: Path) -> None:
        self.files, self.preprocessing = sorted(folder.iterdir()), Preprocessing()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.preprocessing(read_photograph(self.files[index]))


def loop(model: nn.Module, folder: Path) -> np.ndarray:
    """The vectors by a DataLoader and a hook."""
    kept: list[np.ndarray] = []
    handle = model.get_submodule("avgpool").register_forward_hook(
        lambda module, inputs, output: kept.append(output.flatten(1).cpu().numpy())
    )
    with torch.no_grad():
        for images in DataLoader(Photographs(folder), 8, num_workers=2):
            model(images)
    handle.remove()
    return np.concatenate(kept)


def dataset(rounds: int) -> list[dict[str, Any]]:
    """A folder of photographs of 500 x 375."""
    model = network("resnet50")
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "photographs"
        folder.mkdir()
        pictures = list(demo.photographs().values())
        for number in range(PHOTOGRAPHS):
            picture = pictures[number % len(pictures)].resize((500, 375), Image.Resampling.BICUBIC)
            picture.rotate(number % 7 - 3).save(folder / f"{number:03d}.jpg", quality=90)
        runs = 0

        def run() -> None:
            nonlocal runs
            runs += 1
            fastcam.features.run(str(folder), model, Path(root) / f"out{runs}", decoder="pillow")

        run()
        vectors = fastcam.features.open(Path(root) / "out1").vectors
        np.testing.assert_allclose(vectors, loop(model, folder), rtol=2e-2, atol=2e-3)
        timings = interleave({"fastcam features": run, "DataLoader and hook": lambda: loop(model, folder)}, rounds)
    return [
        {"what": f"{PHOTOGRAPHS} photographs", "contestant": name, "images_a_second": PHOTOGRAPHS / timing.median}
        for name, timing in timings.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--places", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rows = [
        *searches(options.vectors, options.rounds),
        *index(options.vectors),
        *places(options.places),
        *dataset(options.rounds),
    ]
    write("features", rows)
    table = Table("what", "value")
    for row in rows:
        values = ", ".join(f"{name} {value:.3g}" for name, value in row.items() if isinstance(value, float))
        table.add_row(f"{row['what']} {row.get('contestant', '')}", values)
    Console().print(table)


if __name__ == "__main__":
    main()
