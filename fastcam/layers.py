"""Which layer to explain: by module, by name, or the last one with a spatial map."""

import difflib
import weakref
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastcam.capture import Layer, observe

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

_found: weakref.WeakKeyDictionary[nn.Module, dict[tuple[int, ...], str]] = weakref.WeakKeyDictionary()


def resolve(model: nn.Module, target_layer: TargetLayer, images: Tensor) -> list[Layer]:
    """The target layers with their names.

    Args:
        model: the module to explain.
        target_layer: a module of the model, its name, a sequence of either, or None for the last layer whose output
            has a spatial map (found once per model and image shape by running one image).
        images: (N, ...) input.

    Raises:
        ValueError: for a layer that the model does not have, an empty sequence, or none that has a spatial map.
        TypeError: for anything else, and for TorchScript modules, which cannot be hooked.
    """
    _refuse_scripted(model)
    if target_layer is None:
        return [_find(model, images)]
    chosen = [target_layer] if isinstance(target_layer, nn.Module | str) else list(target_layer)
    if not chosen:
        raise ValueError("`target_layer` must name at least one layer, got an empty sequence")
    return [_layer(model, item) for item in chosen]


def _refuse_scripted(module: nn.Module) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        raise TypeError("TorchScript modules cannot be hooked; explain the nn.Module that this one was made from")


def _layer(model: nn.Module, item: nn.Module | str) -> Layer:
    names = {module: name for name, module in model.named_modules(remove_duplicate=True)}
    if isinstance(item, nn.Module):
        if item not in names:
            raise ValueError(f"`target_layer` must be a module of the model, got a {type(item).__name__} that is not")
        _refuse_scripted(item)
        return Layer(names[item], item)
    if not isinstance(item, str):
        raise TypeError(f"`target_layer` must be a module, its name or a sequence of them, got {type(item).__name__}")
    try:
        return Layer(item, model.get_submodule(item))
    except AttributeError:
        near = difflib.get_close_matches(item, [name for name in names.values() if name], n=3, cutoff=0.3)
        hint = f"; did you mean {', '.join(map(repr, near))}?" if near else ""
        raise ValueError(f"the model has no layer named {item!r}{hint}") from None


def _find(model: nn.Module, images: Tensor) -> Layer:
    known = _found.setdefault(model, {})
    shape = tuple(images.shape[1:])
    if shape not in known:
        known[shape] = _last_spatial_layer(model, images[:1])
    return Layer(known[shape], model.get_submodule(known[shape]))


def _last_spatial_layer(model: nn.Module, image: Tensor) -> str:
    """The name of the module that finishes last among those returning (N, C, *S) with more than one position."""
    axes = image.dim()
    order = [
        (name, module, output)
        for name, module, output in observe(model, image)
        if name and not isinstance(module, _PASSIVE) and output.is_floating_point()
    ]
    spatial = [i for i, (_, _, output) in enumerate(order) if output.dim() == axes and output.shape[2:].numel() > 1]
    tokens = [i for i, (_, _, output) in enumerate(order) if output.dim() == 3 and axes == 4 and output.shape[1] > 1]
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
