"""Classifiers by name: weights, preprocessing, class names, choice of classes."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastcam.classifiers.models import Classifier as Classifier
    from fastcam.classifiers.models import load as load
    from fastcam.classifiers.preprocessing import Preprocessing as Preprocessing

_MODULES = {"Classifier": "models", "load": "models", "Preprocessing": "preprocessing"}


def __getattr__(name: str) -> object:
    """Import a public name when it is used: checking a specification does not need torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
