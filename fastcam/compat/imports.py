"""Imports of these packages under the tools' names, for scripts that cannot be edited."""

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

NAMES = ("captum", "pytorch_grad_cam", "torchcam")

# By package, the tool's own modules imported before activation.
_originals: dict[str, dict[str, ModuleType]] = {}


def activate(name: str) -> None:
    """Make ``import NAME``, and the imports of its modules, find ``fastcam.compat.NAME`` in this process.

    Objects imported from the tool before remain the tool's. :func:`deactivate` undoes it.

    Args:
        name: "captum", "pytorch_grad_cam" or "torchcam".

    Raises:
        ValueError: for another name.
    """
    if name not in NAMES:
        raise ValueError(f"`name` must be one of {', '.join(NAMES)}, got {name!r}")
    if name in _originals:
        return
    _originals[name] = _pop_modules(name)
    sys.meta_path.insert(0, _FINDERS[name])


def deactivate(name: str) -> None:
    """Undo :func:`activate`, if it was called.

    Raises:
        ValueError: for another name.
    """
    if name not in NAMES:
        raise ValueError(f"`name` must be one of {', '.join(NAMES)}, got {name!r}")
    if name not in _originals:
        return
    sys.meta_path.remove(_FINDERS[name])
    _pop_modules(name)
    sys.modules.update(_originals.pop(name))


@contextlib.contextmanager
def tool_itself(package: str) -> Iterator[None]:
    """Make imports of the package find the tool's own modules, whether or not its name is activated."""
    if package not in _originals:
        yield
        return
    sys.meta_path.remove(_FINDERS[package])
    aliases = _pop_modules(package)
    sys.modules.update(_originals.pop(package))
    try:
        yield
    finally:
        _originals[package] = _pop_modules(package)
        sys.modules.update(aliases)
        sys.meta_path.insert(0, _FINDERS[package])


def is_active(name: str) -> bool:
    """Return whether the name is activated."""
    return name in _originals


def imported(module: str) -> ModuleType | None:
    """Return the tool's own module of that full name if it has been imported."""
    return _originals.get(module.partition(".")[0], sys.modules).get(module)


def tools_own(module: str, name: str) -> Any:
    """Import an object from the tool itself, whether or not its name is activated.

    Args:
        module: full name of the tool's module.
        name: of the object in that module.

    Raises:
        AttributeError: if the tool is not installed or has no such object.
    """
    package = module.partition(".")[0]
    missing = f"fastcam.compat.{module} has no {name!r}"
    if name.startswith("__"):
        raise AttributeError(missing)
    try:
        with tool_itself(package):
            return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise AttributeError(
            f"{missing}, and {package} itself, which may have it, cannot be imported: {error}"
        ) from None
    except AttributeError:
        raise AttributeError(missing) from None


def _pop_modules(name: str) -> dict[str, ModuleType]:
    """Remove the package and its modules from ``sys.modules`` and return them by name."""
    names = [module for module in sys.modules if module == name or module.startswith(f"{name}.")]
    return {module: sys.modules.pop(module) for module in names}


class SameModule(MetaPathFinder, Loader):
    """A finder and loader that gives a module another name in ``sys.modules``: its classes stay the same objects.

    Args:
        name: of the package whose modules it finds.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._specs: dict[str, ModuleSpec | None] = {}

    def existing(self, name: str) -> ModuleType:
        """Return the module for a requested name."""
        raise NotImplementedError

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the existing module."""
        module = self.existing(spec.name)
        self._specs[spec.name] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Restore the module's own spec; it has been executed already."""
        spec = module.__spec__
        if spec is not None:
            module.__spec__ = self._specs[spec.name]


class _Finder(SameModule):
    """The finder of one package's modules in ``fastcam.compat``."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec under the requested name."""
        if fullname != self.name and not fullname.startswith(f"{self.name}."):
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def existing(self, name: str) -> ModuleType:
        """Return the module of that name in ``fastcam.compat``."""
        ours = f"fastcam.compat.{name}"
        try:
            return importlib.import_module(ours)
        except ModuleNotFoundError as error:
            if error.name != ours:
                raise
            raise ModuleNotFoundError(f"fastcam.compat has no module {name!r}", name=name) from None


_FINDERS = {name: _Finder(name) for name in NAMES}
