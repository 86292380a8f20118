"""The executable steps of a method: each reads values by their names, computes, and stores its results."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import nn

from fastcam.artefacts.torchscript.internals import Argument, Function, ScriptValue

Values: TypeAlias = dict[str, ScriptValue]
Step: TypeAlias = Callable[[Values], None]


class ReadModule(nn.Module):
    """The interface of a module whose methods are read, as steps and the graph reader use it."""

    def get_attribute(self, name: str) -> ScriptValue:
        """Return an attribute of the script, a submodule as the module that was read from it."""
        raise NotImplementedError

    def call_method(self, name: str, *arguments: ScriptValue, **keywords: ScriptValue) -> ScriptValue:
        """Call a method without the module's hooks."""
        raise NotImplementedError

    def read_method(self, name: str) -> None:
        """Read a method and all methods that it calls."""
        raise NotImplementedError

    def value_module(self, name: str, operation: str) -> nn.Module | None:
        """Return the module that a value passes through; None where a submodule has its name."""
        raise NotImplementedError


@dataclass(frozen=True)
class Method:
    """A method as steps.

    Attributes:
        owner: name of the module itself in the graph.
        inputs: names of the other inputs.
        arguments: their declarations, with defaults.
        steps: what runs, in order.
        output: name of the result.
    """

    owner: str
    inputs: Sequence[str]
    arguments: Sequence[Argument]
    steps: Sequence[Step]
    output: str

    def __call__(
        self, owner: ReadModule, arguments: Sequence[ScriptValue], keywords: dict[str, ScriptValue]
    ) -> ScriptValue:
        """Run the steps on a module's arguments.

        Raises:
            TypeError: for missing or superfluous arguments.
        """
        known = [argument.name for argument in self.arguments]
        passed = dict(zip(known, arguments, strict=False)) | keywords
        if len(arguments) > len(known) or not passed.keys() <= set(known):
            raise TypeError(f"the script takes {len(known)} arguments, got {len(arguments) + len(keywords)}")
        values: Values = {self.owner: owner}
        for name, argument in zip(self.inputs, self.arguments, strict=True):
            if argument.name not in passed and not argument.has_default_value():
                raise TypeError(f"the script needs the argument {argument.name!r}")
            values[name] = passed.get(argument.name, argument.default_value)
        run(self.steps, values)
        return values[self.output]


def run(steps: Iterable[Step], values: Values) -> None:
    """Run steps in order."""
    for step in steps:
        step(values)


def set_constant(name: str, constant: ScriptValue) -> Step:
    """Return the step that stores a constant."""

    def store(values: Values) -> None:
        values[name] = constant

    return store


def apply(function: Function, inputs: Sequence[str], outputs: Sequence[str], *, unpack: bool) -> Step:
    """Return the step that applies a function; ``unpack`` distributes its result over the outputs."""

    def compute(values: Values) -> None:
        result = function(*[values.get(name) for name in inputs])
        if not outputs:
            return
        if unpack:
            values.update(zip(outputs, result, strict=True))
        else:
            values[outputs[0]] = result

    return compute


def pass_through(step: Step, name: str, module: nn.Module | None) -> Step:
    """Return the step followed by a module that its result passes through if it is a tensor."""

    def compute(values: Values) -> None:
        step(values)
        if module is not None and isinstance(values[name], torch.Tensor):
            values[name] = module(values[name])

    return compute


def get_attribute(owner: str, attribute: str, output: str) -> Step:
    """Return the step that looks up an attribute of a module or another object."""

    def look_up(values: Values) -> None:
        instance = values[owner]
        is_read = isinstance(instance, ReadModule)
        values[output] = instance.get_attribute(attribute) if is_read else getattr(instance, attribute)

    return look_up


def call_module(module: ReadModule, method: str, inputs: Sequence[str], output: str, *, with_hooks: bool) -> Step:
    """Return the step that calls a method of a module."""

    def call(values: Values) -> None:
        arguments = [values[name] for name in inputs]
        values[output] = module(*arguments, method_=method) if with_hooks else module.call_method(method, *arguments)

    return call


def branch(condition: str, branches: Sequence[tuple[Sequence[Step], Sequence[str]]], outputs: Sequence[str]) -> Step:
    """Return the step of an if: ``branches`` holds steps and names of results, for true and for false."""

    def choose(values: Values) -> None:
        steps, results = branches[0] if values[condition] else branches[1]
        run(steps, values)
        values.update(zip(outputs, [values[name] for name in results], strict=True))

    return choose


@dataclass(frozen=True)
class Loop:
    """The step of a loop.

    Attributes:
        trip_count: name of the largest number of iterations.
        condition: name of the condition to enter.
        initial: names of the values carried into the first iteration.
        inputs: names in the body of the iteration's index and the carried values.
        steps: the body.
        results: names in the body of the condition to go on and the values to carry on.
        outputs: names of the carried values after the loop.
    """

    trip_count: str
    condition: str
    initial: Sequence[str]
    inputs: Sequence[str]
    steps: Sequence[Step]
    results: Sequence[str]
    outputs: Sequence[str]

    def __call__(self, values: Values) -> None:
        """Iterate."""
        carried, goes_on, index = [values[name] for name in self.initial], values[self.condition], 0
        while goes_on and index < values[self.trip_count]:
            values.update(zip(self.inputs, [index, *carried], strict=True))
            run(self.steps, values)
            goes_on, *carried = (values[name] for name in self.results)
            index += 1
        values.update(zip(self.outputs, carried, strict=True))
