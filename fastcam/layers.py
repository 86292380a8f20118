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
    if isinstance(item, str):
        return Layer(item, _named(model, item))
    if not isinstance(item, nn.Module):
        raise TypeError(f"`target_layer` must be a module, its name or a sequence of them, got {type(item).__name__}")
    _refuse_scripted(item)
    for name, module in model.named_modules():
        if module is item:
            return Layer(name, module)
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


def _find(model: nn.Module, images: Tensor) -> Layer:
    known = _found.setdefault(model, {})
    shape = tuple(images.shape[1:])
    if known.get(shape) not in dict(model.named_modules()):  # not looked for yet, or the model has changed since
        known[shape] = _last_spatial_layer(model, images[:1])
    return Layer(known[shape], model.get_submodule(known[shape]))


def _last_spatial_layer(model: nn.Module, image: Tensor) -> str:
    """The name of the module that finishes last among those returning (N, C, *S) with more than one position."""
    order = [
        (name, module, output)
        for name, module, output in observe(model, image)
        if name and not isinstance(module, _PASSIVE) and output.is_floating_point()
    ]
    spatial = [i for i, (_, _, output) in enumerate(order) if _is_spatial(output, image)]
    tokens = [i for i, (_, _, output) in enumerate(order) if _is_tokens(output, image)]
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


def _is_spatial(output: Tensor, image: Tensor) -> bool:
    """Whether an output is (N, C, *S) with more than one position, and no axis longer than the image's."""
    fits = output.dim() == image.dim() and all(o <= i for o, i in zip(output.shape[2:], image.shape[2:], strict=True))
    return fits and output.shape[2:].numel() > 1


def _is_tokens(output: Tensor, image: Tensor) -> bool:
    """Whether an output is (N, T, C), or (N, h, w, C) with more channels than the image is wide."""
    if image.dim() != 4:
        return False
    return (output.dim() == 3 and output.shape[1] > 1) or (output.dim() == 4 and output.shape[-1] > image.shape[-1])
