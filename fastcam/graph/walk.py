"""Traversal of the autograd graph that a forward pass recorded."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor
from torch.autograd.graph import Node
from torch.utils._pytree import tree_leaves

# Prefixes of nodes that only move or reshape values.
VIEWS = (
    "AliasBackward",
    "CloneBackward",
    "ReshapeAliasBackward",
    "SqueezeBackward",
    "UnsafeViewBackward",
    "UnsqueezeBackward",
    "ViewBackward",
)


def roots(output: object) -> list[Node]:
    """Return the nodes of an output's tensors, in the order of its leaves."""
    tensors = (leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor))
    return [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]


def inputs(node: Node) -> Iterator[Node]:
    """Yield the nodes that compute the inputs of a node."""
    return (source for source, _ in node.next_functions if source is not None)


def nodes(output: object) -> Iterator[Node]:
    """Yield every node that an output depends on, once."""
    return _reachable(roots(output))


def users(output: object) -> dict[Node, list[Node]]:
    """Return, for every node that an output depends on, the nodes that use its result, once per use."""
    users_of: dict[Node, list[Node]] = defaultdict(list)
    for node in nodes(output):
        for source in inputs(node):
            users_of[source].append(node)
    return users_of


def is_source(node: Node, tensor: Tensor) -> bool:
    """Whether a node computes a tensor, or accumulates its gradient."""
    return node is tensor.grad_fn or getattr(node, "variable", None) is tensor


def depends_on(node: Node | None, tensor: Tensor) -> bool:
    """Whether the result of a node depends on a tensor."""
    return node is not None and any(is_source(reached, tensor) for reached in _reachable([node]))


def saved(node: Node, name: str, *default: object) -> Any:
    """Return the value ``_saved_<name>`` that the forward pass saved in a node; the default if there is none."""
    return getattr(node, f"_saved_{name}", *default)


def _reachable(starts: Iterable[Node]) -> Iterator[Node]:
    pending = list(dict.fromkeys(starts))
    seen = set(pending)
    while pending:
        node = pending.pop()
        yield node
        for source in inputs(node):
            if source not in seen:
                seen.add(source)
                pending.append(source)
