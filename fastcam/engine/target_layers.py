"""The target layers of an explanation: which they are, which of their runs, and where their maps are."""

from collections.abc import Hashable, Sequence
from dataclasses import replace

from torch import Tensor, nn

from fastcam import targets
from fastcam.devices import all_rows
from fastcam.engine.notes import Notes
from fastcam.engine.settings import Settings
from fastcam.model import capture, layers, quantised
from fastcam.model.elements import ModelOutput, Select
from fastcam.model.inputs import Inputs
from fastcam.targets.binding import bind_optional, select_output
from fastcam.targets.output_part import implied

SMALL = 4  # positions along an axis; the map of a smaller layer is coarse


def resolve(model: nn.Module, inputs: Inputs, target: targets.Target, settings: Settings) -> list[capture.Layer]:
    """Return the target layers, found on the model if the user named none."""

    def main_part(output: ModelOutput) -> ModelOutput:  # for callables too, which are given the whole output
        return select_output(output, implied(output, settings.select, None))

    def score(output: ModelOutput) -> Tensor:
        part = select_output(output, implied(output, settings.select, target))
        return bind_optional(part, target, inputs.images)(part, all_rows(len(inputs)))

    scored_layer = target.layer if isinstance(target, targets.Score) else None
    scoring = layers.Scoring(main_part, score, _key_of(settings.select), scored_layer)
    found = layers.resolve(model, settings.target_layer, inputs, scoring)
    if settings.layer_run is not None:
        found = [replace(layer, run=settings.layer_run) for layer in found]
    return found if settings.finds_token_maps else [replace(layer, token_map=None) for layer in found]


def _key_of(select: Select) -> Hashable:
    """Return what the layers found for a part of the output are kept by; of a function, which might hold the model."""
    if callable(select):
        return getattr(select, "__code__", type(select).__qualname__)
    return select


def with_runs(
    model: nn.Module, chosen: Sequence[capture.Layer], captured: capture.Captured, inputs: Inputs, notes: Notes
) -> list[capture.Layer]:
    """Return the layers with the run that is explained of each that ran several times."""
    located = []
    for layer, runs in zip(chosen, captured.runs, strict=False):
        if runs == 1 or layer.run is not None:
            located.append(layer)
            continue
        found, is_certain = layers.with_run(model, layer, inputs, runs)
        described = f"target layer {layer.name!r} ran {runs} times in one forward pass"
        if is_certain:
            notes.say(f"{described}; only run {found.run} depends on the explained images, and is explained")
        else:
            notes.guess(
                f"{described}; the last run that depends on the images is explained: choose one with layer_run="
            )
        located.append(found if found.run != runs - 1 else layer)
    return located


def with_token_maps(
    model: nn.Module,
    chosen: Sequence[capture.Layer],
    activations: Sequence[Tensor],
    inputs: Inputs,
    settings: Settings,
    notes: Notes,
) -> list[capture.Layer]:
    """Return the layers with the maps in their outputs, unless the user's own transform gives them."""
    if settings.target_layer is None and chosen and quantised.holds_quantised(model):
        notes.say(
            f"the model is quantised: layer {chosen[0].name!r} was chosen as the last one with a map, without a "
            "gradient that shows that the score depends on it; target_layer= names another"
        )
    if not settings.finds_token_maps:
        return list(chosen)
    pairs = zip(chosen, activations, strict=True)
    located = [layers.with_token_map(model, layer, activation, inputs) for layer, activation in pairs]
    for layer, activation in zip(located, activations, strict=True):
        if layer.token_map is not None:
            described = f"the output {tuple(activation.shape[1:])} of layer {layer.name!r}"
            if layer.token_map.is_verified:
                notes.say(f"{described} is a map of {layer.token_map}")
            else:
                notes.guess(
                    f"{described} is taken for a map of {layer.token_map} in row order; its positions follow no part "
                    "of the image clearly enough to tell: pass reshape_transform= to say where they lie"
                )
        size = layer.token_map.grid if layer.token_map else tuple(activation.shape[2:])
        if settings.target_layer is None and size and min(size) < SMALL < min(inputs.images.shape[2:]):
            notes.say(
                f"the map of layer {layer.name!r}, which was chosen, has {' x '.join(map(str, size))} positions; an "
                "earlier target_layer= gives a finer one"
            )
    return located
