"""What the compat packages have of the tools' public names: ``python -m tests.compat.conformance`` prints it.

Every class and function that a tool defines in a public place is looked for under its own path and under its package's
name, and its parameters are compared, those of a class's public methods too. Every module is looked for, and in it,
under that path alone, what it defines, its constants, its version and what its star import gives.
"""

import fnmatch
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

PACKAGES = ("pytorch_grad_cam", "torchcam", "captum.attr", "captum.metrics")
TOOLS = ("pytorch_grad_cam", "torchcam", "captum")
CONSTANTS = (str, int, float, list, tuple, dict, set)
EXTRA = {"exact_peer"}  # parameters of ours alone

# What is not here, or differs, and why; with the wildcards of file names.
NOT_HERE = {
    "pytorch_grad_cam.pytorch_grad_cam": "the tool's name for itself, left by an import inside it",
    "pytorch_grad_cam.ablation_cam_multilayer.*": "the classes of ablation_cam: the tool's own fail when called",
    "pytorch_grad_cam.ablation_layer.*.set_next_batch": "no layer of the model is exchanged",
    "pytorch_grad_cam.ablation_cam.AblationCAM.[sa]*": "no layer of the model is exchanged",
    "pytorch_grad_cam.guided_backprop.GuidedBackpropReLUModel.rec*": "no module of the model is exchanged",
    "pytorch_grad_cam.fullgrad_cam.FullGrad.get_bias_data": "the biases are found in the graph",
    "pytorch_grad_cam.fullgrad_cam.FullGrad.compute_cam_per_layer": "called with positions",
    "pytorch_grad_cam.metrics.road.neighbors_weights": "the same, in the order of the offsets",
    "pytorch_grad_cam.*.get_cam_weights": "called with positions; the tool's names differ from class to class",
    "pytorch_grad_cam.*.get_cam_image": "called with positions; the tool's names differ from class to class",
    "captum.attr._core.feature_ablation.FeatureAblation.attribute_future": "raises NotImplementedError",
}


@dataclass(frozen=True)
class Line:
    """A public name of a tool.

    Attributes:
        name: with its path.
        state: "same", "missing", "the tool's own" or how the parameters or the values differ.
        reason: of what is missing on purpose.
    """

    name: str
    state: str
    reason: str = ""


def modules(package: str) -> Iterator[ModuleType]:
    """The package and all that can be imported below it."""
    root = importlib.import_module(package)
    yield root
    for found in pkgutil.walk_packages(root.__path__, f"{package}."):
        yield importlib.import_module(found.name)


def public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Classes and functions that the module defines."""
    for name, each in vars(module).items():
        is_own = getattr(each, "__module__", "") == module.__name__
        if not name.startswith("_") and is_own and (inspect.isclass(each) or inspect.isfunction(each)):
            yield name, each


def listed(package: str) -> Iterator[Line]:
    """A line for every public name of a tool's package."""
    exported = _exported(package)
    for module in modules(package):
        for name, theirs in public(module):
            if package.startswith("captum") and exported.get(name) is not theirs:
                continue  # Captum's helpers are no interface
            yield from compared(f"{module.__name__}.{name}", theirs, package)


def paths(tool: str) -> Iterator[Line]:
    """A line for every module of a tool, and for every name that scripts may import from that module."""
    for module in modules(tool):
        place = module.__name__
        try:
            mine = importlib.import_module(f"fastcam.compat.{place}")
        except ModuleNotFoundError:
            yield Line(place, "missing", reason(place))
            continue
        yield Line(place, "the tool's own" if mine is module else "same")
        if mine is module:
            continue
        star = set(_starred(mine))
        for name in sorted(importable(module)):
            is_here = hasattr(mine, name) and (name in star or name not in getattr(module, "__all__", ()))
            state = _state(getattr(mine, name), getattr(module, name)) if is_here else "missing"
            yield Line(f"{place}.{name}", state, reason(f"{place}.{name}"))


def _state(mine: Any, theirs: Any) -> str:
    if isinstance(theirs, CONSTANTS):
        return "same" if mine == theirs else f"is {mine!r}; the tool's {theirs!r}"
    return "the tool's own" if mine is theirs else "same"


def importable(module: ModuleType) -> set[str]:
    """What a module defines, lists, its constants and version; of a package, what its star import gives of the tool."""
    names = {name for name, _ in public(module)} | set(getattr(module, "__all__", ()))
    for name, each in vars(module).items():
        if name == "__version__" or (not name.startswith("_") and isinstance(each, CONSTANTS)):
            names.add(name)
    if hasattr(module, "__path__"):
        tool = module.__name__.partition(".")[0]
        names |= {name for name in _starred(module) if _home(getattr(module, name)).partition(".")[0] == tool}
    return names


def _home(each: Any) -> str:
    return str(getattr(each, "__name__" if inspect.ismodule(each) else "__module__", ""))


def _starred(module: ModuleType) -> list[str]:
    return list(getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")]))


def _exported(package: str) -> dict[str, Any]:
    root = importlib.import_module(package)
    return {name: getattr(root, name) for name in getattr(root, "__all__", ())}


def compared(path: str, theirs: Any, package: str) -> Iterator[Line]:
    """The name itself, and a class's public methods."""
    mine = find(path, package)
    if mine is None or mine is theirs:
        yield Line(path, "missing" if mine is None else "the tool's own", reason(path))
        return
    yield Line(path, difference(mine, theirs), reason(path))
    if not inspect.isclass(theirs):
        return
    for name, function in vars(theirs).items():
        if isinstance(function, property) and not name.startswith("_") and not hasattr(mine, name):
            yield Line(f"{path}.{name}", "missing", reason(f"{path}.{name}"))
        if not inspect.isfunction(function) or (name.startswith("_") and name not in ("__init__", "__call__")):
            continue
        below = f"{path}.{name}"
        own = getattr(mine, name, None)
        yield Line(below, "missing" if own is None else difference(own, function), reason(below))


def find(path: str, package: str) -> Any:
    """Our object of that path, or of that name in the package."""
    module, _, name = path.rpartition(".")
    for place in (module, package):
        try:
            found = getattr(importlib.import_module(f"fastcam.compat.{place}"), name, None)
        except ModuleNotFoundError:
            continue
        if found is not None:
            return found
    return None


def difference(mine: Any, theirs: Any) -> str:
    """How the parameters differ, "same" where they do not; keywords that take the rest stand for any."""
    ours, expected = (_parameters(each) for each in (mine, theirs))
    if ours is None or expected is None:
        return "same"
    if any(kind is inspect.Parameter.VAR_POSITIONAL for _, kind in ours) or ours == expected:
        return "same"
    return f"takes {', '.join(name for name, _ in ours)}; the tool {', '.join(name for name, _ in expected)}"


def _parameters(function: Any) -> list[tuple[str, Any]] | None:
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    return [(each.name, each.kind) for each in found if each.name not in EXTRA]


def reason(path: str) -> str:
    """Why a name is not here, or differs."""
    return next((why for pattern, why in NOT_HERE.items() if fnmatch.fnmatchcase(path, pattern)), "")


def main() -> None:
    """Prints a line for every name that is not the same, and how many are."""
    for package, lines in [
        *((package, list(listed(package))) for package in PACKAGES),
        *((f"paths of {tool}", list(paths(tool))) for tool in TOOLS),
    ]:
        print(f"{package}: {sum(each.state == 'same' for each in lines)} of {len(lines)} names the same")
        for each in lines:
            if each.state != "same":
                print(f"  {each.name}: {each.state}" + (f" ({each.reason})" if each.reason else ""))


if __name__ == "__main__":
    main()
