"""Methods that try copies or go through the network, beside the peers: ``python -m benchmarks.methods``.

Occlusion has a benchmark of its own, :mod:`benchmarks.occlusion`.

One case is one method on one model and batch: fastcam, the tools that have the method, and a bare forward pass, timed
in turns; ``fastcam.bench.methods`` says how.
"""

import argparse
import functools
import json
import sys
import warnings
from typing import Any

import torch
from rich.console import Console

from benchmarks.networks import network
from benchmarks.results_io import RESULTS, write
from fastcam.bench.contest import KINK_TOLERANCE, SOFT_SPREAD, Case, Setting
from fastcam.bench.methods import measure
from fastcam.bench.tables import method_table
from fastcam.bench.timing import Patience

PATIENCE, ONCE = 10.0, 30.0  # seconds for all rounds of a contestant; of a call from which it is timed once

# Model, layer, batch, cases.
CASES: list[tuple[str, str, int, list[Case]]] = [
    (
        "resnet18",
        "layer4",
        1,
        [
            Case("saliency"),
            Case("guided_backprop"),
            Case("guided_grad_cam"),
            Case("full_grad", {"rescale": "channel"}, limit=KINK_TOLERANCE),
            Case("integrated_gradients", {"steps": 50}, "50 steps", KINK_TOLERANCE),
            Case("smooth_grad", {"samples": 25, "level": 0.15}, "25 samples", KINK_TOLERANCE),
            Case("rise", {"masks": 400}, "400 masks", note="no tool beside it"),
            Case("ablation_cam", label="linear head"),
            Case("score_cam", label="512 channels", spread=SOFT_SPREAD),
        ],
    ),
    ("vgg16", "features.29", 1, [Case("ablation_cam", label="512 channels")]),
    (
        "resnet50",
        "layer4",
        8,
        [
            Case("saliency"),
            Case("guided_backprop", without=("pytorch-grad-cam",)),  # it takes one image at a time
            Case("guided_grad_cam"),
            Case("full_grad", {"rescale": "channel"}, limit=KINK_TOLERANCE),
            Case("integrated_gradients", {"steps": 10}, "10 steps", KINK_TOLERANCE),
            Case("smooth_grad", {"samples": 5, "level": 0.15}, "5 samples", KINK_TOLERANCE),
            Case(
                "ablation_cam",
                label="linear head",
                without=("pytorch-grad-cam",),
                note="16384 forward passes for pytorch-grad-cam: minutes",
            ),
        ],
    ),
]


@functools.cache
def setting(name: str, layer: str, batch: int) -> Setting:
    """Random weights and images."""
    return Setting.of(name, network(name), torch.randn(batch, 3, 224, 224), layer)


def exchanged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows in the file, those of the same model and method exchanged."""
    kept = json.loads((RESULTS / "methods.json").read_text())["rows"]
    keys = [(row["model"], row["method"]) for row in kept]
    for key in dict.fromkeys((row["model"], row["method"]) for row in rows):
        new = [row for row in rows if (row["model"], row["method"]) == key]
        first = keys.index(key) if key in keys else len(kept)
        kept = (
            [row for row in kept[:first] if (row["model"], row["method"]) != key]
            + new
            + [row for row in kept[first:] if (row["model"], row["method"]) != key]
        )
        keys = [(row["model"], row["method"]) for row in kept]
    return kept


def main() -> None:
    """Prints the tables and keeps them as results/methods.json; with --only, in place of the rows that are there."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="of the fast ones; at least 2")
    parser.add_argument("--only", default="", help='cases with this in "model method"')
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    console = Console(width=140)
    patience = Patience(PATIENCE, arguments.rounds, once=ONCE)
    rows: list[dict[str, Any]] = []
    failed = []
    for name, layer, batch, cases in CASES:
        found: list[dict[str, Any]] = []
        for case in cases:
            if arguments.only not in f"{name} {case.method}":
                continue
            for row in measure(case, setting(name, layer, batch), patience):
                if row["refused"]:
                    failed.append(f"{name} {case.method}, {row['tool']}: {row['refused']}")
                else:
                    found.append(row)
            if not arguments.only:
                write("methods", rows + found)  # after every case: the whole takes minutes
        if found:
            console.print(method_table(found, f"{name}, batch {batch}"))
        rows += found
    if arguments.only:
        write("methods", exchanged(rows))
    for line in failed:
        console.print(f"not timed: {line}", markup=False, highlight=False, soft_wrap=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
