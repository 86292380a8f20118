"""What looking inside costs: ``python -m benchmarks.inspect``.

Statistics and the twelve highest activations of all channels of ResNet-50's four stages, in turns with the forward pass
alone, the floor, and with the loop that people write: hooks, ``.cpu()``, and NumPy. The numbers must agree first.
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.networks import network
from benchmarks.results_io import write
from fastcam.bench.timing import interleave
from fastcam.inspect import Surveyor

STAGES = ("layer1", "layer2", "layer3", "layer4")
BATCH, TOP, ROUNDS = 8, 12, 5


def loop_with_hooks(model: nn.Module, images: Tensor) -> dict[str, dict[str, Any]]:
    """Return mean, deviation, zeros, quartiles and highest activations as code of one's own computes them."""
    kept: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: kept.update({name: o.cpu()}))
        for name in STAGES
    ]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    found = {}
    for name, output in kept.items():
        maps = output.numpy()
        flat = maps.transpose(1, 0, 2, 3).reshape(maps.shape[1], -1)
        highest = maps.reshape(*maps.shape[:2], -1)
        order = np.argsort(-highest.max(2), axis=0)[:TOP]
        found[name] = {
            "mean": flat.mean(1),
            "deviation": flat.std(1),
            "zeros": (flat == 0).mean(1),
            "quartiles": np.quantile(flat, [0.25, 0.5, 0.75], axis=1),
            "images": order,
            "places": highest.argmax(2),
        }
    return found


def check(model: nn.Module, images: Tensor) -> None:
    """Assert that both find the same."""
    surveyor = Surveyor(model, list(STAGES), TOP)
    surveyor(images)
    for name, numbers in loop_with_hooks(model, images).items():
        seen = surveyor.survey[name].statistics
        np.testing.assert_allclose(seen.mean, numbers["mean"], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(seen.deviation, numbers["deviation"], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(seen.zero_share, numbers["zeros"], atol=1e-9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    model = network("resnet50")
    images = torch.randn(BATCH, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    check(model, images)
    surveyor = Surveyor(model, list(STAGES), TOP)

    def forward() -> None:
        with torch.no_grad():
            model(images)

    contestants: dict[str, Callable[[], Any]] = {
        "forward pass": forward,
        "fastcam.inspect": lambda: surveyor(images),
        "hooks and NumPy": lambda: loop_with_hooks(model, images),
    }
    times = interleave(contestants, options.rounds)
    table, rows = Table("what", "times the forward pass"), []
    for name, timing in times.items():
        ratio = timing.median / times["forward pass"].median
        rows.append(
            {"model": "resnet50", "images": BATCH, "tool": name, "times_floor": ratio, "rounds": options.rounds}
        )
        table.add_row(name, f"{ratio:.2f}")
    write("inspect", rows)
    Console().print(table)


if __name__ == "__main__":
    main()
