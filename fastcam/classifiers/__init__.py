"""A classifier by name: weights, preprocessing, class names, choice of classes."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastcam.classifiers.models import Classifier as Classifier
    from fastcam.classifiers.models import load as load
    from fastcam.classifiers.preprocessing import Preprocessing as Preprocessing

_MODULES = {"Classifier": "models", "load": "models", "Preprocessing": "preprocessing"}


def __getattr__(name: str) -> Any:
    """A public name, loaded now: they need torch, and a specification can be checked without it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
