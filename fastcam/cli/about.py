"""``fastcam methods``, ``doctor`` and ``demo``: the methods, a self check and a demonstration."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

import fastcam
from fastcam.cli.console import output, print_error, report_errors


def methods() -> None:
    """List the methods with their needs, definition, options and paper."""
    table = Table("name", "needs", "forwards", "definition", "options", "paper")
    for method in fastcam.list_methods():
        needs = ", ".join(need.replace("_", " ") for need in method.needs)
        options = ", ".join(f"{name}={value}" for name, value in method.options.items())
        table.add_row(*map(escape, (method.name, needs, method.cost, method.summary, options, method.paper)))
    output().print(table)


def doctor() -> None:
    """Show the installation, and check the compiled ops against their references."""
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
        print_error(
            "the self check failed: maps from this installation are wrong; reinstall, or set FASTCAM_REFERENCE=1"
        )
        raise typer.Exit(1)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the overlays and contact_sheet.png.")] = Path("fastcam_demo"),
) -> None:
    """Explain a few photographs with a trained network; nothing is downloaded."""
    from fastcam.cli import demo as demonstration

    with report_errors():
        demonstration.run(out)
