"""Recursive search and replacement of a model's layers."""

from collections.abc import Callable, Collection

from torch import nn


def replace_layer_recursive(model: nn.Module, old_layer: nn.Module, new_layer: nn.Module) -> bool:
    """Replace the first occurrence of a layer and return whether there was one."""
    for name, child in model.named_children():
        if child is old_layer:
            model._modules[name] = new_layer
            return True
        if replace_layer_recursive(child, old_layer, new_layer):
            return True
    return False


def replace_all_layer_type_recursive(model: nn.Module, old_layer_type: type[nn.Module], new_layer: nn.Module) -> None:
    """Replace all layers of a type by one layer."""
    for name, child in list(model.named_children()):
        if isinstance(child, old_layer_type):
            model._modules[name] = new_layer
        replace_all_layer_type_recursive(child, old_layer_type, new_layer)


def find_layer_types_recursive(model: nn.Module, layer_types: Collection[type[nn.Module]]) -> list[nn.Module]:
    """Return all layers below the model whose exact type is one of these, in order."""
    return find_layer_predicate_recursive(model, lambda layer: type(layer) in layer_types)


def find_layer_predicate_recursive(model: nn.Module, predicate: Callable[[nn.Module], bool]) -> list[nn.Module]:
    """Return all layers below the model that satisfy the predicate, in order."""
    return [layer for layer in model.modules() if layer is not model and predicate(layer)]
