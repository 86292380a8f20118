"""Names and modules that only Captum has, under the paths of this package; Captum is imported when one is asked for."""

import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from fastcam.compat.imports import SameModule, tool_itself, tools_own
from fastcam.compat.modules import passed_on

_PREFIX = "fastcam.compat."


class BeforeCaptum(ModuleType):
    """A module whose missing names come from Captum's module of the same path, where Captum is installed."""

    def __getattr__(self, name: str) -> Any:
        """Return a name that only Captum has.

        Raises:
            AttributeError: where Captum is not installed, or does not have it either.
        """
        return _ours_for(tools_own(self.__name__.removeprefix(_PREFIX), name))

    @property
    def __all__(self) -> list[str]:
        """What a star import gives: the names here, then those of Captum's star import that are not here."""
        own: list[str] = vars(self).get("__all__", [])
        return own + [name for name in _starred(self.__name__.removeprefix(_PREFIX)) if name not in own]


def _ours_for(theirs: Any) -> Any:
    """Return the object here in the place of one of Captum's; the same one where there is none.

    Captum's modules import each other's classes, which may be among those here.
    """
    home = sys.modules.get(f"{_PREFIX}{getattr(theirs, '__module__', None)}")
    return vars(home).get(getattr(theirs, "__name__", ""), theirs) if home else theirs


def _starred(module: str) -> Sequence[str]:
    """Return the names that a star import of Captum's module gives, none where Captum is not installed."""
    try:
        with tool_itself("captum"):
            theirs = importlib.import_module(module)
    except ImportError:
        return ()
    names: Sequence[str] = getattr(theirs, "__all__", [name for name in vars(theirs) if not name.startswith("_")])
    return names


def passed_on_before_captum(package: str, names: Mapping[str, Mapping[str, object]]) -> None:
    """Add modules that re-export objects to a package; what it and they lack comes from Captum.

    Args:
        package: its full name.
        names: by the path of each module in the package, its objects by name.
    """
    module = sys.modules[package]
    module.__class__ = BeforeCaptum
    if "__path__" not in vars(module):
        module.__path__ = []
    passed_on(package, names, BeforeCaptum)


class _CaptumsModules(SameModule):
    """The finder of the modules that this package does not have."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module here, else one that loads Captum's module, None where there is neither."""
        if not fullname.startswith(f"{_PREFIX}{self.name}."):
            return None
        parent = sys.modules[fullname.rpartition(".")[0]]
        here = PathFinder.find_spec(fullname, path) if parent.__name__.startswith(_PREFIX) else None
        if here is not None:
            return here
        try:
            with tool_itself(self.name):
                theirs = importlib.util.find_spec(fullname.removeprefix(_PREFIX))
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != self.name:
                raise  # Captum is there, and lacks a package that it needs
            return None
        return theirs and importlib.util.spec_from_loader(fullname, self)

    def existing(self, name: str) -> ModuleType:
        """Return Captum's module."""
        with tool_itself(self.name):
            return importlib.import_module(name.removeprefix(_PREFIX))


def find_captums_modules() -> None:
    """Make imports of modules below ``fastcam.compat.captum`` that are not there find Captum's.

    Before the finder of files, which would load the modules of a package of Captum's again under another name.
    """
    sys.meta_path.insert(0, _CaptumsModules("captum"))
