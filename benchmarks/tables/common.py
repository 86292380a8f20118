"""What the tables have in common."""

import json
from typing import Any

from benchmarks.results_io import RESULTS


def load(name: str) -> dict[str, Any]:
    """What a benchmark wrote."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shortened(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"
