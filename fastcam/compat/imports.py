"""Other tools' names for the packages here, for scripts that cannot be edited."""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

NAMES = ("captum", "pytorch_grad_cam", "torchcam")

_hidden: dict[str, dict[str, ModuleType]] = {}  # by package, the tool's own modules that were imported before


def activate(name: str) -> None:
    """Makes ``import NAME``, and the imports of its modules, find ``fastcam.compat.NAME``, in this process.

    Modules that hold the tool's own objects keep them; what is imported from now on is ours. Undone by
    :func:`deactivate`.

    Args:
        name: "captum", "pytorch_grad_cam" or "torchcam".

    Raises:
        ValueError: for another name.
    """
    if name not in NAMES:
        raise ValueError(f"`name` must be one of {', '.join(NAMES)}, got {name!r}")
    if name in _hidden:
        return
    _hidden[name] = _taken_out(name)
    sys.meta_path.insert(0, _FINDERS[name])


def deactivate(name: str) -> None:
    """Undoes :func:`activate`; without it nothing happens.

    Raises:
        ValueError: for a name that is not known.
    """
    if name not in NAMES:
        raise ValueError(f"`name` must be one of {', '.join(NAMES)}, got {name!r}")
    if name not in _hidden:
        return
    sys.meta_path.remove(_FINDERS[name])
    _taken_out(name)
    sys.modules.update(_hidden.pop(name))


def tools_own(module: str, name: str) -> Any:
    """What only the tool itself has, whether or not its name is ours at the moment.

    Args:
        module: of the tool.
        name: in that module.

    Raises:
        AttributeError: where the tool is not installed, or has it not either.
    """
    package = module.partition(".")[0]
    missing = f"fastcam.compat.{module} has no {name!r}"
    if name.startswith("__"):
        raise AttributeError(missing)
    is_active = package in _hidden
    deactivate(package)
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise AttributeError(
            f"{missing}, and {package} itself, which may have it, cannot be imported: {error}"
        ) from None
    except AttributeError:
        raise AttributeError(missing) from None
    finally:
        if is_active:
            activate(package)


def _taken_out(name: str) -> dict[str, ModuleType]:
    """The package's modules, which are not found in ``sys.modules`` any more."""
    own = [each for each in sys.modules if each == name or each.startswith(f"{name}.")]
    return {each: sys.modules.pop(each) for each in own}


class _Finder(MetaPathFinder, Loader):
    """Finds modules of one package under their names here."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module here, under the name it was asked for."""
        if fullname != self.name and not fullname.startswith(f"{self.name}."):
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The very module that an edited import gets, so that classes are the same ones."""
        ours = f"fastcam.compat.{spec.name}"
        try:
            found = importlib.import_module(ours)
        except ModuleNotFoundError as error:
            if error.name != ours:
                raise
            raise ModuleNotFoundError(f"fastcam.compat has no module {spec.name!r}", name=spec.name) from None
        self._specs = {**getattr(self, "_specs", {}), spec.name: found.__spec__}
        return found

    def exec_module(self, module: ModuleType) -> None:
        """It ran already; only what the import machinery wrote into it is taken back."""
        asked = module.__spec__
        if asked is not None:
            module.__spec__ = self._specs[asked.name]


_FINDERS = {name: _Finder(name) for name in NAMES}
