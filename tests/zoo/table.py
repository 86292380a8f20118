"""The table as Markdown, and the line that sums it up."""

from collections import Counter
from collections.abc import Sequence

from tests.zoo.measure import Row

_HEADS = (
    *("model", "input", "parameters", "explained", "layer found", "map", "notes", "needs", "result", "map is"),
    *("difference from autograd", "follows the image", "other methods", "seconds"),
)


def summary(rows: Sequence[Row]) -> str:
    """Return how many rows have each result."""
    counts = Counter(row.result for row in rows)
    names = ("found", "needed an argument", "wrong", "refused", "skipped")
    return f"{len(rows)} models: " + ", ".join(f"{counts[name]} {name}" for name in names)


def markdown(rows: Sequence[Row]) -> str:
    """Return the table with its summary."""
    lines = [summary(rows), "", _line(_HEADS), _line(["---"] * len(_HEADS))]
    return "\n".join([*lines, *(_line(_cells(row)) for row in rows)]) + "\n"


def line(row: Row) -> str:
    """Return a row as one line of text, for the terminal."""
    size = f"{row.layer} {row.map_size}" if row.layer else ""
    numbers = "" if row.difference is None else f"{row.difference:.0e} {row.dtype}, follows {row.inside:.1f}"
    seconds = "" if row.seconds is None else f"{row.seconds:.1f} s"
    return "  ".join(filter(None, (f"{row.model}: {row.result}", size, numbers, seconds, row.reason)))


def _cells(row: Row) -> list[str]:
    return [
        row.model,
        row.input_size,
        "" if row.parameters is None else f"{row.parameters / 1e6:.1f} M",
        row.target,
        row.layer,
        row.map_size,
        row.notes,
        row.needs,
        f"{row.result}: {row.reason}" if row.reason else row.result,
        row.status,
        "" if row.difference is None else f"{row.difference:.0e} ({row.dtype})",
        "" if row.inside is None else f"{row.inside:.1f}",
        "ok" if row.methods and all(part.endswith(": ok") for part in row.methods.split("; ")) else row.methods,
        "" if row.seconds is None else f"{row.seconds:.1f}",
    ]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
