"""What was found out about models, kept while they exist and have the same modules."""

import weakref
from collections.abc import Hashable

from torch import nn

from fastcam.model.running import all_modules

Known = dict[tuple[Hashable, ...], object]

_known: weakref.WeakKeyDictionary[nn.Module, tuple[list[int], Known]] = weakref.WeakKeyDictionary()


def of(model: nn.Module) -> Known:
    """Return what is known of a model, by what it depends on; empty once the model's modules have changed.

    The values must not hold modules of the model, which would keep it alive.
    """
    modules = [id(module) for module in all_modules(model)]
    if model not in _known or _known[model][0] != modules:
        _known[model] = modules, {}
    return _known[model][1]
