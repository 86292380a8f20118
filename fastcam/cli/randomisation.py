"""``fastcam randomisation``: do the maps of a method depend on the model's weights."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from fastcam.cli import options, outputs, photographs
from fastcam.cli.console import output, print_error, report_errors
from fastcam.cli.model_options import ClassifierOptions, InputOptions, MethodOptions

if TYPE_CHECKING:
    from torch import Tensor

    from fastcam.classifiers.preprocessing import Preprocessing
    from fastcam.evaluate import Randomisation

EXIT_CODES = (
    "Exit codes: 0 all fine; 1 some images could not be read, the others are done; 2 bad usage, nothing to do, or a "
    "package is missing; 130 ended by Ctrl-C."
)


def randomisation(
    images: Annotated[list[str], typer.Argument(help="Files, folders (searched recursively) or globs.")],
    model: options.Model,
    network: ClassifierOptions,
    maps: MethodOptions,
    geometry: InputOptions,
    randomise: Annotated[
        list[str] | None,
        typer.Option(
            help="Layer to make random with all below it, from the output on; repeatable.", show_default="every one"
        ),
    ] = None,
    independent: Annotated[
        bool, typer.Option("--independent", help="One layer at a time, instead of all from the output on.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="Only the first so many images.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the weights.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="PNG or PDF file for the similarities over the layers.")] = None,
    device: options.Device = None,
) -> None:
    """Make the model's weights random, layer by layer, and tell whether the maps notice (arXiv:1810.03292).

    A method whose maps stay the same does not explain what the model has learned. The table has the rank correlations
    with the maps of the trained model, means over the images.
    """
    with report_errors():
        names, method_options = maps.methods(), maps.settings()
        network.check(model)
        if plot is not None:
            outputs.check_folder(plot.absolute().parent, "the folder of --plot")
        paths = photographs.find(images, plot or Path())[:limit]
        torch_device = options.find_device(device)
        classifier = network.load(model, torch_device)
        preprocessing = geometry.change(classifier.preprocessing)
        batch, failed = _read(paths, preprocessing)
        from fastcam.classifiers.class_choice import ClassChoice

        chosen = ClassChoice(tuple(maps.target or ())).target(replace(classifier, preprocessing=preprocessing))
        given: dict[str, Any] = {
            "order": "independent" if independent else "cascading",
            "layers": randomise or None,
            "seed": seed,
            "target_layer": maps.target_layer(),
            **method_options,
        }
        from fastcam import evaluate

        results = [
            evaluate.randomisation(classifier.model, batch.to(torch_device), name, chosen, progress=True, **given)
            for name in names
        ]
        output().print(_table(results))
        for result in results:
            typer.echo(result.verdict)
        if plot is not None:
            evaluate.plot_randomisations(results).savefig(plot)
            typer.echo(f"plot in {plot}")
    raise typer.Exit(1 if failed else 0)


def _read(paths: list[Path], preprocessing: "Preprocessing") -> "tuple[Tensor, bool]":
    """Return the images that can be read (N, C, H, W), and whether others were there."""
    import torch

    from fastcam.classifiers.preprocessing import read_photograph

    read = []
    for path in paths:
        try:
            read.append(preprocessing(read_photograph(path)))
        except ValueError as error:
            print_error(f"{path}: {error}")
    if not read:
        raise ValueError("no pictures were found" if not paths else "none of the pictures can be read")
    return torch.stack(read), len(read) < len(paths)


def _table(results: "list[Randomisation]") -> Table:
    table = Table("random, from the output on" if results[0].order == "cascading" else "random alone")
    for result in results:
        table.add_column(result.method, justify="right")
    means = [result.similarity["spearman"].nanmean(1).tolist() for result in results]
    for index, name in enumerate(results[0].layers):
        table.add_row(name, *(f"{values[index]:.3f}" for values in means))
    return table
