"""Heads of detectors in two stages, whose backward pass runs over the regions alone that a score depends on.

Such a detector scores a thousand regions of an image, and a detection is one of them: the gradient of its score is zero
in the rows of all others. The heads treat every row by itself, so that a forward and a backward pass of the one row
give the same gradient with respect to the maps that the regions are cut from.
"""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from fastcam.model import memory

_HEADS = "torchvision.models.detection.roi_heads.RoIHeads"
_PARTS = ("box", "mask", "keypoint")
_STEPS = ("roi_pool", "head", "predictor")
Maps = Any  # maps (N, C, *s) by name, a mapping in the order of the levels


@dataclass(frozen=True)
class _Regions:
    """What a head of regions computes: pooling, head and predictor, and the boxes (R_i, 4) of every image."""

    modules: tuple[nn.Module, nn.Module, nn.Module]
    boxes: Sequence[Tensor]
    sizes: Sequence[tuple[int, int]]
    names: tuple[str, ...]

    def of_rows(self, maps: Sequence[Tensor], rows: Tensor) -> Any:
        """Return what the predictor returns of some rows of all images' regions, in ascending order."""
        pool, head, predictor = self.modules
        images = torch.cat([torch.full((len(each),), n) for n, each in enumerate(self.boxes)]).to(rows.device)[rows]
        chosen = torch.cat(list(self.boxes))[rows]
        boxes = [chosen[images == number] for number in range(len(self.boxes))]
        return predictor(head(pool(dict(zip(self.names, maps, strict=True)), boxes, self.sizes)))


class _OfFewRows(torch.autograd.Function):
    """Passes the outputs on; its backward pass runs the regions again whose gradients are not zero."""

    @staticmethod
    def forward(ctx: Any, regions: _Regions, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.regions = regions
        ctx.save_for_backward(*tensors[:count])
        return tuple(each.view_as(each) for each in tensors[count:])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        maps = ctx.saved_tensors
        seen = torch.stack([each.flatten(1).ne(0).any(1) for each in gradients]).any(0)  # NaN is not 0
        rows = seen.nonzero()[:, 0]
        none: list[Tensor | None] = [None] * len(gradients)
        if not len(rows):
            return (None, None, *map(torch.zeros_like, maps), *none)
        with torch.enable_grad():
            leaves = [each.detach().requires_grad_() for each in maps]
            outputs = tree_flatten(ctx.regions.of_rows(leaves, rows))[0]
            found = torch.autograd.grad(outputs, leaves, [each[rows] for each in gradients], materialize_grads=True)
        # Without a gradient the layers before a level of the pyramid need no backward pass.
        return (None, None, *(each if bool(each.any()) else None for each in found), *none)


@contextlib.contextmanager
def few_regions(model: nn.Module, kept: Sequence[nn.Module]) -> Iterator[None]:
    """Let heads of regions run backwards over few rows, in the context and the calling thread only.

    Args:
        model: whose parts of torchvision's class ``RoIHeads`` are meant, in evaluation mode.
        kept: modules whose own runs matter; a head that contains one stays as it is.
    """
    thread = threading.get_ident()
    with contextlib.ExitStack() as stack:
        for pool, head, predictor in _heads(model):
            inside = {each for part in (pool, head, predictor) for each in part.modules()}
            if inside.isdisjoint(kept) and not any(each.training for each in inside):
                _exchange(stack, thread, (pool, head, predictor))
        yield


def _heads(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Module, nn.Module]]:
    """Yield pooling, head and predictor of every head of regions in the model."""
    for module in memory.named_alike(model, _HEADS):
        for part in _PARTS:
            pool, head, predictor = (getattr(module, f"{part}_{step}", None) for step in _STEPS)
            if pool is not None and head is not None and predictor is not None:
                yield pool, head, predictor


def _exchange(stack: contextlib.ExitStack, thread: int, modules: tuple[nn.Module, nn.Module, nn.Module]) -> None:
    arguments: list[tuple[Maps, Sequence[Tensor], Sequence[tuple[int, int]]]] = []

    def remember(module: nn.Module, given: tuple[Any, ...], output: Tensor) -> None:
        if threading.get_ident() == thread:
            arguments.append((given[0], given[1], given[2]))

    def exchange(module: nn.Module, given: tuple[Any, ...], output: Any) -> Any:
        if threading.get_ident() != thread or not arguments:
            return None
        maps, boxes, sizes = arguments.pop()
        leaves, form = tree_flatten(output)
        if not torch.is_grad_enabled() or not any(each.requires_grad for each in maps.values()):
            return None
        regions = _Regions(modules, [each.detach() for each in boxes], sizes, tuple(maps))
        return tree_unflatten(list(_OfFewRows.apply(regions, len(maps), *maps.values(), *_detached(leaves))), form)

    stack.callback(modules[0].register_forward_hook(remember).remove)
    stack.callback(modules[2].register_forward_hook(exchange).remove)


def _detached(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [each.detach() for each in tensors]
