"""TorchScript modules whose submodules and values can be hooked."""

from typing import cast

import torch
from torch import nn

from fastcam.artefacts.torchscript import graph_reader, internals
from fastcam.artefacts.torchscript.internals import ScriptValue
from fastcam.artefacts.torchscript.steps import Method, ReadModule
from fastcam.artefacts.values import Value, as_name


class Script(ReadModule):
    """A TorchScript module whose submodules are called as modules and whose other values pass through modules.

    Args:
        script: a ScriptModule in evaluation mode. It is shared, not copied.
        is_root: whether it is the model rather than a submodule. A submodule without submodules runs as TorchScript.

    Raises:
        UnreadableError: naming what cannot be read.
    """

    def __init__(self, script: torch.jit.ScriptModule, is_root: bool = True) -> None:
        super().__init__()
        self.source: torch.jit.ScriptModule
        object.__setattr__(self, "source", script)  # not registered as a submodule
        self.stands_for = getattr(nn, script.original_name, nn.Module)
        self.training = getattr(script, "training", False)  # a frozen module has no mode
        self._parameters.update(script._parameters.items())
        self._buffers.update(script._buffers.items())
        for name, submodule in script._modules.items():
            self.add_module(name, Script(cast("torch.jit.ScriptModule", submodule), is_root=False))
        self.read_methods: dict[str, Method] = {}
        self.is_leaf = not self._modules and not is_root
        if is_root:
            self.read_method("forward")

    def forward(self, *arguments: ScriptValue, method_: str = "forward", **keywords: ScriptValue) -> ScriptValue:
        """Return what the script returns."""
        # The optimizer would fuse operations into single autograd nodes, rectifiers among them.
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            return self.call_method(method_, *arguments, **keywords)

    def call_method(self, name: str, *arguments: ScriptValue, **keywords: ScriptValue) -> ScriptValue:
        """Return what a method of the script returns."""
        if self.is_leaf:
            return internals.get_method(self.source, name)(*arguments, **keywords)
        return self.read_methods[name](self, arguments, keywords)

    def get_attribute(self, name: str) -> ScriptValue:
        """Return an attribute of the script, a submodule as the module that was read from it."""
        return self._modules[name] if name in self._modules else getattr(self.source, name)

    def read_method(self, name: str) -> None:
        """Read a method and all methods that it calls."""
        if name not in self.read_methods and not self.is_leaf:
            self.read_methods[name] = graph_reader.read(self, internals.get_method(self.source, name))

    def value_module(self, name: str, operation: str) -> Value | None:
        """Return the module that a value passes through; None where a submodule has its name."""
        module = self._modules.setdefault(as_name(name), Value(operation))
        return module if isinstance(module, Value) else None

    def extra_repr(self) -> str:
        """The class that was scripted."""
        return str(self.source.original_name)
