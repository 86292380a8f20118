"""Programs of torch.export as modules that can be hooked."""

from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram

from fastcam.artefacts.values import Value, as_name


def read(program: ExportedProgram) -> nn.Module:
    """The program with the submodules of the model that it was made from, and modules for its other values.

    It shares the program's weights.
    """
    model = torch.export.unflatten(program)
    for module in list[Any](model.modules()):
        graph = getattr(module, "graph", None)
        module.stands_for = getattr(nn, (getattr(module, "_ty", None) or "").rpartition(".")[2], None)
        if isinstance(graph, fx.Graph):
            _show_values(module, graph)
    for module in model.modules():
        module.training = False  # `eval` of a program refuses: the mode was fixed when it was exported
    return model


def _show_values(module: Any, graph: fx.Graph) -> None:
    """Passes the maps that functions return through modules of their names."""
    for node in list(graph.nodes):
        value = node.meta.get("val")
        if node.op != "call_function" or not isinstance(value, torch.Tensor) or value.dim() < 3:
            continue
        name = as_name(node.name)
        if name in module._modules or not value.is_floating_point():
            continue
        module.add_module(name, Value(getattr(node.target, "__name__", str(node.target)).split(".")[0]))
        graph.owning_module = module
        with graph.inserting_after(node):
            shown = graph.call_module(name, (node,))
        shown.meta = dict(node.meta)
        node.replace_all_uses_with(shown, delete_user_cb=lambda user, shown=shown: user is not shown)
    if hasattr(module, "finalize"):
        module.finalize()
