"""The layers to explain: by module, by name, or the last one with a spatial map."""

import difflib
import weakref
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastcam.artefacts import Value
from fastcam.model.capture import Layer, observe
from fastcam.model.inputs import Inputs
from fastcam.model.running import all_modules, is_training
from fastcam.model.split_model import SplitModel

TargetLayer = nn.Module | str | Sequence[nn.Module | str] | None

# Modules that only resample or pass on the output of another layer: never chosen.
_PASSIVE = (
    nn.Identity,
    nn.Flatten,
    nn.modules.dropout._DropoutNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
)

# For each model and image shape the name of the chosen layer, and the modules of the model at that time.
_default_layers: weakref.WeakKeyDictionary[nn.Module, dict[tuple[int, ...], tuple[str, list[int]]]] = (
    weakref.WeakKeyDictionary()
)


def resolve(model: nn.Module, target_layer: TargetLayer, inputs: Inputs) -> list[Layer]:
    """Return the target layers with their names.

    Args:
        model: the module to explain.
        target_layer: a module of the model, its name, a list of either, or None for the last layer whose output
            has a spatial map (found once per model and image shape by running one image).
        inputs: the model's inputs.

    Raises:
        ValueError: for a layer that the model does not have, an empty list, or a model without a spatial map.
        TypeError: for anything else, and for TorchScript modules, which cannot be hooked.
    """
    _refuse_scripted(model)
    if target_layer is None:
        return [_find_default_layer(model, inputs)]
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
    try:
        module = model.get_submodule(name)
    except AttributeError:
        names = [known for known, _ in model.named_modules() if known]
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.3)
        hint = f"; did you mean {', '.join(map(repr, near))}?" if near else ""
        raise ValueError(f"the model has no layer named {name!r}{hint}") from None
    _refuse_scripted(module)
    return module


def _find_default_layer(model: nn.Module, inputs: Inputs) -> Layer:
    known = _default_layers.setdefault(model, {})
    shape, modules = tuple(inputs.images.shape[1:]), [id(module) for module in all_modules(model)]
    if shape not in known or known[shape][1] != modules:
        known[shape] = _last_spatial_layer(model, inputs if is_training(model) else inputs.first()), modules
    name = known[shape][0]
    return Layer(name, model.get_submodule(name))


def _last_spatial_layer(model: nn.Module, inputs: Inputs) -> str:
    """Return the name of the module that finishes last among those returning (N, C, *S) with more than one position."""
    images = inputs.images
    order = [
        (name, module, output)
        for name, module, output in observe(model, inputs.arguments)
        if name and not issubclass(_kind(module), _PASSIVE) and output.is_floating_point()
    ]
    if any(_is_spatial(output, images) for _, module, output in order if not isinstance(module, Value)):
        order = [entry for entry in order if not isinstance(entry[1], Value)]
    # Layer norm and linear layers have channels last: outputs of the same shape are not maps (N, C, *S).
    channels_last = {o.shape for _, module, o in order if _kind(module) in (nn.LayerNorm, nn.Linear) and o.dim() > 2}
    tokens = [
        i for i, (_, _, output) in enumerate(order) if output.shape in channels_last or _is_tokens(output, images)
    ]
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
    """Return the class of a module, or of the one that it stands for in an opened artefact."""
    return getattr(module, "stands_for", None) or type(module)


def _is_spatial(output: Tensor, images: Tensor) -> bool:
    """Whether an output is (N, C, *S) with more than one position."""
    return output.dim() == images.dim() and output.shape[2:].numel() > 1


def _is_tokens(output: Tensor, images: Tensor) -> bool:
    """Whether an output for 2D images is (N, T, C), or (N, h, w, C) with more channels than the image is wide."""
    if images.dim() != 4:
        return False
    return (output.dim() == 3 and output.shape[1] > 1) or (output.dim() == 4 and output.shape[-1] > images.shape[-1])
