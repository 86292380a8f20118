"""Methods of many copies as programs: one step of the work, whose place among the copies is a tensor, run in a loop.

::

    images, classes -> before -> values -> step(index, values), for every index -> after(values, results) -> maps

One trace has all three parts: what depends on the index is the step, what depends on the results comes after it, and
the rest comes before.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, fx, nn
from torch._higher_order_ops.while_loop import while_loop
from torch.utils._pytree import tree_flatten, tree_unflatten

from fastcam.model.batching import Batches, Block
from fastcam.model.progress import ProgressReporter

Result = TypeVar("Result")


@dataclass(frozen=True)
class Step:
    """The traced step of a loop.

    Attributes:
        index: (m,) int64, the variants of the step.
        results: (N, m, ...) of the step.
        collected: (N, variants, ...), which stand for those of all steps.
        variants: how many there are.
    """

    index: Tensor
    results: list[Tensor]
    collected: list[Tensor]
    variants: int


@dataclass(frozen=True)
class _Variants:
    """Variants of all images, where the number of images is a symbol; in place of a :class:`.Block`.

    Attributes:
        images: the number of images.
        index: of the variants in (N, variants, ...).
        count: of variants.
    """

    images: int
    index: slice | Tensor
    count: int

    @property
    def variants(self) -> range:
        """All variants; a step does not know which are its own."""
        if isinstance(self.index, Tensor):
            raise TypeError("this method needs the numbers of the copies in a step")
        return range(self.count)

    @property
    def shape(self) -> tuple[int, int]:
        return self.images, self.count

    @property
    def place(self) -> tuple[slice, slice | Tensor]:
        return slice(0, self.images), self.index

    @property
    def rows(self) -> Tensor:
        return torch.arange(self.images).unsqueeze(1).expand(self.images, self.count).flatten()


class Loop(Batches):
    """Runs the work for a few variants alone, and stands in for the results of all.

    Args:
        size: the number of variants at a time.
        device: of the work.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        super().__init__(size, device, ProgressReporter(False))
        self.step: Step | None = None

    def each(
        self, images: int | range, variants: int, work: Callable[[Block], Result], size: float = 1.0
    ) -> Iterator[tuple[Block, Result]]:
        """Yield one block of all variants with its results, which the loop will put there."""
        count = cast("int", images)
        everything = cast("Block", _Variants(count, slice(0, variants), variants))
        if variants <= self.limit:
            yield everything, work(everything)
            return
        if self.step is not None:
            raise ValueError("it runs copies of the images in two places")
        index = torch.arange(self.limit, device=self.device)
        leaves, structure = tree_flatten(work(cast("Block", _Variants(count, index, self.limit))))
        collected = [
            torch.empty((count, variants, *leaf.shape[2:]), dtype=leaf.dtype, device=leaf.device) for leaf in leaves
        ]
        self.step = Step(index, leaves, collected, variants)
        yield everything, cast("Result", tree_unflatten(collected, structure))


class Parts(NamedTuple):
    """The parts of a program with a loop, whose arguments and results are lists of tensors.

    Attributes:
        before: from images and classes to values.
        step: from an index and the values to results.
        after: from the values and all results to scores, maps and classes.
        kinds: the shape (m, ...) without N, and the dtype, of each result of a step.
        size: m, the number of variants in a step.
        variants: how many there are in all.
    """

    before: fx.GraphModule
    step: fx.GraphModule
    after: fx.GraphModule
    kinds: list[tuple[list[int], torch.dtype]]
    size: int
    variants: int


def divide(graph: fx.GraphModule, step: Step) -> Parts:
    """Divide a trace of scores, maps, classes, an index, the results of a step and what stands for those of all."""
    count = len(step.results)
    (output,) = (node for node in graph.graph.nodes if node.op == "output")
    returned = list(output.args[0])
    finals, index, results, collected = returned[:3], returned[3], returned[4 : 4 + count], returned[4 + count :]
    in_step, after = _users_of([index], graph), _users_of(collected, graph)
    inner, outer = _needed(results, [index]), _needed(finals, collected)
    images = [node for node in graph.graph.nodes if node.op == "placeholder"]
    # Views of parameters every part takes for itself: a loop of AOTInductor frees one that it is given in every turn.
    views = _views_of_parameters(graph)
    values = [
        node
        for node in graph.graph.nodes
        if node.op != "output"
        and node not in views
        and isinstance(node.meta.get("val"), Tensor)
        and node not in in_step | after | {index, *collected}
        and any(user in inner & in_step or user in outer & after for user in _tensor_users(node, graph))
    ]
    values += [node for node in finals if node not in after and node not in values]
    return Parts(
        _extract(graph, values, [images]),
        _extract(graph, results, [index, values]),
        _extract(graph, finals, [values, collected]),
        [(list(each.shape[1:]), each.dtype) for each in step.results],
        len(step.index),
        step.variants,
    )


