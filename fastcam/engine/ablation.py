"""Scores with one channel of a layer set to zero, for every channel, with as little of the model run as possible."""

import threading
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastcam.engine.scorer import Scorer
from fastcam.engine.settings import Reshape
from fastcam.graph.next_affine import following_affine
from fastcam.graph.pooled_head import Head
from fastcam.model import capture
from fastcam.model.batching import Block, is_out_of_memory, join_blocks
from fastcam.model.elements import Element
from fastcam.model.resume import NotResumableError, Resumed

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def ablated_scores(
    scorer: Scorer,
    layer: capture.Layer,
    activations: Tensor,
    head: Head | None,
    output: Tensor,
    reshape: Reshape | None = None,
    element: Element = None,
) -> Tensor:
    """(N, [K,] C): the scores with channel c of the layer's activations set to zero.

    Behind global pooling and a linear layer no part of the model runs again. Where the next layer is linear or a
    convolution, its output loses one channel's share and the model goes on behind it; otherwise it goes on behind the
    layer itself.

    Args:
        scorer: the model.
        layer: where channels are set to zero.
        activations: what the layer returned, in the graph of ``output``.
        head: what follows, if it is a pooling and a linear layer.
        output: the model's output.
        reshape: from what the layer returns to (N, C, *S).
        element: which element of the layer's tuple or dict the activations are.
    """
    kept = scorer.differentiable
    raw = activations if kept else activations.detach()
    if head is not None and isinstance(output, Tensor):
        return _in_closed_form(scorer, raw, head, output if kept else output.detach())
    positions = channel_positions(raw.detach(), reshape)
    if kept:  # parts of the model run again without the graph in front of them
        return _by_whole_forwards(scorer, layer, raw, positions, element)
    affine = None if reshape else following_affine(scorer.model, output, activations)
    for attempt in (affine, layer):
        make = _Share if attempt is affine else _Zeroed
        if attempt is None:
            continue
        found = _resumed(scorer, attempt, make, raw, positions, element if attempt is layer else None)
        if found is not None:
            return found
    return _by_whole_forwards(scorer, layer, raw, positions, element)


def channel_positions(raw: Tensor, reshape: Reshape | None) -> Tensor:
    """(C, P): where in one image's flattened raw activations every channel's elements are."""
    numbers = torch.arange(raw[0].numel(), device=raw.device).reshape(1, *raw.shape[1:])
    return (reshape(numbers) if reshape else numbers)[0].flatten(1)


def _in_closed_form(scorer: Scorer, raw: Tensor, head: Head, output: Tensor) -> Tensor:
    """Pooling is channel by channel: without channel c the output loses weight[:, c] times the pooled value."""
    pooled = raw.flatten(2).mean(-1) if head.pooling == "mean" else raw.flatten(2).amax(-1)  # (N, C)
    classes = scorer.bound.classes
    if scorer.bound.is_logit and classes is not None:
        rows = head.weight[classes].to(pooled.dtype)  # (N, [K,] C)
        return scorer.scores.unsqueeze(-1) - rows * (pooled.unsqueeze(1) if rows.dim() == 3 else pooled)

    def score(block: Block) -> Tensor:
        lost = pooled[block.place].unsqueeze(-1) * head.weight.mT[block.place[1]].to(pooled.dtype)
        left = output[block.place[0]].unsqueeze(1) - lost  # (n, m, classes)
        return scorer.bound(left.flatten(0, 1), block.rows).unflatten(0, left.shape[:2])

    return scorer.collect(pooled.shape[1], score, output[0].numel() / scorer.images[0].numel())


class _Zeroed:
    """The layer's own output with channels set to zero."""

    def __init__(self, resumed: Resumed | None, raw: Tensor, positions: Tensor) -> None:
        self.raw, self.positions = raw, positions

    def clean(self, block: Block) -> Tensor:
        rows = self.raw[block.place[0]].unsqueeze(1)
        return rows.expand(-1, len(block.variants), *rows.shape[2:])

    def __call__(self, block: Block) -> Tensor:
        """(n, m, ...)."""
        copies = self.clean(block).flatten(2)
        where = self.positions[block.place[1]].expand(len(copies), -1, -1)
        return copies.scatter(2, where, 0).unflatten(2, self.raw.shape[1:])


