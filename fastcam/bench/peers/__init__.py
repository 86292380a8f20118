"""The tools that are installed beside fastcam, and how to call them.

Every tool is a module with its ``ENTRANTS``: by the method's name, what makes contestants of a case and a setting. A
tool that is not installed cannot be imported, and stays out.
"""

import functools
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata

from fastcam.bench.contest import Entrant

# By the name in the tables: the module here, and the release that it was written for.
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
    """The tools that can be imported."""
    found = []
    for name, (module, requirement) in _TOOLS.items():
        try:
            entrants = importlib.import_module(f"{__name__}.{module}").ENTRANTS
        except ImportError:
            continue
        found.append(Tool(name, metadata.version(requirement.partition("==")[0]), entrants))
    return tuple(found)


def missing() -> list[str]:
    """What pip could install, to compare with more tools."""
    there = {tool.name for tool in installed()}
    return [requirement for name, (_, requirement) in _TOOLS.items() if name not in there]
