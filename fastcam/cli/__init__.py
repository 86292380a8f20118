"""The command line: one module per group of commands, registered here."""

import sys
from typing import Annotated

import fastcam

try:
    import rich  # noqa: F401 - the commands draw with it
    import typer
except ImportError:
    sys.exit('fastcam: the command line needs typer and rich: pip install "fastcam[cli]"')

from fastcam.cli import (
    about,
    bench,
    dataset,
    detect,
    evaluate,
    explain,
    features,
    inspect,
    layers,
    mosaic,
    randomisation,
    stats,
    view,
)
from fastcam.cli.grouping import grouped

app = typer.Typer(
    help="Saliency maps for PyTorch vision models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command(epilog=explain.EXIT_CODES)(grouped(explain.explain))
app.command(epilog=detect.EXIT_CODES)(grouped(detect.detect))
app.command(epilog=layers.EXIT_CODES)(grouped(layers.layers))
app.command("map", epilog=dataset.MAP_CODES)(grouped(dataset.map_))
app.command(epilog=evaluate.EXIT_CODES)(grouped(evaluate.evaluate))
app.command(epilog=inspect.EXIT_CODES)(grouped(inspect.activations))
app.command(epilog=inspect.EXIT_CODES)(grouped(inspect.neurons))
app.command(epilog="Exit codes: 0 all fine; 2 bad usage, or a layer without filters.")(grouped(inspect.filters))
app.command(epilog=features.FEATURES_CODES)(grouped(features.features))
app.command(epilog=features.CODES)(grouped(features.neighbours))
app.command(epilog=features.CODES)(mosaic.mosaic)
app.command(epilog=randomisation.EXIT_CODES)(grouped(randomisation.randomisation))
app.command(
    epilog="Exit codes: 0 ended by Ctrl-C; 2 no folder of maps, a source that cannot be read, or a port in use."
)(view.view)
app.command(epilog=dataset.VERIFY_CODES)(dataset.verify)
app.command(epilog="Exit codes: 0 all fine; 2 no folder of maps, or it is damaged.")(stats.stats)
app.command(epilog="Exit codes: 0 all fine; 2 bad usage, or the folder cannot be written.")(dataset.export)
app.command()(about.methods)
app.command()(evaluate.measures)
app.command(epilog="Exit codes: 0 all fine; 1 a compiled op disagrees with its reference.")(about.doctor)
app.command(
    epilog="Exit codes: 0 all fine; 1 an op or another tool returns other values, and was not timed; 2 bad usage."
)(bench.bench)
app.command(epilog="Exit codes: 0 all fine; 2 a package of the demo is missing, or the folder cannot be written.")(
    about.demo
)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(f"fastcam {fastcam.__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point of the console script."""
    app()
