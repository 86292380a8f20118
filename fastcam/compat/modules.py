"""Modules that only pass on names: the deep import paths that people use, without a file for each."""

import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any


def passed_on(package: str, names: Mapping[str, Mapping[str, Any]]) -> None:
    """Adds modules to a package.

    Args:
        package: its full name.
        names: for each module, the objects in it by name.
    """
    for module, objects in names.items():
        found = ModuleType(f"{package}.{module}", f"Passes on {', '.join(objects)}.")
        found.__dict__.update(objects, __all__=list(objects), __package__=package)
        sys.modules[found.__name__] = found
        setattr(sys.modules[package], module, found)
