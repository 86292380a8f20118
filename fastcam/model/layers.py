"""The layers to explain: by module, by name, or found; and the maps in their outputs."""

import difflib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from fastcam.model import default_layer, gradient_search, memory, token_maps, verification
from fastcam.model.capture import Layer
from fastcam.model.elements import ModelOutput
from fastcam.model.inputs import Inputs
from fastcam.model.split_model import SplitModel
from fastcam.model.token_maps import TokenMap

TargetLayer = nn.Module | str | Sequence[nn.Module | str] | None


@dataclass(frozen=True)
class Scoring:
    """What of a model's output is scored, for the layer that is found where none is named.

    Attributes:
        output_of: the scored part of the output.
        score: from the output to the scores of the images.
        part: of the output, for which the layer of a classifier is found once per model and image shape; it depends on
            no class.
        before: the name of the layer that is scored in place of the output, if any.
    """

    output_of: Callable[[ModelOutput], ModelOutput] = lambda output: output
    score: default_layer.Score = gradient_search.random_projection
    part: Hashable = None
    before: str | None = None


def resolve(model: nn.Module, target_layer: TargetLayer, inputs: Inputs, scoring: Scoring = Scoring()) -> list[Layer]:
    """Return the target layers with their names.

    Args:
        model: the module to explain.
        target_layer: a module of the model, its name, a list of either, or None for the layer that
            :mod:`fastcam.model.default_layer` finds.
        inputs: the model's inputs.
        scoring: what is scored.

    Raises:
        ValueError: for a layer that the model does not have, an empty list, or a model without a spatial map.
        TypeError: for anything else, and for TorchScript modules, which cannot be hooked.
    """
    _refuse_scripted(model)
    if target_layer is None:
        return [_find_default_layer(model, inputs, scoring)]
    chosen = list(target_layer) if isinstance(target_layer, list | tuple) else [target_layer]
    if not chosen:
        raise ValueError("`target_layer` must name at least one layer, got an empty list")
    return [resolve_one(model, item) for item in chosen]


def _refuse_scripted(module: nn.Module) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        raise TypeError(
            "TorchScript modules cannot be hooked, and this one is part of another model, in training mode, or holds "
            "what cannot be read; explain the nn.Module that it was made from"
        )


def get_layer(model: nn.Module, name: str) -> Layer:
    """Return the layer of that name.

    Raises:
        ValueError: if the model has no such layer (the message lists similar names), or the layer was changed.
    """
    module = _get_module(model, name)
    if isinstance(model, SplitModel):
        model.check_layer(name)
    return Layer(name, module)


def resolve_one(model: nn.Module, item: object) -> Layer:
    """Return the target layer given by a module of the model or its name; raises as :func:`resolve`."""
    if isinstance(item, str):
        return get_layer(model, item)
    if not isinstance(item, nn.Module):
        raise TypeError(f"`target_layer` must be a module, its name or a list of them, got {type(item).__name__}")
    for name, module in model.named_modules():
        if module is item or getattr(module, "source", None) is item:
            return get_layer(model, name) if name else Layer(name, module)
    if isinstance(model, SplitModel) and (known := model.name_of(item)):
        return get_layer(model, known)
    raise ValueError(f"`target_layer` must be a module of the model, got a {type(item).__name__} that is not")


def _get_module(model: nn.Module, name: str) -> nn.Module:
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel) and not name.startswith("module"):
        name = f"module.{name}"  # the wrapper's one child is the model that the name is of
    try:
        module = model.get_submodule(name)
    except AttributeError:
        names = [known for known, _ in model.named_modules() if known]
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.3)
        hint = f"; did you mean {', '.join(map(repr, near))}?" if near else ""
        raise ValueError(f"the model has no layer named {name!r}{hint}") from None
    _refuse_scripted(module)
    return module


def _find_default_layer(model: nn.Module, inputs: Inputs, scoring: Scoring) -> Layer:
    known = memory.of(model)
    key = ("default layer", inputs.position, tuple(inputs.images.shape[1:]), scoring.part, scoring.before)
    if key not in known:
        found, is_reusable = default_layer.find(model, inputs, scoring.output_of, scoring.score, scoring.before)
        _refuse_scripted(found.module)
        if not is_reusable:
            return found
        known[key] = found.name, found.token_map, found.run
    name, token_map, run = cast("tuple[str, TokenMap | None, int | None]", known[key])
    return Layer(name, model.get_submodule(name), token_map, run)


def with_token_map(model: nn.Module, layer: Layer, output: Tensor, inputs: Inputs) -> Layer:
    """Return a layer with the map in its output, if the output is not itself a map (N, C, *S).

    Args:
        model: the module to explain.
        layer: a target layer.
        output: of the layer.
        inputs: of the model.
    """
    if layer.token_map is not None or gradient_search.is_map(layer.module, output.shape, inputs.images):
        return layer
    size, has_axes = inputs.images.shape[2:], output.dim() == inputs.images.dim()
    known, key = memory.of(model), ("token map", layer.name, layer.run, tuple(output.shape[1:]), tuple(size))
    if key not in known:
        found = token_maps.candidates(output.shape, size)
        verified = verification.find_map(model, layer, found, inputs)
        known[key] = verified or (None if has_axes else token_maps.assumed(output.shape, size))
    token_map = cast("TokenMap | None", known[key])
    is_itself = token_map is None or (has_axes and token_map.channel_axis == 1)
    return layer if is_itself else replace(layer, token_map=token_map)


def with_run(model: nn.Module, layer: Layer, inputs: Inputs, runs: int) -> tuple[Layer, bool]:
    """Return a layer that runs several times with the run that depends on the explained images.

    Returns:
        The layer, and whether that is certain: of several runs that depend on them it is the last.
    """
    known, key = memory.of(model), ("run", layer.name, runs, inputs.position, tuple(inputs.images.shape[1:]))
    if key not in known:
        known[key] = default_layer.runs_on_images(model, layer, inputs)
    dependent = cast("list[int]", known[key])
    return replace(layer, run=dependent[-1] if dependent else runs - 1), len(dependent) == 1
