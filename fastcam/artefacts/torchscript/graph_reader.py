"""Translate the graph of a TorchScript method into steps."""

import re
from collections.abc import Callable

import torch

from fastcam.artefacts.torchscript import internals, steps
from fastcam.artefacts.torchscript.internals import Block, Node, ScriptValue, UnreadableError, names
from fastcam.artefacts.torchscript.operations import PACKING, tensor_of_number, write_function
from fastcam.artefacts.torchscript.steps import Method, ReadModule, Step

_FORWARD = re.compile(r"forward\d*")  # a trace numbers the calls of a module
_UNPACKING = ("prim::ListUnpack", "prim::TupleUnpack")


def read(owner: ReadModule, method: internals.Method) -> Method:
    """Read a method of a module.

    Raises:
        UnreadableError: for nodes that cannot be translated.
    """
    graph = method.graph
    name, *inputs = names(graph.inputs())
    translated = _GraphReader(owner, name).steps(graph)
    (output,) = names(graph.outputs())
    return Method(name, inputs, method.schema.arguments[1:], translated, output)


class _GraphReader:
    """From the nodes of a graph to steps.

    Args:
        owner: the module whose method it is.
        name: its name in the graph.
    """

    def __init__(self, owner: ReadModule, name: str) -> None:
        self.owner = owner
        self.modules = {name: owner}  # the values that are modules, known before anything runs

    def steps(self, block: Block) -> list[Step]:
        return [step for node in block.nodes() if (step := self.step(node)) is not None]

    def step(self, node: Node) -> Step | None:
        kind = node.kind()
        translate = _TRANSLATIONS.get(kind)
        if translate is not None:
            return translate(self, node)
        if list(node.blocks()) or kind in ("prim::SetAttr", "prim::Enter", "prim::Exit"):
            raise UnreadableError(f"it holds {kind}")
        function = PACKING.get(kind) or write_function(node) or internals.node_function(node)
        outputs = names(node.outputs())
        unpack = kind in _UNPACKING or len(outputs) != 1
        return self._through_module(node, steps.apply(function, names(node.inputs()), outputs, unpack=unpack))

    def _through_module(self, node: Node, step: Step) -> Step:
        """Return the step, its result passed through a module of its name if it is a tensor."""
        outputs = list(node.outputs())
        if len(outputs) != 1 or not internals.is_tensor(outputs[0]):
            return step
        name = outputs[0].debugName()
        return steps.pass_through(step, name, self.owner.value_module(name, internals.operation_name(node)))

    def constant(self, node: Node) -> Step | None:
        (output,) = node.outputs()
        if internals.is_function(output):
            return None  # copied to where it is called
        value: ScriptValue = output.toIValue()
        is_number = internals.is_tensor(output) and not isinstance(value, torch.Tensor)
        return steps.set_constant(output.debugName(), tensor_of_number(value) if is_number else value)

    def attribute(self, node: Node) -> Step:
        (owner,), (output,) = names(node.inputs()), names(node.outputs())
        attribute = node.s("name")
        module = self.modules.get(owner)
        submodule = None if module is None else module._modules.get(attribute)
        if isinstance(submodule, ReadModule):
            self.modules[output] = submodule
        return steps.get_attribute(owner, attribute, output)

    def method_call(self, node: Node) -> Step:
        owner, *inputs = names(node.inputs())
        (output,) = names(node.outputs())
        method, module = node.s("name"), self.modules.get(owner)
        if module is None:
            return steps.apply(internals.node_function(node), [owner, *inputs], [output], unpack=False)
        module.read_method(method)
        return steps.call_module(module, method, inputs, output, with_hooks=bool(_FORWARD.fullmatch(method)))

    def branch(self, node: Node) -> Step:
        (condition,), outputs = names(node.inputs()), names(node.outputs())
        branches = [(self.steps(block), names(block.outputs())) for block in node.blocks()]
        return steps.branch(condition, branches, outputs)

    def loop(self, node: Node) -> Step:
        trip_count, condition, *initial = names(node.inputs())
        outputs, (body,) = names(node.outputs()), node.blocks()
        inputs, results = names(body.inputs()), names(body.outputs())
        return steps.Loop(trip_count, condition, initial, inputs, self.steps(body), results, outputs)


_TRANSLATIONS: dict[str, Callable[[_GraphReader, Node], Step | None]] = {
    "prim::Constant": _GraphReader.constant,
    "prim::GetAttr": _GraphReader.attribute,
    "prim::CallMethod": _GraphReader.method_call,
    "prim::If": _GraphReader.branch,
    "prim::Loop": _GraphReader.loop,
}
