"""Layers of a model found, or exchanged, by walking down from it."""

from collections.abc import Callable, Collection

from torch import nn


def replace_layer_recursive(model: nn.Module, old_layer: nn.Module, new_layer: nn.Module) -> bool:
    """Puts a layer in the place of another, the first time it is met, and says whether it was."""
    for name, each in model.named_children():
        if each is old_layer:
            model._modules[name] = new_layer
            return True
        if replace_layer_recursive(each, old_layer, new_layer):
            return True
    return False


def replace_all_layer_type_recursive(model: nn.Module, old_layer_type: type[nn.Module], new_layer: nn.Module) -> None:
    """Puts one layer in the place of all of a type."""
    for name, each in list(model.named_children()):
        if isinstance(each, old_layer_type):
            model._modules[name] = new_layer
        replace_all_layer_type_recursive(each, old_layer_type, new_layer)


def find_layer_types_recursive(model: nn.Module, layer_types: Collection[type[nn.Module]]) -> list[nn.Module]:
    """All layers below the model that are of exactly one of the types, in their order."""
    return find_layer_predicate_recursive(model, lambda layer: type(layer) in layer_types)


def find_layer_predicate_recursive(model: nn.Module, predicate: Callable[[nn.Module], bool]) -> list[nn.Module]:
    """All layers below the model that the predicate holds for, in their order."""
    return [each for each in model.modules() if each is not model and predicate(each)]
