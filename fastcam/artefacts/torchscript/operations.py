"""Operations done in Python: TorchScript's functions copy the lists passed to them, so writes would be lost."""

import torch

from fastcam.artefacts.torchscript.internals import Function, Node, ScriptValue, UnreadableError

_CONTAINERS = ("ListType", "DictType")

_WRITES: dict[str, Function] = {
    "aten::append": list.append,
    "aten::extend": list.extend,
    "aten::insert": list.insert,
    "aten::clear": lambda container: container.clear(),
    "aten::pop": lambda container, *index: container.pop(*index),
    "aten::reverse": list.reverse,
    "aten::_set_item": lambda container, index, value: container.__setitem__(index, value),
}


def tensor_of_number(number: float) -> torch.Tensor:
    """Return a number as TorchScript stores it where a tensor is expected."""
    return torch.tensor(number, dtype=torch.float64 if isinstance(number, float) else None)


# Nodes that only pack, unpack or convert values.
PACKING: dict[str, Function] = {
    "prim::ListConstruct": lambda *elements: list(elements),
    "prim::TupleConstruct": lambda *elements: elements,
    "prim::ListUnpack": lambda elements: elements,
    "prim::TupleUnpack": lambda elements: elements,
    "prim::unchecked_cast": lambda value: value,
    "prim::Uninitialized": lambda: None,
    "prim::NumToTensor": tensor_of_number,
}


def write_function(node: Node) -> Function | None:
    """Return the function of a node that writes into a list or dict; None for any other node.

    Raises:
        UnreadableError: for an unknown write.
    """
    inputs = list(node.inputs())
    if not inputs or inputs[0].type().kind() not in _CONTAINERS or "(a!)" not in node.schema():
        return None
    if node.kind() not in _WRITES:
        raise UnreadableError(f"it writes into a list by {node.kind()}")
    write = _WRITES[node.kind()]

    def write_and_return(container: ScriptValue, *arguments: ScriptValue) -> ScriptValue:
        result = write(container, *arguments)
        return container if result is None else result

    return write_and_return
