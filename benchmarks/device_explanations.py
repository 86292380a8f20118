"""Whole explanations on the GPU that is here: ``python -m benchmarks.device_explanations``.

fastcam as it is, with and without recorded graphs, and prepared, beside the peers and a bare forward pass, for batches
from one image to 256. Maps must agree before anything is timed. `benchmarks.device` runs this too.
"""

import argparse
import sys
import warnings

import torch
from rich.console import Console

from benchmarks.networks import network
from benchmarks.results_io import gpu_name, write
from fastcam import Explainer
from fastcam.bench.contest import Case, Contestant, Entrant, Setting
from fastcam.bench.methods import every_case, measure
from fastcam.bench.rows import MethodRow
from fastcam.bench.tables import method_table
from fastcam.bench.timing import Patience
from fastcam.preparation.prepare import Precision

PATIENCE = Patience(0.5, 15)
CALLS_BEFORE_TIMING = 3  # the first prepares, the second records
HALF_TOLERANCE = 0.25  # of the range of a map, where the model computes in half precision
BATCHES = (1, 64, 256)
NETWORKS = ("resnet50", "efficientnet_b0", "convnext_tiny", "vit_b_16")
COPYING = ("integrated_gradients", "smooth_grad", "score_cam", "occlusion")  # of one network, for a few images


def explainer_entrant(graph: bool, precision: Precision | None = None, compile: bool = False) -> Entrant:
    """Return fastcam in one of its modes as an entrant."""

    def enter(case: Case, at: Setting) -> list[Contestant]:
        model = at.with_copy().model
        explainer = Explainer(
            model,
            case.method,
            at.layer,
            reshape_transform=at.reshape,
            precision=precision,
            compile=compile,
            graph=graph,
            **case.options,
        )
        for _ in range(CALLS_BEFORE_TIMING):
            explainer(at.images, at.targets).maps  # noqa: B018 - made when it is asked for
        states = ", ".join(report.state for report in explainer.graphs)
        limit = None if precision is None else HALF_TOLERANCE
        return [Contestant(lambda: explainer(at.images, at.targets).maps, setting=states, limit=limit)]

    return enter


GRAPH: dict[str, Entrant] = {
    "fastcam, one graph": explainer_entrant(graph=True),  # as by default, and it says what was recorded
    "fastcam, no graph": explainer_entrant(graph=False),
}
PREPARED: dict[str, Entrant] = {  # compiling takes most of a minute each: of the first network alone
    "fastcam, prepared, no graph": explainer_entrant(graph=False, precision="auto", compile=True),
    "fastcam, prepared, one graph": explainer_entrant(graph=True, precision="auto", compile=True),
}


def rows_of(
    name: str, batch: int, methods: tuple[str, ...], modes: dict[str, Entrant], device: torch.device
) -> list[MethodRow]:
    """Measure methods on a network."""
    images = torch.randn(batch, 3, 224, 224, device=device)
    at = Setting.of(name, network(name).to(device), images)
    return [row for case in every_case(at.size, methods) for row in measure(case, at, PATIENCE, modes)]


def main() -> None:
    """Measure, print and keep as results/device_explanations_<name>.json."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--networks", nargs="*", default=NETWORKS)
    parser.add_argument("--batches", nargs="*", type=int, default=BATCHES)
    parser.add_argument("--device", default="cuda")
    at = parser.parse_args()
    device = torch.device(at.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("benchmarks.device_explanations measures a GPU, and torch finds none here; --device cpu tries it out")
    warnings.filterwarnings("ignore")
    console, rows = Console(width=150), []
    contests: list[tuple[str, int, tuple[str, ...], dict[str, Entrant]]] = [
        (name, batch, ("grad_cam",), GRAPH | PREPARED if name == at.networks[0] else GRAPH)
        for name in at.networks
        for batch in at.batches
    ]
    for name, batch, methods, modes in [*contests, (at.networks[0], min(8, *at.batches), COPYING, GRAPH)]:
        found = rows_of(name, batch, methods, modes, device)
        console.print(method_table(found, f"{name}, batch {batch}"))
        rows += found
    if device.type == "cuda":
        console.print(f"written: {write(f'device_explanations_{gpu_name()}', rows)}")


if __name__ == "__main__":
    main()
