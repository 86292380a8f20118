"""Saliency maps for PyTorch vision models, fast and right.

>>> import fastcam
>>> explanation = fastcam.explain(model, images, method="grad_cam")
>>> explanation.maps

Importing the package imports nothing else: torch is loaded, and the ops are registered, when a name is first used
(``import fastcam.ops`` registers them at once).
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastcam import render as render
    from fastcam._public import *  # noqa: F403 - every name of its __all__

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """A module of the package or one of its public names, loaded now and kept."""
    if not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}") is not None:
        return importlib.import_module(f"{__name__}.{name}")
    public = importlib.import_module("fastcam._public")
    if name != "__all__" and name not in public.__all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = getattr(public, name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *importlib.import_module("fastcam._public").__all__})
