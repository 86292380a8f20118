"""Every op beside eager PyTorch and beside reading its input once: ``python -m benchmarks.ops``."""

import torch
from rich.console import Console

from benchmarks.results_io import write
from fastcam.bench.op_cases import op_cases
from fastcam.bench.ops import measure
from fastcam.bench.tables import op_table
from fastcam.bench.timing import Patience

PATIENCE = Patience(10.0, 15)


def main() -> None:
    """Prints the table and keeps it as results/ops.json."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    rows = [measure(case, PATIENCE) for device in devices for case in op_cases(device)]
    console = Console(width=140)
    console.print(op_table(rows))
    console.print(f"written: {write('ops', rows)}")


if __name__ == "__main__":
    main()
