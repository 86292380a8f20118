"""Whole explanations beside the peers and beside a bare forward: ``python -m benchmarks.end_to_end``.

Every contestant gets the same eager float32 model and images and returns one map per image; fastcam and
pytorch-grad-cam at the size of the image, torch-cam and Captum at the layer's size. The maps must agree before
anything is timed.
"""

import argparse
import sys
import warnings
from typing import Any

import torch
from rich.console import Console

from benchmarks.networks import network
from benchmarks.results_io import write
from fastcam.bench.contest import Setting
from fastcam.bench.methods import every_case, measure
from fastcam.bench.tables import method_table
from fastcam.bench.timing import Patience

METHODS = ("grad_cam", "grad_cam_pp", "layer_cam")


def rows_of(name: str, batch: int, rounds: int) -> list[dict[str, Any]]:
    at = Setting.of(name, network(name), torch.randn(batch, 3, 224, 224), "layer4")
    return [row for case in every_case(at.size, METHODS) for row in measure(case, at, Patience(60.0, rounds))]


def main() -> None:
    """Prints the tables and keeps them as results/end_to_end.json."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    warnings.filterwarnings("ignore")
    console = Console(width=120)
    rows = []
    for name in ("resnet18", "resnet50"):
        for batch in (1, 8):
            found = rows_of(name, batch, rounds)
            console.print(method_table(found, f"{name}, batch {batch}"))
            rows += found
    refused = [f"{row['model']} {row['method']}, {row['tool']}: {row['refused']}" for row in rows if row["refused"]]
    if refused:
        sys.exit("\n".join(refused))
    kept = [row | {"contestant": f"{row['tool']} {row['method']}"} for row in rows]
    console.print(f"written: {write('end_to_end', kept)}")


if __name__ == "__main__":
    main()
