"""``fastcam bench``: how fast it is here."""

from pathlib import Path
from typing import Annotated

import typer

from fastcam.cli.console import complain, mistakes_in_one_sentence, output, progress_bar
from fastcam.cli.options import Device, Tokens, check_model, device_of, reshape_transform


def bench(
    model: Annotated[str, typer.Option(help="As for explain.")] = "torchvision:resnet18",
    weights: Annotated[Path | None, typer.Option(help="State dict; without it the weights are random.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 1,
    only: Annotated[
        list[str] | None, typer.Option(help="Op or method; repeatable.", show_default="all of both")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.001, help="For each row; what takes longer is timed once.")] = 0.5,
    json: Annotated[Path | None, typer.Option(help="File for the figures, with the hardware's name.")] = None,
    layer: Annotated[str | None, typer.Option(help="Target layer.", show_default="last with a map")] = None,
    reshape: Tokens = None,
    device: Device = None,
) -> None:
    """Time ops and methods on this machine, beside PyTorch, a bare forward pass and what other tools are installed."""
    with mistakes_in_one_sentence():
        check_model(model, weights)
        from fastcam.bench import peers, tables
        from fastcam.bench.hardware import describe, hardware
        from fastcam.bench.session import Session, check_names, setting_of
        from fastcam.bench.timing import Patience
        from fastcam.classifiers import models

        check_names(only or [])
        if json is not None:
            json.open("a").close()  # better now than after minutes
        loaded = models.load(model, weights)
        at = setting_of(model, loaded, batch, device_of(device), layer, reshape_transform(reshape))
        session = Session(at, Patience.of(seconds), tuple(only or ()))
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
        console.print(tables.method_table(session.method_rows, f"{model}, layer {at.layer}, batch {batch}"))
    for each in session.unable:
        typer.echo(f"Not timed: {each}")
    typer.echo(describe(hardware()))
    if peers.missing():
        typer.echo(f"To compare with more tools: pip install {' '.join(peers.missing())}")
    for each in session.disagreements:
        complain(f"not timed: {each}")
    raise typer.Exit(1 if session.disagreements else 0)
