"""Which layer to explain: by module, by name, or the last one with a spatial map."""

import difflib
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastcam.artefacts import Value
from fastcam.model.capture import Layer, observe
from fastcam.model.inputs import Inputs
from fastcam.model.running import all_modules, is_training
from fastcam.model.split_model import SplitModel

TargetLayer = nn.Module | str | Sequence[nn.Module | str] | None

# Modules that resample or pass on what another layer computed: never the layer one wants to look at.
_PASSIVE = (
    nn.Identity,
    nn.Flatten,
    nn.modules.dropout._DropoutNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
)

# For each model the name found for an image shape, and the modules the model had then.
_found: weakref.WeakKeyDictionary[nn.Module, dict[tuple[int, ...], tuple[str, list[int]]]] = weakref.WeakKeyDictionary()


def resolve(model: nn.Module, target_layer: TargetLayer, inputs: Inputs) -> list[Layer]:
    """The target layers with their names.

    Args:
        model: the module to explain.
        target_layer: a module of the model, its name, a list of either, or None for the last layer whose output
            has a spatial map (found once per model and image shape by running one image).
        inputs: what the model takes.

    Raises:
        ValueError: for a layer that the model does not have, an empty list, or none that has a spatial map.
        TypeError: for anything else, and for TorchScript modules, which cannot be hooked.
    """
    _refuse_scripted(model)
    if target_layer is None:
        return [_find(model, inputs)]
    chosen = list(target_layer) if isinstance(target_layer, list | tuple) else [target_layer]
    if not chosen:
        raise ValueError("`target_layer` must name at least one layer, got an empty list")
    return [_layer(model, item) for item in chosen]


def _refuse_scripted(module: nn.Module) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        raise TypeError(
            "TorchScript modules cannot be hooked, and this one is part of another model, in training mode, or holds "
            "what cannot be read; explain the nn.Module that it was made from"
        )


def named(model: nn.Module, name: str) -> Layer:
    """The layer of that name.

    Raises:
        ValueError: where the model has none, the message names similar ones; and where it was changed.
    """
    module = _named(model, name)
    if isinstance(model, SplitModel):
        model.check_layer(name)
    return Layer(name, module)


def _layer(model: nn.Module, item: Any) -> Layer:
    if isinstance(item, str):
        return named(model, item)
    if not isinstance(item, nn.Module):
        raise TypeError(f"`target_layer` must be a module, its name or a list of them, got {type(item).__name__}")
    for name, module in model.named_modules():
        if module is item or getattr(module, "source", None) is item:
            return named(model, name) if name else Layer(name, module)
    if isinstance(model, SplitModel) and (known := model.name_of(item)):
        return named(model, known)
    raise ValueError(f"`target_layer` must be a module of the model, got a {type(item).__name__} that is not")


def _named(model: nn.Module, name: str) -> nn.Module:
    try:
        module = model.get_submodule(name)
    except AttributeError:
        names = [known for known, _ in model.named_modules() if known]
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.3)
        hint = f"; did you mean {', '.join(map(repr, near))}?" if near else ""
        raise ValueError(f"the model has no layer named {name!r}{hint}") from None
    _refuse_scripted(module)
    return module


def _find(model: nn.Module, inputs: Inputs) -> Layer:
    known = _found.setdefault(model, {})
    shape, modules = tuple(inputs.images.shape[1:]), [id(module) for module in all_modules(model)]
    if shape not in known or known[shape][1] != modules:
        known[shape] = _last_spatial_layer(model, inputs if is_training(model) else inputs.first()), modules
    name = known[shape][0]
    return Layer(name, model.get_submodule(name))


def _last_spatial_layer(model: nn.Module, inputs: Inputs) -> str:
    """The name of the module that finishes last among those returning (N, C, *S) with more than one position."""
    images = inputs.images
    order = [
        (name, module, output)
        for name, module, output in observe(model, inputs.arguments)
        if name and not issubclass(_kind(module), _PASSIVE) and output.is_floating_point()
    ]
    if any(_is_spatial(output, images) for _, module, output in order if not isinstance(module, Value)):
        order = [each for each in order if not isinstance(each[1], Value)]
    # These two keep the channels behind the positions: what has the shape of their outputs is no map (N, C, *S).
    behind = {o.shape for _, module, o in order if _kind(module) in (nn.LayerNorm, nn.Linear) and o.dim() > 2}
    tokens = [i for i, (_, _, output) in enumerate(order) if output.shape in behind or _is_tokens(output, images)]
    spatial = [i for i, (_, _, output) in enumerate(order) if i not in tokens and _is_spatial(output, images)]
    if tokens and (not spatial or spatial[-1] < tokens[-1]):
        raise ValueError(
            "no target layer can be chosen for a model of tokens: pass target_layer= (for a vision transformer the "
            "first norm of its last block) and reshape_transform=fastcam.vit_reshape or fastcam.swin_reshape"
        )
    if not spatial:
        raise ValueError("no layer of the model returns a spatial map (N, C, ...): pass target_layer=")
    name, module, _ = order[spatial[-1]]
    _refuse_scripted(module)
    return name


def _kind(module: nn.Module) -> type[nn.Module]:
    """The class of a module, or that of the one it stands for in an opened artefact."""
    return getattr(module, "stands_for", None) or type(module)


def _is_spatial(output: Tensor, images: Tensor) -> bool:
    """Whether an output is (N, C, *S) with more than one position."""
    return output.dim() == images.dim() and output.shape[2:].numel() > 1


def _is_tokens(output: Tensor, images: Tensor) -> bool:
    """Whether an output for pictures is (N, T, C), or (N, h, w, C) with more channels than the picture is wide."""
    if images.dim() != 4:
        return False
    return (output.dim() == 3 and output.shape[1] > 1) or (output.dim() == 4 and output.shape[-1] > images.shape[-1])
