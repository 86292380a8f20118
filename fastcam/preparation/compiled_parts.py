"""Cut a model at one layer and compile the two parts: the trunk up to that layer, and the head after it."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map, tree_unflatten

from fastcam.model.inputs import Inputs

Leaf: TypeAlias = Any  # of the pytree of a model's arguments or output: tensors, numbers, strings, None, ...
ModelOutput: TypeAlias = Any
Arguments: TypeAlias = tuple[Any, ...]
FlatFunction: TypeAlias = Callable[..., tuple[Leaf, ...]]

# Weights become constants, packed for the CPU. As an option of torch.compile it takes effect too late for that.
_FREEZING = {"freezing": True}


class NotCompilableError(RuntimeError):
    """The model cannot be cut or compiled; the message says why."""


@dataclass(frozen=True)
class Parts:
    """A compiled model in two parts; an uncut model is a trunk without a head.

    Attributes:
        layer: the name of the layer between them; None where the model is uncut.
        trunk: from the leaves of the arguments to the inputs of the head, the layer's activation first; compiled.
        head: from there to the leaves of the output; compiled, without an autograd graph.
        recorded_head: the same in eager mode, for autograd.
        output: the structure of the output.
        sizes: the batch sizes it was compiled for; any other would be compiled again.
    """

    layer: str | None
    trunk: FlatFunction
    head: FlatFunction | None
    recorded_head: FlatFunction | None
    output: TreeSpec | None
    sizes: frozenset[int]

    def __call__(self, arguments: Arguments) -> ModelOutput:
        """Return the model's output, without an autograd graph."""
        if self.head is None or self.output is None:
            return self.trunk(*arguments)
        return tree_unflatten(self.head(*self.trunk(*tree_flatten(arguments)[0])), self.output)

    def run_trunk(self, arguments: Arguments) -> tuple[Leaf, ...]:
        """Return the inputs of the head, the layer's activation first."""
        return self.trunk(*tree_flatten(arguments)[0])

    def run_head(self, head_inputs: Sequence[Leaf], with_graph: bool) -> ModelOutput:
        """Return the model's output."""
        head = self.recorded_head if with_graph else self.head
        if head is None or self.output is None:
            raise ValueError("the model was compiled uncut: it has no head")
        return tree_unflatten(head(*head_inputs), self.output)


def compile_parts(model: nn.Module, inputs: Inputs, layer: str | None, sizes: Collection[int]) -> Parts:
    """Compile a model for passes without an autograd graph.

    Args:
        model: in evaluation mode.
        inputs: an example.
        layer: where to cut, or None to compile the model uncut.
        sizes: batch sizes; code for a fixed size is faster.

    Raises:
        NotCompilableError: for a model that cannot be exported or cut; the compiler may raise other errors.
    """
    if layer is None:
        return _warm_up(Parts(None, _compile(model), None, None, None, frozenset(sizes)), inputs)
    program = _export(model, inputs)
    module = program.module()
    if not isinstance(module, fx.GraphModule) or program.call_spec.out_spec is None:
        raise NotCompilableError("torch.export returned no graph")
    trunk, head = cut(module, layer)
    compiled = _compile(trunk), _compile(head)
    parts = Parts(layer, *compiled, head, program.call_spec.out_spec, frozenset(sizes))
    return _warm_up(parts, inputs)


def _warm_up(parts: Parts, inputs: Inputs) -> Parts:
    """Return the parts after their first calls, which compile them."""
    with torch._inductor.config.patch(_FREEZING), torch.no_grad():
        for size in parts.sizes:
            parts(inputs.repeat_to(size).arguments)
    return parts


def _export(model: nn.Module, inputs: Inputs) -> ExportedProgram:
    # torch.export would specialize on a batch of one.
    count = max(2, len(inputs))
    arguments = inputs.repeat_to(count).arguments

    def dynamic_batch(leaf: Leaf) -> dict[int, object] | None:
        return {0: Dim.DYNAMIC} if isinstance(leaf, Tensor) and leaf.dim() > 0 and len(leaf) == count else None

    try:
        return torch.export.export(model, arguments, dynamic_shapes=tree_map(dynamic_batch, arguments), strict=False)
    except Exception as error:  # tracing runs the model's own code, which may raise anything
        raise NotCompilableError(f"torch.export cannot follow the model: {_first_line(error)}") from error


def cut(module: fx.GraphModule, layer: str) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Split the graph after the node whose value the layer returned.

    Raises:
        NotCompilableError: for a layer that did not run exactly once and return exactly one tensor computed in it.
    """
    activation = _returned_node(module.graph, layer)
    downstream = {activation}
    for node in module.graph.nodes:
        if not downstream.isdisjoint(node.all_input_nodes):
            downstream.add(node)
    downstream.remove(activation)
    nodes = list(module.graph.nodes)
    output = nodes.pop()
    arguments = [node for node in nodes if node.op == "placeholder"]
    trunk = [node for node in nodes if node not in downstream and node.op not in ("placeholder", "get_attr")]
    head = [node for node in nodes if node in downstream]
    results: list[fx.node.Argument] = list(output.args[0])
    needed = {source for node in [*head, output] for source in node.all_input_nodes} - {activation}
    carried = [activation, *(node for node in [*arguments, *trunk] if node in needed)]
    return (
        _subgraph(module, arguments, trunk, carried),
        _subgraph(module, carried, head, results),
    )


def _returned_node(graph: fx.Graph, layer: str) -> fx.Node:
    """Return the node whose value the layer returned."""
    runs = {key for node in graph.nodes for key in _runs(node, layer)}
    if len(runs) != 1:
        raise NotCompilableError(f"layer {layer!r} has operations of its own in {len(runs)} runs, not in one")
    inside = {node for node in graph.nodes if _runs(node, layer)}
    returned = [node for node in inside if not inside.issuperset(node.users)]
    if len(returned) != 1:
        raise NotCompilableError(f"layer {layer!r} returns {len(returned)} tensors, not one")
    return returned[0]


def _runs(node: fx.Node, layer: str) -> list[str]:
    """Return the runs of the layer that a node is part of."""
    return [key for key, (name, _) in node.meta.get("nn_module_stack", {}).items() if name == layer]


def _subgraph(
    module: fx.GraphModule, inputs: Iterable[fx.Node], nodes: Iterable[fx.Node], outputs: Sequence[fx.node.Argument]
) -> fx.GraphModule:
    """Return the part of a graph with these inputs, nodes and outputs as a module."""
    graph = fx.Graph()
    copies = {node: graph.placeholder(node.name) for node in inputs}

    def copy_of(node: fx.Node) -> fx.Node:
        if node.op == "get_attr" and node not in copies:  # each part gets the weights that it uses
            copies[node] = graph.node_copy(node)
        return copies[node]

    for node in nodes:
        copies[node] = graph.node_copy(node, copy_of)
    graph.output(tuple(fx.map_arg(list(outputs), copy_of)))
    part = fx.GraphModule(module, graph)
    part.delete_all_unused_submodules()
    return part


def _compile(module: nn.Module) -> FlatFunction:
    # Without the compiler's own CUDA graphs, which reuse the memory of activations that are kept:
    # the explainer records the whole explanation, compiled parts included.
    return torch.compile(module, dynamic=False)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0] or type(error).__name__
