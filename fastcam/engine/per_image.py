"""The model's other arguments with what was found out about their rows, and notes on it."""

from torch import nn

from fastcam.engine.notes import Notes
from fastcam.model import argument_rows
from fastcam.model.elements import ModelOutput, Select
from fastcam.model.inputs import Inputs
from fastcam.targets.binding import select_output
from fastcam.targets.output_part import implied


def checked(model: nn.Module, inputs: Inputs, select: Select, notes: Notes) -> Inputs:
    """Return the inputs with every argument marked that turns out to be the same for all images, or several for each.

    Args:
        model: the module to explain.
        inputs: N images and the other arguments.
        select: the part of the output that is scored; of several without it, the one with the logits is compared.
        notes: told what was found.
    """

    def scored(output: ModelOutput) -> ModelOutput:
        return select_output(output, implied(output, select, None))

    found = argument_rows.find(model, inputs, scored)
    if found is None:
        _tell_guess(model, inputs, notes)
        return inputs
    if found.shared - inputs.shared:
        places = _places(inputs, found.shared)
        notes.say(f"arguments {places} of the model are the same for all images, as its output for one image shows")
    if found.several:
        places = _places(inputs, found.several)
        notes.say(f"arguments {places} of the model have several rows per image, as its output for two images shows")
    return found.of(inputs)


def _tell_guess(model: nn.Module, inputs: Inputs, notes: Notes) -> None:
    candidates, multiples = argument_rows.unclear(model, inputs)
    kinds = [
        (candidates, "as many rows as there are images and are taken for one row per image"),
        (multiples, "several times as many rows as there are images and are taken for the same for all"),
    ]
    guesses = [f"arguments {_places(inputs, each)} have {what}" for each, what in kinds if each]
    notes.guess(
        f"{', '.join(guesses)}, but the output for one image alone is not its row of the output for all; pass shared= "
        "if they are the same for all images"
    )


def _places(inputs: Inputs, indices: frozenset[int]) -> list[int]:
    return [inputs.place_of(index) for index in sorted(indices)]
