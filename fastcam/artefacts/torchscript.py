"""TorchScript read node by node: its submodules and values become modules that can be hooked."""

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from fastcam.artefacts.values import Value, as_name

Values = dict[str, Any]
Step = Callable[[Values], None]

_RUNS = re.compile(r"forward\d*")  # a trace numbers the runs of a module
_TENSOR = torch._C.TensorType.get()

# TorchScript's functions copy the lists they are given, so what writes into one is done here.
_WRITES: dict[str, Callable[..., Any]] = {
    "aten::append": list.append,
    "aten::extend": list.extend,
    "aten::insert": list.insert,
    "aten::clear": lambda held: held.clear(),
    "aten::pop": lambda held, *place: held.pop(*place),
    "aten::reverse": list.reverse,
    "aten::_set_item": lambda held, place, value: held.__setitem__(place, value),
}
_HELD = ("ListType", "DictType")


class UnreadableError(Exception):
    """Why a TorchScript module cannot be read."""


class Script(nn.Module):
    """A TorchScript module, read: its submodules are called as modules, and its other values pass through modules.

    Args:
        script: a ScriptModule in evaluation mode. It is shared, not copied.
        is_root: whether it is the model, not a part of another. A part without parts of its own runs as TorchScript.

    Raises:
        UnreadableError: with what it holds that is not known.
    """

    def __init__(self, script: Any, is_root: bool = True) -> None:
        super().__init__()
        self.source: Any
        object.__setattr__(self, "source", script)  # no submodule of this one
        self.stands_for = getattr(nn, script.original_name, nn.Module)
        self.training = getattr(script, "training", False)  # a frozen one has no mode any more
        self._parameters.update(script._parameters.items())
        self._buffers.update(script._buffers.items())
        for name, child in script._modules.items():
            self.add_module(name, Script(child, is_root=False))
        self.methods: dict[str, _Method] = {}
        self.is_leaf = not self._modules and not is_root
        if is_root:
            self.read("forward")

    def forward(self, *arguments: Any, method_: str = "forward", **keywords: Any) -> Any:
        """What the script returns."""
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]  # no node of the graph hides many
            return self.call(method_, *arguments, **keywords)

    def call(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        """What a method of the script returns."""
        if self.is_leaf:
            return self.source._c._get_method(method)(*arguments, **keywords)  # traces allow no other way
        return self.methods[method](self, arguments, keywords)

    def child(self, name: str) -> Any:
        """An attribute of the script; of a submodule its reading."""
        return self._modules[name] if name in self._modules else getattr(self.source, name)

    def read(self, name: str) -> None:
        """Reads a method, and all that it calls."""
        if name not in self.methods and not self.is_leaf:
            self.methods[name] = method = _Method()
            method.read(self, self.source._c._get_method(name))

    def value(self, name: str, operation: str) -> Value | None:
        """The module that a value passes through; None where a submodule has its name."""
        found = self._modules.setdefault(as_name(name), Value(operation))
        return found if isinstance(found, Value) else None

    def extra_repr(self) -> str:
        """The class that was scripted."""
        return str(self.source.original_name)


class _Method:
    """A method's graph as steps."""

    def read(self, owner: Script, method: Any) -> None:
        self.arguments = method.schema.arguments[1:]
        graph = method.graph
        self.owner, *self.inputs = (each.debugName() for each in graph.inputs())
        reader = _Reader(owner, self.owner)
        self.steps = reader.steps(graph)
        (self.output,) = (each.debugName() for each in graph.outputs())

    def __call__(self, owner: Script, arguments: Sequence[Any], keywords: dict[str, Any]) -> Any:
        given = dict(zip((each.name for each in self.arguments), arguments, strict=False)) | keywords
        if len(arguments) > len(self.arguments) or not given.keys() <= {each.name for each in self.arguments}:
            raise TypeError(f"the script takes {len(self.arguments)} arguments, got {len(arguments) + len(keywords)}")
        values: Values = {self.owner: owner}
        for name, argument in zip(self.inputs, self.arguments, strict=True):
            if argument.name not in given and not argument.has_default_value():
                raise TypeError(f"the script needs the argument {argument.name!r}")
            values[name] = given.get(argument.name, argument.default_value)
        _run(self.steps, values)
        return values[self.output]


class _Reader:
    """From the nodes of a graph to steps.

    Args:
        owner: whose method it is.
        name: the graph's name for it.
    """

    def __init__(self, owner: Script, name: str) -> None:
        self.owner = owner
        self.modules = {name: owner}  # the values that are modules, known before anything runs

    def steps(self, block: Any) -> list[Step]:
        return [step for node in block.nodes() if (step := self.step(node)) is not None]

    def step(self, node: Any) -> Step | None:
        kind = node.kind()
        special = _SPECIAL.get(kind)
        if special is not None:
            return special(self, node)
        if kind == "prim::Constant":
            return self._constant(node)
        if list(node.blocks()) or kind in ("prim::SetAttr", "prim::Enter", "prim::Exit"):
            raise UnreadableError(f"it holds {kind}")
        made = _MADE.get(kind) or self._written(node) or _function(node)
        return self._shown(node, _apply(made, _names(node.inputs()), _names(node.outputs()), kind))

    def _constant(self, node: Any) -> Step | None:
        (output,) = node.outputs()
        if "Function" in output.type().kind():
            return None  # copied to where it is called
        value = output.toIValue()
        is_number = output.type().kind() == "TensorType" and not isinstance(value, torch.Tensor)
        return functools.partial(_set, output.debugName(), _tensor(value) if is_number else value)

    def _written(self, node: Any) -> Callable[..., Any] | None:
        inputs = list(node.inputs())
        if not inputs or inputs[0].type().kind() not in _HELD or "(a!)" not in node.schema():
            return None
        if node.kind() not in _WRITES:
            raise UnreadableError(f"it writes into a list by {node.kind()}")
        writes = _WRITES[node.kind()]

        def returned(held: Any, *rest: Any) -> Any:
            found = writes(held, *rest)
            return held if found is None else found

        return returned

    def _shown(self, node: Any, step: Step) -> Step:
        """The step, its result passed through a module of its name if it is a tensor."""
        outputs = list(node.outputs())
        if len(outputs) != 1 or outputs[0].type().kind() != "TensorType":
            return step
        name = outputs[0].debugName()
        shown = self.owner.value(name, _operation(node))

        def both(values: Values) -> None:
            step(values)
            if shown is not None and isinstance(values[name], torch.Tensor):
                values[name] = shown(values[name])

        return both

    def attribute(self, node: Any) -> Step:
        (owner,), (output,) = _names(node.inputs()), _names(node.outputs())
        attribute = node.s("name")
        held = self.modules.get(owner)
        part = None if held is None else held._modules.get(attribute)
        if isinstance(part, Script):
            self.modules[output] = part

        def get(values: Values) -> None:
            of = values[owner]
            values[output] = of.child(attribute) if isinstance(of, Script) else getattr(of, attribute)

        return get

    def called(self, node: Any) -> Step:
        owner, *arguments = _names(node.inputs())
        (output,) = _names(node.outputs())
        method, module = node.s("name"), self.modules.get(owner)
        if module is None:
            return _apply(_function(node), [owner, *arguments], [output], node.kind())
        module.read(method)
        is_run = _RUNS.fullmatch(method)

        def call(values: Values) -> None:
            given = [values[each] for each in arguments]
            values[output] = module(*given, method_=method) if is_run else module.call(method, *given)

        return call

    def branch(self, node: Any) -> Step:
        (condition,), outputs = _names(node.inputs()), _names(node.outputs())
        branches = [(self.steps(block), _names(block.outputs())) for block in node.blocks()]

        def choose(values: Values) -> None:
            steps, found = branches[0] if values[condition] else branches[1]
            _run(steps, values)
            values.update(zip(outputs, [values[each] for each in found], strict=True))

        return choose

    def loop(self, node: Any) -> Step:
        most, condition, *carried = _names(node.inputs())
        outputs, (body,) = _names(node.outputs()), node.blocks()
        inputs, found, steps = _names(body.inputs()), _names(body.outputs()), self.steps(body)

        def repeat(values: Values) -> None:
            now, goes_on, count = [values[each] for each in carried], values[condition], 0
            while goes_on and count < values[most]:
                values.update(zip(inputs, [count, *now], strict=True))
                _run(steps, values)
                goes_on, *now = (values[each] for each in found)
                count += 1
            values.update(zip(outputs, now, strict=True))

        return repeat


_SPECIAL: dict[str, Callable[[_Reader, Any], Step]] = {
    "prim::GetAttr": _Reader.attribute,
    "prim::CallMethod": _Reader.called,
    "prim::If": _Reader.branch,
    "prim::Loop": _Reader.loop,
}


def _tensor(number: float) -> torch.Tensor:
    """The number as TorchScript has it among tensors."""
    return torch.tensor(number, dtype=torch.float64 if isinstance(number, float) else None)


# Those that only arrange values, done without a function of TorchScript's, which would copy lists.
_MADE: dict[str, Callable[..., Any]] = {
    "prim::ListConstruct": lambda *held: list(held),
    "prim::TupleConstruct": lambda *held: held,
    "prim::ListUnpack": lambda held: held,
    "prim::TupleUnpack": lambda held: held,
    "prim::unchecked_cast": lambda held: held,
    "prim::Uninitialized": lambda: None,
    "prim::NumToTensor": _tensor,
}


def _run(steps: Iterable[Step], values: Values) -> None:
    for step in steps:
        step(values)


def _set(name: str, value: Any, values: Values) -> None:
    values[name] = value


def _names(values: Iterable[Any]) -> list[str]:
    return [each.debugName() for each in values]


def _apply(function: Callable[..., Any], inputs: Sequence[str], outputs: Sequence[str], kind: str) -> Step:
    is_several = kind in ("prim::ListUnpack", "prim::TupleUnpack") or len(outputs) != 1

    def apply(values: Values) -> None:
        found = function(*[values.get(each) for each in inputs])
        if not outputs:
            return
        if is_several:
            values.update(zip(outputs, found, strict=True))
        else:
            values[outputs[0]] = found

    return apply


def _function(node: Any) -> Callable[..., Any]:
    """The node alone as a function of its inputs, with TorchScript's own meaning.

    The functions that it calls are constants of the graph and go with it; they are given to it as None.
    """
    if node.kind().startswith("aten::") and len(list(node.outputs())) > 1:
        # Some of the results may be undefined, which only the operator itself can return.
        return torch._C._jit_get_operation(node.kind())[0]
    graph: Any = torch._C.Graph()
    own: dict[str, Any] = {}
    places = []
    for place, value in enumerate(node.inputs()):
        name = value.debugName()
        if "Function" in value.type().kind():
            own[name] = graph.insertNode(graph.createClone(value.node(), lambda each: each)).output()
        elif name not in own:
            own[name] = graph.addInput(f"a{place}")
            own[name].setType(_general(value.type()))
            places.append(place)
    copy = graph.insertNode(graph.createClone(node, lambda each: own[each.debugName()]))
    outputs = list(copy.outputs())
    for output in outputs:
        output.setType(_general(output.type()))
    if len(outputs) != 1:  # a function returns one value
        outputs = [graph.insertNode(graph.create("prim::TupleConstruct", outputs, 1)).output()]
        outputs[0].setType(torch._C.TupleType([each.type() for each in copy.outputs()]))
    graph.registerOutput(outputs[0])
    function = torch._C._create_function_from_graph("step", graph)
    return lambda *values: function(*[values[place] for place in places])


def _general(kind: Any) -> Any:
    """The type without the shapes that tracing saw."""
    return _TENSOR if kind.kind() == "TensorType" else kind


def _operation(node: Any) -> str:
    if node.kind() != "prim::CallFunction":
        return str(node.kind().split("::")[1])
    return str(next(node.inputs()).node().s("name"))
