"""A model cut at one layer and compiled: the trunk in front of it, and the head behind it."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map, tree_unflatten

from fastcam.model.inputs import Inputs

Flat = Callable[..., tuple[Any, ...]]

# Weights become constants, packed for the processor. As an option of torch.compile it comes too late for that.
_FREEZING = {"freezing": True}
_CUDA_GRAPHS: dict[str, Any] = {"triton.cudagraphs": True}


class NotCompilableError(RuntimeError):
    """The model cannot be cut or compiled; the message says why."""


@dataclass(frozen=True)
class Parts:
    """A model in two, or with the trunk alone, whole.

    Attributes:
        layer: the name of the layer between them; None where the model is whole.
        trunk: from the leaves of the arguments to what the head needs, the layer's activation first; compiled.
        head: from that to the leaves of the output; compiled, without a graph.
        recorded_head: the same, eager, for autograd.
        output: the structure of the output.
        sizes: the numbers of images it was compiled for; any other would compile it anew.
    """

    layer: str | None
    trunk: Flat
    head: Flat | None
    recorded_head: Flat | None
    output: TreeSpec | None
    sizes: frozenset[int]

    def __call__(self, arguments: tuple[Any, ...]) -> Any:
        """The model's output, without a graph."""
        if self.head is None or self.output is None:
            return self.trunk(*arguments)
        return tree_unflatten(self.head(*self.trunk(*tree_flatten(arguments)[0])), self.output)

    def in_front(self, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """What the head needs, the layer's activation first."""
        return self.trunk(*tree_flatten(arguments)[0])

    def behind(self, needed: Sequence[Any], with_graph: bool) -> Any:
        """The model's output."""
        head = self.recorded_head if with_graph else self.head
        if head is None or self.output is None:
            raise ValueError("the model was compiled whole: it has no head")
        return tree_unflatten(head(*needed), self.output)


def compile_parts(model: nn.Module, inputs: Inputs, layer: str | None, sizes: Collection[int]) -> Parts:
    """Compiles a model for passes without a graph.

    Args:
        model: in evaluation mode.
        inputs: an example.
        layer: where to cut, or None to compile the model whole.
        sizes: numbers of images; code for a fixed number is faster.

    Raises:
        NotCompilableError: for a model that torch.export or the cut cannot follow, and whatever the compiler raises.
    """
    device = inputs.images.device
    if layer is None:
        return _warmed(Parts(None, _compiled(model, device), None, None, None, frozenset(sizes)), inputs)
    program = _exported(model, inputs)
    module = program.module()
    if not isinstance(module, fx.GraphModule) or program.call_spec.out_spec is None:
        raise NotCompilableError("torch.export returned no graph")
    trunk, head = cut(module, layer)
    compiled = _compiled(trunk, device), _compiled(head, device)
    parts = Parts(layer, *compiled, head, program.call_spec.out_spec, frozenset(sizes))
    return _warmed(parts, inputs)


def _warmed(parts: Parts, inputs: Inputs) -> Parts:
    """The parts after their first calls, which compile them."""
    with torch._inductor.config.patch(_FREEZING), torch.no_grad():
        for size in parts.sizes:
            parts(inputs.repeated(size).arguments)
    return parts


def _exported(model: nn.Module, inputs: Inputs) -> ExportedProgram:
    arguments = inputs.repeated(max(2, len(inputs.images))).arguments  # a single one would be taken for fixed
    count = len(arguments[0])

    def free(leaf: Any) -> Any:
        return {0: Dim.DYNAMIC} if isinstance(leaf, Tensor) and leaf.dim() > 0 and len(leaf) == count else None

    try:
        return torch.export.export(model, arguments, dynamic_shapes=tree_map(free, arguments), strict=False)
    except Exception as error:  # torch.export raises whatever the model's code does with what is no tensor
        raise NotCompilableError(f"torch.export cannot follow the model: {_first_line(error)}") from error


def cut(module: fx.GraphModule, layer: str) -> tuple[fx.GraphModule, fx.GraphModule]:
    """The graph up to what the layer returned, and the rest.

    Raises:
        NotCompilableError: for a layer that did not run exactly once and return one tensor that it made.
    """
    made = _made_by(module.graph, layer)
    behind = {made}
    for node in module.graph.nodes:
        if not behind.isdisjoint(node.all_input_nodes):
            behind.add(node)
    behind.remove(made)
    nodes = list(module.graph.nodes)
    output = nodes.pop()
    arguments = [node for node in nodes if node.op == "placeholder"]
    front = [node for node in nodes if node not in behind and node.op not in ("placeholder", "get_attr")]
    back = [node for node in nodes if node in behind]
    results = list(output.args[0])
    used = {each for node in [*back, output] for each in node.all_input_nodes} - {made}
    carried = [made, *(node for node in [*arguments, *front] if node in used)]
    return (
        _subgraph(module, arguments, front, carried),
        _subgraph(module, carried, back, results),
    )


def _made_by(graph: fx.Graph, layer: str) -> fx.Node:
    """The node whose value the layer returned."""
    runs = {key for node in graph.nodes for key in _runs(node, layer)}
    if len(runs) != 1:
        raise NotCompilableError(f"layer {layer!r} has operations of its own in {len(runs)} runs, not in one")
    inside = {node for node in graph.nodes if _runs(node, layer)}
    returned = [node for node in inside if not inside.issuperset(node.users)]
    if len(returned) != 1:
        raise NotCompilableError(f"layer {layer!r} returns {len(returned)} tensors, not one")
    return returned[0]


def _runs(node: fx.Node, layer: str) -> list[str]:
    """The runs of the layer that a node is part of."""
    return [key for key, (name, _) in node.meta.get("nn_module_stack", {}).items() if name == layer]


def _subgraph(
    module: fx.GraphModule, inputs: Iterable[fx.Node], nodes: Iterable[fx.Node], outputs: Iterable[Any]
) -> fx.GraphModule:
    graph = fx.Graph()
    copies = {node: graph.placeholder(node.name) for node in inputs}

    def copied(node: fx.Node) -> fx.Node:
        if node.op == "get_attr" and node not in copies:  # weights belong to whichever part uses them
            copies[node] = graph.node_copy(node)
        return copies[node]

    for node in nodes:
        copies[node] = graph.node_copy(node, copied)
    graph.output(tuple(fx.map_arg(list(outputs), copied)))
    part = fx.GraphModule(module, graph)
    part.delete_all_unused_submodules()
    return part


def _compiled(module: nn.Module, device: torch.device) -> Flat:
    return torch.compile(module, dynamic=False, options=_CUDA_GRAPHS if device.type == "cuda" else None)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0] or type(error).__name__
