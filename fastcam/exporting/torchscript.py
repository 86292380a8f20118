"""Traced programs as TorchScript."""

import functools
import math
import operator
import warnings
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.fx.node import map_aggregate

from fastcam.exporting.loop import Looped
from fastcam.exporting.program import FREE, HIGHEST, Program

# Functions of symbols, as functions of numbers.
_OF_NUMBERS: dict[Any, Any] = {
    torch.sym_max: max,
    torch.sym_min: min,
    torch.sym_float: float,
    torch.sym_not: operator.not_,
}


class ScriptedProgram(nn.Module):
    """A program whose second argument may be left out.

    Args:
        program: what is run.
    """

    def __init__(self, program: Program) -> None:
        super().__init__()
        graph = program.graph
        self.program = as_script(graph) if isinstance(graph, fx.GraphModule) else torch.jit.script(ScriptedLoop(graph))
        self.sides = [FREE if side is None else side for side in program.sides]
        self.highest = HIGHEST

    def forward(self, images: Tensor, classes: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return scores (N,), maps (N, *S) and the classes explained (N,); without classes the highest."""
        fits = images.dim() == len(self.sides)
        if fits:
            for axis, side in enumerate(self.sides):
                fits = fits and (side == -1 or images.size(axis) == side)
        if not fits:
            raise ValueError(f"this program was exported for images {self.sides} (-1: any), got {images.size()}")
        if classes is None:
            classes = torch.full([images.size(0)], self.highest, dtype=torch.int64, device=images.device)
        results = self.program(images, classes)
        return results[0], results[1], results[2]


class ScriptedLoop(nn.Module):
    """A program with a loop.

    Args:
        looped: what is run.
    """

    def __init__(self, looped: Looped) -> None:
        super().__init__()
        parts = looped.parts
        self.before, self.step, self.after = as_script(parts.before), as_script(parts.step), as_script(parts.after)
        self.steps, self.size, self.last = looped.steps, parts.size, parts.variants - 1

    def forward(self, images: Tensor, classes: Tensor) -> list[Tensor]:
        """Return scores, maps and classes."""
        values = self.before([images, classes])
        collected: list[list[Tensor]] = []
        for number in range(self.steps):
            index = (torch.arange(self.size, device=images.device) + number * self.size).clamp(max=self.last)
            results = self.step(index, values)
            for place in range(len(results)):
                if number == 0:
                    collected.append([results[place]])
                else:
                    collected[place].append(results[place])
        joined: list[Tensor] = []
        for parts in collected:
            joined.append(torch.cat(parts, 1)[:, : self.last + 1])
        return self.after(values, joined)


def scripted(program: Program) -> torch.jit.ScriptModule:
    """Return a program as TorchScript."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is deprecated; whoever asks for it is told by the docs
        return torch.jit.script(ScriptedProgram(program).eval())


def as_script(graph: fx.GraphModule) -> torch.jit.ScriptModule:
    """Compile a graph of operators; it is the source that TorchScript reads."""
    nodes = fx.Graph()
    nodes.output(nodes.graph_copy(graph.graph, {}))
    copied = fx.GraphModule(graph, nodes)
    for node in list(copied.graph.nodes):
        readable = functools.partial(_readable, node)
        node.args, node.kwargs = map_aggregate(node.args, readable), map_aggregate(node.kwargs, readable)
        if isinstance(node.target, OpOverload):  # the compiler chooses the overload by its arguments
            is_size = node.target is torch.ops.aten.sym_size.int
            node.target = torch.ops.aten.size if is_size else node.target.overloadpacket
        node.target = _OF_NUMBERS.get(node.target, node.target)
    copied.recompile()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(copied)


def _readable(node: fx.Node, value: Any) -> Any:
    """Return an argument that the source may name: infinity and NaN are calls there."""
    if isinstance(value, float) and not math.isfinite(value):
        with node.graph.inserting_before(node):
            return node.graph.call_function(float, (str(value),))
    return value