def _users_of(nodes: Sequence[fx.Node], graph: fx.GraphModule) -> set[fx.Node]:
    """Return all nodes that depend on any of these."""
    found = set(nodes)
    for node in graph.graph.nodes:
        if not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found - set(nodes)


def _views_of_parameters(graph: fx.GraphModule) -> set[fx.Node]:
    """Return the parameters and constants of a graph, and all views of them."""
    found: set[fx.Node] = set()
    for node in graph.graph.nodes:
        is_view = node.op == "call_function" and getattr(node.target, "is_view", False)
        if node.op == "get_attr" or (is_view and found.issuperset(node.all_input_nodes)):
            found.add(node)
    return found


def _needed(nodes: Sequence[fx.Node], given: Sequence[fx.Node]) -> set[fx.Node]:
    """Return all nodes that these depend on, not through given ones; and these."""
    pending, found = list(nodes), set[fx.Node]()
    while pending:
        node = pending.pop()
        if node not in found and node not in given:
            found.add(node)
            pending += node.all_input_nodes
    return found


def _tensor_users(node: fx.Node, graph: fx.GraphModule) -> set[fx.Node]:
    """Return the users of a tensor, and those of the sizes that are taken of it."""
    pending, found = list(node.users), set[fx.Node]()
    while pending:
        user = pending.pop()
        if user not in found:
            found.add(user)
            if not isinstance(user.meta.get("val"), Tensor):
                pending += user.users
    return found


def _extract(
    graph: fx.GraphModule, results: Sequence[fx.Node], arguments: Sequence[fx.Node | Sequence[fx.Node]]
) -> fx.GraphModule:
    """Return the part of a graph that makes results of arguments, each a node or a list of nodes."""
    nodes, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    flat = [node for each in arguments for node in ([each] if isinstance(each, fx.Node) else each)]
    for number, each in enumerate(arguments):
        if isinstance(each, fx.Node):
            copies[each] = nodes.placeholder(f"index_{number}", type_expr=Tensor)
            continue
        given = nodes.placeholder(f"values_{number}", type_expr=list[Tensor])
        for place, node in enumerate(each):
            copies[node] = nodes.call_function(_item, (given, place))
    needed = _needed(results, flat)
    for node in graph.graph.nodes:
        if node in needed and node not in copies:
            if node.op == "placeholder":
                raise ValueError("a part of the program needs an argument that it is not given")
            copies[node] = nodes.node_copy(node, copies.__getitem__)
    nodes.output([copies[node] for node in results])
    part = fx.GraphModule(graph, nodes)
    part.graph.eliminate_dead_code()
    part.recompile()
    return part


def _item(values: list[Tensor], place: int) -> Tensor:
    return values[place]


class Looped(nn.Module):
    """A program with a loop.

    Args:
        parts: of it.
    """

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.parts = parts
        self.before, self.step, self.after = parts.before, parts.step, parts.after
        self.steps = -(-parts.variants // parts.size)

    def forward(self, images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return scores, maps and classes."""
        values = [value.clone() for value in self.before([images, classes])]  # none may share memory with another
        device = images.device
        buffers = [
            torch.zeros((self.steps, images.shape[0], *shape), dtype=dtype, device=device)
            for shape, dtype in self.parts.kinds
        ]

        def goes_on(number: Tensor, *buffers: Tensor) -> Tensor:
            return number < self.steps

        def next_step(number: Tensor, *buffers: Tensor) -> tuple[Any, ...]:
            results = self.step(self.index_of(number), values)
            pairs = zip(buffers, results, strict=True)
            return (number + 1, *(buffer.index_copy(0, number[None], result[None]) for buffer, result in pairs))

        start = torch.zeros((), dtype=torch.int64, device=device)
        _, *buffers = while_loop(goes_on, next_step, (start, *buffers))
        scores, maps, explained = self.after(values, [self.joined(buffer) for buffer in buffers])
        return scores, maps, explained

    def index_of(self, number: Tensor) -> Tensor:
        """Return the variants of a step; the last one repeats the last variant."""
        size = self.parts.size
        return (number * size + torch.arange(size, device=number.device)).clamp(max=self.parts.variants - 1)

    def joined(self, buffer: Tensor) -> Tensor:
        """Return results (steps, N, m, ...) as (N, variants, ...)."""
        return buffer.movedim(0, 1).flatten(1, 2)[:, : self.parts.variants]
