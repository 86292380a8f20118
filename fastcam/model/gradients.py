"""Gradients of scores with respect to captured activations, of all targets in one backward pass."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

MAX_BATCHED_TARGETS = 32  # bounds the memory of a batched backward pass


def gradients(
    scores: Tensor,
    activations: Sequence[Tensor],
    names: Sequence[str],
    *,
    keep_graph: bool = False,
    differentiable: bool = False,
) -> list[Tensor]:
    """Gradients of every image's score with respect to its activations, of all targets in one backward pass.

    Args:
        scores: (N,) or (N, K), one per image or K per image; images must not depend on each other.
        activations: tensors of shape (N, ...) from :func:`fastcam.model.capture.forward`.
        names: what the activations are, for messages.
        keep_graph: whether another backward pass is to follow.
        differentiable: record the backward pass, so that the gradients have gradients.

    Returns:
        For each activation its gradient, (N, ...) or (N, K, ...).

    Raises:
        RuntimeError: where a score does not depend on a layer.
    """
    if not scores.requires_grad:
        raise RuntimeError(
            f"the score does not depend on {names[0]}: nothing to differentiate (a model that runs a layer under "
            "its own torch.no_grad() hides the dependence)"
        )
    if scores.dim() == 1 or scores.shape[1] == 1:
        keep = keep_graph or differentiable
        found = torch.autograd.grad(
            scores.sum(), activations, allow_unused=True, retain_graph=keep, create_graph=differentiable
        )
        _check_used(found, names)
        return [g.unsqueeze(1) if scores.dim() == 2 else g for g in found]
    chunks = [scores[:, first : first + MAX_BATCHED_TARGETS] for first in _starts(scores)]
    rows = [_rows(chunk, activations, names, differentiable) for chunk in chunks]
    return [torch.cat(parts).movedim(0, 1) for parts in zip(*rows, strict=True)]


def _starts(scores: Tensor) -> range:
    return range(0, scores.shape[1], MAX_BATCHED_TARGETS)


def _rows(scores: Tensor, activations: Sequence[Tensor], names: Sequence[str], differentiable: bool) -> list[Tensor]:
    """Gradients (K, N, ...) of a few targets, all in one batched backward pass."""
    count, targets = scores.shape
    basis = torch.eye(targets, dtype=scores.dtype, device=scores.device)
    basis = basis.unsqueeze(1).expand(targets, count, targets)
    options: dict[str, Any] = {"retain_graph": True, "allow_unused": True, "create_graph": differentiable}
    try:
        found = torch.autograd.grad(scores, activations, basis, is_grads_batched=True, **options)
    except RuntimeError:  # an operation without a batching rule: one backward pass per target
        apart = [torch.autograd.grad(scores, activations, row, **options) for row in basis]
        _check_used(apart[0], names)
        found = tuple(map(torch.stack, zip(*apart, strict=True)))
    _check_used(found, names)
    return list(found)


def _check_used(found: Sequence[Tensor | None], names: Sequence[str]) -> None:
    for gradient, name in zip(found, names, strict=True):
        if gradient is None:
            raise RuntimeError(f"the score does not depend on {name}: it gets no gradient")