class _Share:
    """The output of the linear layer or convolution that follows, less the share of one channel."""

    def __init__(self, resumed: Resumed, raw: Tensor, positions: Tensor) -> None:
        self.module: Any = resumed.layer.module
        self.entering, self.leaving = resumed.entering, resumed.leaving
        self.channels = raw.shape[1]
        if isinstance(self.module, nn.Linear) and self.entering.dim() != 2:
            raise NotResumableError("a linear layer over positions mixes the channels")
        if not isinstance(self.module, nn.Linear) and self.entering.shape[1] != self.channels:
            raise NotResumableError("the convolution's channels are not those of the layer")
        if len(self.entering) != len(raw):
            raise NotResumableError("what enters has not one row an image")

    def clean(self, block: Block) -> Tensor:
        rows = self.leaving[block.place[0]].unsqueeze(1)
        return rows.expand(-1, len(block.variants), *rows.shape[2:])

    def __call__(self, block: Block) -> Tensor:
        """(n, m, ...)."""
        share = self._linear(block) if isinstance(self.module, nn.Linear) else self._convolution(block)
        return self.clean(block) - share

    def _linear(self, block: Block) -> Tensor:
        channels = block.place[1]
        entering = self.entering.unflatten(1, (self.channels, -1))[block.place]  # (n, m, q)
        weight = self.module.weight.detach().unflatten(1, (self.channels, -1))[:, channels]  # (out, m, q)
        return torch.bmm(entering.transpose(0, 1), weight.permute(1, 2, 0)).transpose(0, 1)

    def _convolution(self, block: Block) -> Tensor:
        module, count = self.module, len(block.variants)
        weight = module.weight.detach()[:, block.place[1]].transpose(0, 1).flatten(0, 1).unsqueeze(1)
        convolve = _CONVOLUTIONS[self.entering.dim() - 2]
        options = {"stride": module.stride, "padding": module.padding, "dilation": module.dilation}
        return convolve(self.entering[block.place], weight, groups=count, **options).unflatten(1, (count, -1))


def _resumed(
    scorer: Scorer, layer: capture.Layer, kind: Any, raw: Tensor, positions: Tensor, element: Element
) -> Tensor | None:
    """The scores by running what is behind a layer, or None where that does not give the clean scores back."""
    try:
        resumed = Resumed(scorer.run, scorer.inputs, layer, element)
        ablated = kind(resumed, raw, positions)
    except NotResumableError:
        return None

    def score(make: Callable[[Block], Tensor], block: Block) -> Tensor:
        copies = make(block)
        return scorer.bound(resumed(copies.flatten(0, 1), block), block.rows).unflatten(0, copies.shape[:2])

    def unchanged(block: Block) -> Tensor:  # each its own memory: what follows may work in place
        return ablated.clean(block).clone(memory_format=torch.contiguous_format)

    try:
        cleanly = scorer.batches.quietly().each(len(raw), 2, lambda block: score(unchanged, block))
        again = join_blocks(list(cleanly), len(raw), 2)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:  # of a model with tensors that do not fit
        if is_out_of_memory(error):
            raise
        return None  # run whole, it says what is really wrong
    expected = scorer.scores.unsqueeze(1).expand_as(again)
    scale, rounding = float(expected.nan_to_num(0, 0, 0).abs().max()), torch.finfo(expected.dtype).eps ** 0.5
    if not torch.allclose(again, expected, rtol=rounding, atol=rounding * scale, equal_nan=True):
        return None
    try:
        size = ablated.clean(Block(range(1), range(1))).numel() / scorer.images[0].numel()
        return scorer.collect(len(positions), lambda block: score(ablated, block), size)
    except NotResumableError:
        return None


def _by_whole_forwards(
    scorer: Scorer, layer: capture.Layer, raw: Tensor, positions: Tensor, element: Element
) -> Tensor:
    zeroed, runs = _Zeroed(None, raw, positions), _runs(scorer, layer)

    def score(block: Block) -> Tensor:
        copies = zeroed(block)
        images = scorer.images[block.place[0]].repeat_interleave(len(block.variants), 0)
        inputs = scorer.inputs.with_copies(images, block.rows)
        with capture.exchanged(layer, copies.flatten(0, 1), element, runs):
            output = scorer.run(inputs)
        return scorer.bound(output, block.rows).unflatten(0, copies.shape[:2])

    return scorer.collect(len(positions), score)


def _runs(scorer: Scorer, layer: capture.Layer) -> int:
    """How often the layer runs in one forward pass; the activations are those of the last time."""
    thread, count = threading.get_ident(), 0

    def note(*_: Any) -> None:
        nonlocal count
        count += threading.get_ident() == thread

    handle = layer.module.register_forward_hook(note)
    try:
        scorer.run(scorer.inputs)
    finally:
        handle.remove()
    return count
