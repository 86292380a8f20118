"""``fastcam methods``, ``doctor`` and ``demo``: what is here, whether it works, and how it looks."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

import fastcam
from fastcam.cli.console import complain, mistakes_in_one_sentence, output


def methods() -> None:
    """List the methods: what each needs, its definition and its paper."""
    table = Table("name", "needs", "forwards", "definition", "options", "paper")
    for each in fastcam.list_methods():
        needs = ", ".join(need.replace("_", " ") for need in each.needs)
        options = ", ".join(f"{name}={value}" for name, value in each.options.items())
        table.add_row(*map(escape, (each.name, needs, each.cost, each.summary, options, each.paper)))
    output().print(table)


def doctor() -> None:
    """Show what this installation can do, and check the compiled ops against their references."""
    from fastcam.cli import doctor as diagnosis

    table = Table("what", "found")
    for name, value in diagnosis.facts().items():
        table.add_row(escape(name), escape(value))
    output().print(table)
    checks = diagnosis.self_check()
    results = Table("op", "device", "difference to its reference", "self check")
    for check in checks:
        verdict = "[green]ok[/]" if check.passed else f"[red]FAILED[/] {escape(check.error)}"
        results.add_row(check.op, check.device, f"{check.difference:.1e}", verdict)
    output().print(results)
    if not all(check.passed for check in checks):
        complain("the self check failed: maps from this installation are wrong; reinstall, or set FASTCAM_REFERENCE=1")
        raise typer.Exit(1)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the overlays and contact_sheet.png.")] = Path("fastcam_demo"),
) -> None:
    """Explain a few photographs with a trained network; nothing is downloaded."""
    from fastcam.cli import demo as demonstration

    with mistakes_in_one_sentence():
        demonstration.run(out)
