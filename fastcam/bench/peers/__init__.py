"""The peer tools that are installed.

The module of a tool defines ``ENTRANTS``: by the name of a method, the function that returns contestants for a case and
a setting. The module of a tool that is not installed cannot be imported, and the tool is left out.
"""

import functools
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata

from fastcam.bench.contest import Entrant

# By the name in the tables: the module in this package, and the release that it supports.
_TOOLS = {
    "pytorch-grad-cam": ("pytorch_grad_cam", "grad-cam==1.5.7"),
    "torch-cam": ("torchcam", "torchcam==0.5.0"),
    "captum": ("captum", "captum==0.9.0"),
}


@dataclass(frozen=True)
class Tool:
    """A tool that is installed.

    Attributes:
        name: as in the tables.
        version: the installed one.
        entrants: by method.
    """

    name: str
    version: str
    entrants: Mapping[str, Entrant]


@functools.cache
def installed() -> tuple[Tool, ...]:
    """Return the tools that can be imported."""
    tools = []
    for name, (module, requirement) in _TOOLS.items():
        try:
            entrants = importlib.import_module(f"{__name__}.{module}").ENTRANTS
        except ImportError:
            continue
        tools.append(Tool(name, metadata.version(requirement.partition("==")[0]), entrants))
    return tuple(tools)


def missing() -> list[str]:
    """Return the pip requirements of the tools that are not installed."""
    present = {tool.name for tool in installed()}
    return [requirement for name, (_, requirement) in _TOOLS.items() if name not in present]
