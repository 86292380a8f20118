"""Modules without a file that re-export objects under the tools' deep import paths."""

import sys
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from types import ModuleType


def passed_on(
    package: str, names: Mapping[str, Mapping[str, object]], module_type: type[ModuleType] = ModuleType
) -> None:
    """Add modules that re-export objects to a package.

    Args:
        package: its full name.
        names: by the path of each module in the package, its objects by name.
        module_type: of the modules.
    """
    for path, objects in names.items():
        parent = sys.modules[package]
        for part in path.split("."):
            parent = _submodule(parent, part, module_type)
        parent.__dict__.update(objects, __all__=list(objects), __doc__=f"Re-exports {', '.join(objects)}.")


def _submodule(parent: ModuleType, name: str, module_type: type[ModuleType]) -> ModuleType:
    """Return the submodule of that name, created as a package if there is none."""
    full = f"{parent.__name__}.{name}"
    if full not in sys.modules:
        module = module_type(full)
        module.__path__ = []
        module.__spec__ = ModuleSpec(full, None, is_package=True)
        sys.modules[full] = module
        setattr(parent, name, module)
    return sys.modules[full]
