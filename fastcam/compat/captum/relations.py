"""Relations to Captum's own classes, so that these methods work in Captum's wrappers, and the other way round."""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

from fastcam.compat.captum.attr._ablation import FeatureAblation
from fastcam.compat.captum.attr._bases import (
    Attribution,
    GradientAttribution,
    InternalAttribution,
    LayerAttribution,
    PerturbationAttribution,
)
from fastcam.compat.imports import imported, is_active

_BASES = (Attribution, GradientAttribution, PerturbationAttribution, InternalAttribution, LayerAttribution)
_MODULE = "captum.attr"


def relate(captum_attr: ModuleType) -> None:
    """Relate the base classes to Captum's, each a subclass of the other, and let its DataLoaderAttribution take ours.

    Captum's classes have no registry, so they are made bases of ours, behind our own; they are registered with ours.

    Args:
        captum_attr: the module ``captum.attr``.
    """
    theirs = captum_attr._utils.attribution
    for ours in _BASES:
        base = getattr(theirs, ours.__name__)
        if base not in ours.__mro__:
            ours.register(base)
            ours.__bases__ += (base,)
    captum_attr._core.dataloader_attr.SUPPORTED_METHODS.add(FeatureAblation)


def relate_when_imported() -> None:
    """Relate the classes now if Captum has been imported, else when it is."""
    captum_attr = imported(_MODULE)
    if captum_attr is None:
        sys.meta_path.insert(0, _Watch())
    else:
        relate(captum_attr)


class _Watch(MetaPathFinder):
    """Finds ``captum.attr`` with a loader that relates the classes."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of Captum's own module, None for others."""
        if fullname != _MODULE or is_active("captum"):
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _RelatingLoader(spec.loader.name, spec.loader.path)
        return spec


class _RelatingLoader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        relate(module)
