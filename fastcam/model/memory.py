"""What is known of models, kept while they exist and have the same modules: the modules, and what was found out."""

import contextlib
import itertools
import operator
import threading
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar, cast

from torch import nn

Value = TypeVar("Value")
Known = dict[tuple[Hashable, ...], object]

_mapping_of = operator.attrgetter("_modules")
_joined = itertools.chain.from_iterable


@dataclass(frozen=True)
class _Tree:
    """The modules of a model, held weakly, since a module may refer to the model in its turn.

    Attributes:
        modules: all of them, the model first.
        children: the names and ids of the children of every module, in order.
        known: what was found out, see :func:`of`.
    """

    modules: list[weakref.ref[nn.Module]]
    children: tuple[list[str], list[int]]
    known: Known = field(default_factory=dict)

    def current(self) -> list[nn.Module] | None:
        """Return the modules, or None if the model has others now."""
        modules = [reference() for reference in self.modules]
        if None in modules:
            return None
        alive: list[nn.Module] = modules  # type: ignore[assignment]
        return alive if _children_of(alive) == self.children else None


_trees: weakref.WeakKeyDictionary[nn.Module, _Tree] = weakref.WeakKeyDictionary()
_call = threading.local()


def all_modules(model: nn.Module) -> list[nn.Module]:
    """Return all of ``model.modules()`` in any order.

    Those of the last call are checked, which takes a third of the time of walking the model.
    """
    during = getattr(_call, "modules", None)
    if during is not None and during[0] is model:
        return during
    tree = _trees.get(model)
    modules = None if tree is None else tree.current()
    return _remember(model) if modules is None else modules


@contextlib.contextmanager
def checked_once(model: nn.Module) -> Iterator[None]:
    """Check the modules once for everything that is asked in the context, and the calling thread: one explanation."""
    before = getattr(_call, "modules", None)
    _call.modules = all_modules(model)
    try:
        yield
    finally:
        _call.modules = before


def of(model: nn.Module) -> Known:
    """Return what is known of a model, by what it depends on; empty once the model's modules have changed.

    The values must not hold modules of the model, which would keep it alive.
    """
    all_modules(model)
    return _trees[model].known


def derived(model: nn.Module, name: str, derive: Callable[[list[nn.Module]], Value]) -> Value:
    """Return what follows from a model's modules alone, derived once as long as they stay."""
    known = of(model)
    if (name,) not in known:
        known[name,] = derive(all_modules(model))
    return cast("Value", known[name,])


def named_alike(model: nn.Module, kind: str) -> list[nn.Module]:
    """Return the modules of a class by its full name, which need not be imported; looked for once."""

    def exist(modules: list[nn.Module]) -> bool:
        return any(_full_name(module) == kind for module in modules)

    if not derived(model, f"has {kind}", exist):
        return []
    return [module for module in all_modules(model) if _full_name(module) == kind]


def _full_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _remember(model: nn.Module) -> list[nn.Module]:
    modules: dict[int, nn.Module] = {}
    pending = [model]
    while pending:
        module = pending.pop()
        if id(module) not in modules:
            modules[id(module)] = module
            pending += [child for child in module._modules.values() if child is not None]
    found = list(modules.values())
    _trees[model] = _Tree([weakref.ref(module) for module in found], _children_of(found))
    return found


def _children_of(modules: Iterable[nn.Module]) -> tuple[list[str], list[int]]:
    # Without a loop in Python: a network of 160 modules is checked in every call.
    mappings = list(map(_mapping_of, modules))
    try:
        return list(_joined(map(dict.keys, mappings))), list(map(id, _joined(map(dict.values, mappings))))
    except TypeError:  # scripted modules have mappings of their own
        mappings = [dict(mapping.items()) for mapping in mappings]
        return list(_joined(mappings)), list(map(id, _joined(map(dict.values, mappings))))
