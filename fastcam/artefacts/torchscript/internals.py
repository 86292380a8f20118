"""The private entry points of torch that reading TorchScript rests on; nothing else here touches them.

- ``ScriptModule._c._get_method`` and the resulting method's ``graph`` and ``schema``: what is read.
- ``torch._C.Graph`` with ``Graph.createClone`` and ``torch._C._create_function_from_graph``: one node as a function.
- ``torch._C._jit_get_operation``: an operator by its name, for operators with several results.
- ``torch._C.TensorType`` and ``torch._C.TupleType``: types of the values of such graphs.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import torch

Block: TypeAlias = torch._C.Graph | torch._C.Block
Node: TypeAlias = torch._C.Node
GraphValue: TypeAlias = torch._C.Value
Argument: TypeAlias = torch._C.Argument
Method: TypeAlias = "torch._C.ScriptMethod[..., ScriptValue]"
ScriptValue: TypeAlias = Any  # what TorchScript computes: tensors, numbers, lists, dicts, tuples, modules, ...
Function: TypeAlias = Callable[..., ScriptValue]

_TENSOR = torch._C.TensorType.get()


class UnreadableError(Exception):
    """A TorchScript module cannot be read; the message names the obstacle."""


def get_method(script: torch.jit.ScriptModule, name: str) -> Method:
    """Return a method of a ScriptModule; traced modules give access to methods other than forward only this way."""
    return script._c._get_method(name)


def names(values: Iterable[GraphValue]) -> list[str]:
    """Return the names that values have in their graph."""
    return [value.debugName() for value in values]


def is_tensor(value: GraphValue) -> bool:
    """Whether a value of a graph is typed as a tensor."""
    return value.type().kind() == "TensorType"


def is_function(value: GraphValue) -> bool:
    """Whether a value of a graph is a function that the graph calls."""
    return "Function" in value.type().kind()


def operation_name(node: Node) -> str:
    """Return the operator of a node, such as "conv2d", or the name of the function that it calls."""
    if node.kind() != "prim::CallFunction":
        return node.kind().split("::")[1]
    return next(iter(node.inputs())).node().s("name")


def node_function(node: Node) -> Function:
    """Return the node alone as a function of its inputs, with TorchScript's own semantics.

    Functions that the node calls are constants of the graph and are copied along; their arguments are ignored.
    """
    if node.kind().startswith("aten::") and len(list(node.outputs())) > 1:
        # Some of the results may be undefined, which only the operator itself can return.
        return torch._C._jit_get_operation(node.kind())[0]
    graph: Any = torch._C.Graph()  # Any: createClone is missing in torch's stubs
    copies: dict[str, GraphValue] = {}
    positions = []
    for position, value in enumerate(node.inputs()):
        name = value.debugName()
        if is_function(value):
            copies[name] = graph.insertNode(graph.createClone(value.node(), lambda value: value)).output()
        elif name not in copies:
            copies[name] = graph.addInput(f"a{position}")
            copies[name].setType(_without_shape(value.type()))
            positions.append(position)
    copy: Node = graph.insertNode(graph.createClone(node, lambda value: copies[value.debugName()]))
    outputs = list(copy.outputs())
    for output in outputs:
        output.setType(_without_shape(output.type()))
    if len(outputs) != 1:  # a function returns one value
        types = [output.type() for output in outputs]
        outputs = [graph.insertNode(graph.create("prim::TupleConstruct", outputs, 1)).output()]
        outputs[0].setType(torch._C.TupleType([*types]))
    graph.registerOutput(outputs[0])
    function = torch._C._create_function_from_graph("step", graph)
    return lambda *values: function(*[values[position] for position in positions])


def _without_shape(kind: "torch._C.JitType") -> "torch._C.JitType":
    """Return the type without the shapes recorded by tracing."""
    return _TENSOR if kind.kind() == "TensorType" else kind
