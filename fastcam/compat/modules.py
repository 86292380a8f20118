"""Modules that only pass on names: the deep import paths that people use, without a file for each."""

import sys
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def passed_on(package: str, names: Mapping[str, Mapping[str, Any]]) -> None:
    """Adds modules to a package.

    Args:
        package: its full name.
        names: for each module, by its path below the package, the objects in it by name.
    """
    for path, objects in names.items():
        parent = sys.modules[package]
        for part in path.split("."):
            parent = _below(parent, part)
        parent.__dict__.update(objects, __all__=list(objects), __doc__=f"Passes on {', '.join(objects)}.")


def _below(parent: ModuleType, name: str) -> ModuleType:
    """The parent's module of that name, which may be a package itself."""
    full = f"{parent.__name__}.{name}"
    if full not in sys.modules:
        module = ModuleType(full)
        module.__path__ = []
        module.__spec__ = ModuleSpec(full, None, is_package=True)
        sys.modules[full] = module
        setattr(parent, name, module)
    return sys.modules[full]
