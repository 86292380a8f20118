"""``fastcam bench``: timings on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from fastcam.cli.console import output, print_error, progress_bar, report_errors
from fastcam.cli.options import Device, Tokens, check_model, find_device, reshape_transform


def bench(
    model: Annotated[str, typer.Option(help="As for explain.")] = "torchvision:resnet18",
    weights: Annotated[Path | None, typer.Option(help="State dict; without it the weights are random.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 1,
    only: Annotated[
        list[str] | None, typer.Option(help="Op or method; repeatable.", show_default="all of both")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.001, help="Per row; slower calls are timed once.")] = 0.5,
    json: Annotated[Path | None, typer.Option(help="File for the figures, with the hardware's name.")] = None,
    layer: Annotated[str | None, typer.Option(help="Target layer.", show_default="last with a map")] = None,
    reshape: Tokens = None,
    device: Device = None,
) -> None:
    """Time ops and methods on this machine, next to PyTorch, a bare forward pass and other installed tools."""
    with report_errors():
        check_model(model, weights)
        from fastcam.bench import peers, tables
        from fastcam.bench.hardware import describe, hardware
        from fastcam.bench.session import Session, check_names, setting_of
        from fastcam.bench.timing import Patience
        from fastcam.classifiers import models

        check_names(only or [])
        if json is not None:
            json.open("a").close()  # fails now rather than after minutes
        classifier = models.load(model, weights)
        setting = setting_of(model, classifier, batch, find_device(device), layer, reshape_transform(reshape))
        session = Session(setting, Patience.of(seconds), tuple(only or ()))
        with progress_bar() as progress:
            task = progress.add_task("measuring", total=len(session))
            for name in session.run():
                progress.update(task, description=f"measuring {name}")
                progress.advance(task)
        if json is not None:
            session.write(json)
    console = output()
    if session.op_rows:
        console.print(tables.op_table(session.op_rows))
    if session.method_rows:
        console.print(tables.method_table(session.method_rows, f"{model}, layer {setting.layer}, batch {batch}"))
    for message in session.unable:
        typer.echo(f"Not timed: {message}")
    typer.echo(describe(hardware()))
    if peers.missing():
        typer.echo(f"To compare with more tools: pip install {' '.join(peers.missing())}")
    for message in session.disagreements:
        print_error(f"not timed: {message}")
    raise typer.Exit(1 if session.disagreements else 0)
