"""Exported programs (torch.export) as modules that can be hooked."""

import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.export.unflatten import InterpreterModule, UnflattenedModule

from fastcam.artefacts.values import Value, as_name

_PROGRAM = "exported_program"  # an attribute of the module that was made of it


def read(program: ExportedProgram) -> nn.Module:
    """Return the program with the submodules of the exported model, and one module per other intermediate value.

    It shares the program's weights.
    """
    model = torch.export.unflatten(program)
    for module in list(model.modules()):
        class_name = (getattr(module, "_ty", None) or "").rpartition(".")[2]
        vars(module)["stands_for"] = getattr(nn, class_name, None)
        graph = getattr(module, "graph", None)
        if isinstance(graph, fx.Graph):
            _insert_value_modules(module, graph)
    for module in model.modules():
        module.training = False  # `eval` of an exported program raises: export fixes the mode
    vars(model)[_PROGRAM] = program
    return model


def program_of(model: nn.Module) -> ExportedProgram | None:
    """Return the program that :func:`read` made a model of; None for another model."""
    program = vars(model).get(_PROGRAM)
    return program if isinstance(program, ExportedProgram) else None


def _insert_value_modules(module: nn.Module, graph: fx.Graph) -> None:
    """Pass the maps that functions return through modules of their names."""
    for node in list(graph.nodes):
        value = node.meta.get("val")
        if node.op != "call_function" or not isinstance(value, torch.Tensor) or value.dim() < 3:
            continue
        name = as_name(node.name)
        if name in module._modules or not value.is_floating_point():
            continue
        module.add_module(name, Value(getattr(node.target, "__name__", str(node.target)).split(".")[0]))
        graph.owning_module = module  # type: ignore[assignment]  # an unflattened module is not a GraphModule
        with graph.inserting_after(node):
            call = graph.call_module(name, (node,))
        call.meta = dict(node.meta)
        node.replace_all_uses_with(call, delete_user_cb=lambda user, call=call: user is not call)
    if isinstance(module, InterpreterModule | UnflattenedModule):
        module.finalize()
