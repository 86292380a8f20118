"""``fastcam layers``: the layers of a model, and which of them can be explained."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from fastcam.cli import options
from fastcam.cli.console import output, print_error, report_errors
from fastcam.cli.model_options import WeightOptions

if TYPE_CHECKING:
    from fastcam.cli.layer_list import ListedLayer

EXIT_CODES = "Exit codes: 0 all fine; 2 an unknown model, weights that do not fit, or a model that does not run."


def layers(
    model: Annotated[str, typer.Argument(help="As --model of explain, such as torchvision:resnet18.")],
    network: WeightOptions,
    size: options.Size = None,
) -> None:
    """List the layers of a model with the shapes of their outputs, the possible --layer, and the default.

    A layer can be explained if its output is a map (N, C, h, w), or tokens that can be one: by its shape, for one image
    of the model's input size.
    """
    with report_errors():
        network.check(model)
        from fastcam.classifiers import models
        from fastcam.cli import layer_list

        # Its weights may be random: shapes do not depend on them.
        classifier = models.load(model, network.weights, num_classes=network.num_classes, trust=network.trust_model)
        preprocessing = classifier.preprocessing.changed(size=size)
        listed, reason = layer_list.of(classifier.model, (len(preprocessing.mean), *preprocessing.size))
    output().print(_table(listed))
    if reason:
        print_error(f"there is no default: {reason}")


def _table(listed: "list[ListedLayer]") -> Table:
    table = Table("layer", "class", "output", "can be --layer")
    for layer in listed:
        shape = " x ".join(map(str, layer.shape)) if layer.shape else "not run, or no tensor"
        target = f"{layer.target}, the default" if layer.is_default else layer.target
        style = "bold green" if layer.is_default else "" if layer.target else "dim"
        table.add_row(escape(layer.name), escape(layer.kind), shape, target, style=style)
    return table
