"""Renews the tables in README.md from the registry and from results/*.json: ``python -m benchmarks.readme``."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import fastcam
from benchmarks.timing import RESULTS

README = Path(__file__).parents[1] / "README.md"
TOOLS = ("fastcam", "pytorch-grad-cam", "torch-cam", "captum")


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def methods() -> str:
    """The registered methods."""
    names = {
        "mean_pool_classifier": "average pooling + linear head",
        "max_pool_classifier": "max pooling + linear head",
        "ablated_scores": "scores without each channel",
        "input_gradients": "gradients at the pixels",
        "guided_gradients": "guided gradients at the pixels",
        "deconvnet_gradients": "deconvnet gradients at the pixels",
        "scorer": "the model, again and again",
    }
    rows = [
        [f"`{each.name}`", each.summary, ", ".join(names.get(need, need) for need in each.needs), each.cost, each.paper]
        for each in fastcam.list_methods()
    ]
    return markdown(["name", "what it is", "needs", "forwards", "paper"], rows)


def end_to_end() -> str:
    """Times a bare forward, of every tool."""
    result = load("end_to_end")
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in result["rows"]:
        tool, _, method = row["contestant"].partition(" ")
        if tool in TOOLS:
            line = cells.setdefault((f"{row['model']}, batch {row['batch']}", method), {})
            line[tool] = f"{row['times_forward']:.2f}"
    rows = [[model, f"`{method}`", *(line.get(tool, "") for tool in TOOLS)] for (model, method), line in cells.items()]
    return markdown(["model", "method", *TOOLS], rows) + "\n\n" + described(result["hardware"])


def methods_speed() -> str:
    """Times a bare forward, of the methods that try copies of the image or go through the network."""
    result = load("methods")
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in result["rows"]:
        options = ", ".join(f"{name}={value!r}" for name, value in row["options"].items())
        method = f"`{row['method']}`" + (f" ({options})" if options else "")
        line = cells.setdefault((f"{row['model']}, batch {row['batch']}", method), {})
        line[row["tool"]] = f"{row['times_forward']:.{2 if row['times_forward'] < 10 else 0}f}"
    rows = [[model, method, *(line.get(tool, "") for tool in TOOLS)] for (model, method), line in cells.items()]
    counts = {row["rounds"] for row in result["rows"]}
    rounds = (
        f"Medians of {min(counts)} to {max(counts)} rounds." if len(counts) > 1 else f"Medians of {min(counts)} rounds."
    )
    return markdown(["model", "method", *TOOLS], rows) + "\n\n" + described(result["hardware"]) + " " + rounds


def ops() -> str:
    """How every op compares with eager PyTorch and with reading its input."""
    result = load("ops")
    rows = [
        [
            f"`{row['op']}`",
            row["case"],
            f"{row['times_eager']:.1f}",
            "" if row["times_read"] is None else f"{row['times_read']:.2f}",
        ]
        for row in result["rows"]
    ]
    return (
        markdown(["op", "on", "times faster than eager", "times the read"], rows)
        + "\n\n"
        + described(result["hardware"])
    )


def load(name: str) -> dict[str, Any]:
    """What a benchmark wrote."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def described(hardware: dict[str, Any]) -> str:
    """One line about the machine."""
    return (
        f"Measured on {hardware['threads']} threads of an {hardware['processor']} ({hardware['instruction_set']}), "
        f"PyTorch {hardware['torch']}; {'no GPU' if hardware['gpu'] is None else hardware['gpu']}."
    )


def renewed(text: str) -> str:
    """README.md with every table between its markers made again."""
    for make in (methods, end_to_end, methods_speed, ops):
        name = make.__name__
        block = f"<!-- table: {name} -->\n{make()}\n<!-- end -->"
        text, count = re.subn(rf"<!-- table: {name} -->.*?<!-- end -->", lambda _, b=block: b, text, flags=re.DOTALL)
        if count != 1:
            sys.exit(f"README.md must have one table marked {name!r}, found {count}")
    return text


if __name__ == "__main__":
    README.write_text(renewed(README.read_text()))
