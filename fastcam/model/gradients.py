"""Gradients of scores with respect to captured activations, of all targets in one backward pass."""

from collections.abc import Sequence

import torch
from torch import Tensor

MAX_BATCHED_TARGETS = 32  # limits the memory of a batched backward pass


def gradients(
    scores: Tensor,
    activations: Sequence[Tensor],
    names: Sequence[str],
    *,
    keep_graph: bool = False,
    differentiable: bool = False,
) -> list[Tensor]:
    """Return the gradients of every image's scores with respect to its activations, for all targets in one backward.

    Args:
        scores: (N,) or (N, K), one per image or K per image; images must not depend on each other.
        activations: tensors of shape (N, ...) from :func:`fastcam.model.capture.forward`.
        names: of the activations, for error messages.
        keep_graph: whether another backward pass follows.
        differentiable: record the backward pass, so that the gradients have gradients.

    Returns:
        For each activation its gradient, (N, ...) or (N, K, ...).

    Raises:
        RuntimeError: if a score does not depend on a layer.
    """
    if not scores.requires_grad:
        raise RuntimeError(
            f"the score does not depend on {names[0]}: nothing to differentiate (a model that runs a layer under "
            "its own torch.no_grad() hides the dependence)"
        )
    if scores.dim() == 1 or scores.shape[1] == 1:
        keep = keep_graph or differentiable
        single = torch.autograd.grad(
            scores.sum(), activations, allow_unused=True, retain_graph=keep, create_graph=differentiable
        )
        _check_used(single, names)
        return [gradient.unsqueeze(1) if scores.dim() == 2 else gradient for gradient in single]
    chunks = [
        scores[:, first : first + MAX_BATCHED_TARGETS] for first in range(0, scores.shape[1], MAX_BATCHED_TARGETS)
    ]
    rows = [_target_gradients(chunk, activations, names, differentiable) for chunk in chunks]
    return [torch.cat(parts).movedim(0, 1) for parts in zip(*rows, strict=True)]


def _target_gradients(
    scores: Tensor, activations: Sequence[Tensor], names: Sequence[str], differentiable: bool
) -> list[Tensor]:
    """Return the gradients (K, N, ...) of a few targets, from one batched backward pass."""
    count, targets = scores.shape
    basis = torch.eye(targets, dtype=scores.dtype, device=scores.device)
    basis = basis.unsqueeze(1).expand(targets, count, targets)
    options = {"retain_graph": True, "allow_unused": True, "create_graph": differentiable}
    try:
        batched = torch.autograd.grad(scores, activations, basis, is_grads_batched=True, **options)
    except RuntimeError:  # an operation without a batching rule: one backward pass per target
        by_target = [torch.autograd.grad(scores, activations, row, **options) for row in basis]
        _check_used(by_target[0], names)
        batched = tuple(map(torch.stack, zip(*by_target, strict=True)))
    _check_used(batched, names)
    return list(batched)


def _check_used(gradients: Sequence[Tensor | None], names: Sequence[str]) -> None:
    for gradient, name in zip(gradients, names, strict=True):
        if gradient is None:
            raise RuntimeError(f"the score does not depend on {name}: it gets no gradient")
