"""Scores with one channel of a layer set to zero, for every channel, running as little of the model as possible."""

import threading
from collections.abc import Callable
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastcam.engine.scorer import Scorer
from fastcam.engine.settings import Reshape
from fastcam.graph.next_affine import next_affine_layer
from fastcam.graph.pooled_head import Head
from fastcam.model import capture
from fastcam.model.batching import Block, join_blocks
from fastcam.model.elements import Element
from fastcam.model.out_of_memory import is_out_of_memory
from fastcam.model.resume import NotResumableError, Resumed

_CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def ablated_scores(
    scorer: Scorer,
    layer: capture.Layer,
    activations: Tensor,
    head: Head | None,
    output: Tensor,
    reshape: Reshape | None = None,
    element: Element = None,
) -> Tensor:
    """Return the scores (N, [K,] C) with channel c of the layer's activations set to zero.

    If only global pooling and a linear layer follow, no part of the model runs again. If the next layer is linear or a
    convolution, the contribution of one channel is subtracted from its output and the model resumes after it;
    otherwise it resumes after the layer itself.

    Args:
        scorer: the model.
        layer: the layer whose channels are set to zero.
        activations: the output of the layer, in the graph of ``output``.
        head: the pooling and linear layer that follow, if any.
        output: the model's output.
        reshape: from the layer's output to (N, C, *S).
        element: the element of the layer's tuple or dict that is the activations.
    """
    differentiable = scorer.differentiable
    raw = activations if differentiable else activations.detach()
    if head is not None and isinstance(output, Tensor):
        return _closed_form_scores(scorer, raw, head, output if differentiable else output.detach())
    positions = channel_positions(raw.detach(), reshape)
    if differentiable:  # resumed parts of the model lack the graph before the layer
        return _full_forward_scores(scorer, layer, raw, positions, element)
    scores = None
    affine = None if reshape else next_affine_layer(scorer.model, output, activations)
    if affine is not None:
        scores = _resumed_scores(
            scorer, affine, lambda resumed: _ChannelContribution(resumed, raw), len(raw), len(positions)
        )
    if scores is None:
        scores = _resumed_scores(
            scorer, layer, lambda _: _ZeroedChannels(raw, positions), len(raw), len(positions), element
        )
    return _full_forward_scores(scorer, layer, raw, positions, element) if scores is None else scores


def channel_positions(raw: Tensor, reshape: Reshape | None) -> Tensor:
    """Return the indices (C, P) of every channel's elements in one image's flattened raw activations."""
    numbers = torch.arange(raw[0].numel(), device=raw.device).reshape(1, *raw.shape[1:])
    return (reshape(numbers) if reshape else numbers)[0].flatten(1)


def _closed_form_scores(scorer: Scorer, raw: Tensor, head: Head, output: Tensor) -> Tensor:
    """Return the scores for a pooled head: without channel c the output loses weight[:, c] times the pooled value."""
    pooled = raw.flatten(2).mean(-1) if head.pooling == "mean" else raw.flatten(2).amax(-1)  # (N, C)
    classes = scorer.bound.classes
    if scorer.bound.is_logit and classes is not None:
        rows = head.weight[classes].to(pooled.dtype)  # (N, [K,] C)
        return scorer.scores.unsqueeze(-1) - rows * (pooled.unsqueeze(1) if rows.dim() == 3 else pooled)

    def score(block: Block) -> Tensor:
        contribution = pooled[block.place].unsqueeze(-1) * head.weight.mT[block.place[1]].to(pooled.dtype)
        ablated = output[block.place[0]].unsqueeze(1) - contribution  # (n, m, classes)
        return scorer.bound(ablated.flatten(0, 1), block.rows).unflatten(0, ablated.shape[:2])

    return scorer.collect(pooled.shape[1], score, output[0].numel() / scorer.images[0].numel())


class _Ablation(Protocol):
    """The output of a layer without single channels, (n, m, ...) for the images and channels of a block."""

    def clean(self, block: Block) -> Tensor:
        """Return the output with all channels."""

    def __call__(self, block: Block) -> Tensor:
        """Return the output without each channel of the block."""


class _ZeroedChannels:
    """The layer's output with channels set to zero."""

    def __init__(self, raw: Tensor, positions: Tensor) -> None:
        self.raw, self.positions = raw, positions

    def clean(self, block: Block) -> Tensor:
        """Return the output with all channels."""
        rows = self.raw[block.place[0]].unsqueeze(1)
        return rows.expand(-1, len(block.variants), *rows.shape[2:])

    def __call__(self, block: Block) -> Tensor:
        """Return the output without each channel of the block."""
        copies = self.clean(block).flatten(2)
        positions = self.positions[block.place[1]].expand(len(copies), -1, -1)
        return copies.scatter(2, positions, 0).unflatten(2, self.raw.shape[1:])


class _ChannelContribution:
    """The output of the next linear layer or convolution, minus the contribution of one channel."""

    def __init__(self, resumed: Resumed, raw: Tensor) -> None:
        self.module = cast("nn.Linear | nn.modules.conv._ConvNd", resumed.layer.module)
        self.input, self.output = resumed.layer_input, resumed.layer_output
        self.channels = raw.shape[1]
        if isinstance(self.module, nn.Linear) and self.input.dim() != 2:
            raise NotResumableError("a linear layer over positions mixes the channels")
        if not isinstance(self.module, nn.Linear) and self.input.shape[1] != self.channels:
            raise NotResumableError("the convolution's channels are not those of the layer")
        if len(self.input) != len(raw):
            raise NotResumableError("the layer's input does not have one row per image")

    def clean(self, block: Block) -> Tensor:
        """Return the output with all channels."""
        rows = self.output[block.place[0]].unsqueeze(1)
        return rows.expand(-1, len(block.variants), *rows.shape[2:])

    def __call__(self, block: Block) -> Tensor:
        """Return the output without each channel of the block."""
        module = self.module
        if isinstance(module, nn.Linear):
            return self.clean(block) - self._linear(module, block)
        return self.clean(block) - self._convolution(module, block)

    def _linear(self, module: nn.Linear, block: Block) -> Tensor:
        channels = block.place[1]
        features = self.input.unflatten(1, (self.channels, -1))[block.place]  # (n, m, q)
        weight = module.weight.detach().unflatten(1, (self.channels, -1))[:, channels]  # (out, m, q)
        return torch.bmm(features.transpose(0, 1), weight.permute(1, 2, 0)).transpose(0, 1)

    def _convolution(self, module: nn.modules.conv._ConvNd, block: Block) -> Tensor:
        count = len(block.variants)
        weight = module.weight.detach()[:, block.place[1]].transpose(0, 1).flatten(0, 1).unsqueeze(1)
        convolve = _CONVOLUTIONS[self.input.dim() - 2]
        options = {"stride": module.stride, "padding": module.padding, "dilation": module.dilation}
        return convolve(self.input[block.place], weight, groups=count, **options).unflatten(1, (count, -1))


def _resumed_scores(
    scorer: Scorer,
    layer: capture.Layer,
    make_ablation: Callable[[Resumed], _Ablation],
    images: int,
    channels: int,
    element: Element = None,
) -> Tensor | None:
    """Return the scores from resuming after a layer, or None if that does not reproduce the clean scores."""
    try:
        resumed = Resumed(scorer.run, scorer.inputs, layer, element)
        ablation = make_ablation(resumed)
    except NotResumableError:
        return None

    def score(make: Callable[[Block], Tensor], block: Block) -> Tensor:
        copies = make(block)
        return scorer.bound(resumed(copies.flatten(0, 1), block), block.rows).unflatten(0, copies.shape[:2])

    def make_clean(block: Block) -> Tensor:  # copies with their own memory: the model may change them in place
        return ablation.clean(block).clone(memory_format=torch.contiguous_format)

    try:
        blocks = scorer.batches.without_progress().each(images, 2, lambda block: score(make_clean, block))
        clean_scores = join_blocks(list(blocks), images, 2)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:  # from tensors of the wrong shape
        if is_out_of_memory(error):
            raise
        return None  # a full forward pass reports the actual error
    expected = scorer.scores.unsqueeze(1).expand_as(clean_scores)
    scale, rounding = float(expected.nan_to_num(0, 0, 0).abs().max()), torch.finfo(expected.dtype).eps ** 0.5
    if not torch.allclose(clean_scores, expected, rtol=rounding, atol=rounding * scale, equal_nan=True):
        return None
    try:
        size = ablation.clean(Block(range(1), range(1))).numel() / scorer.images[0].numel()
        return scorer.collect(channels, lambda block: score(ablation, block), size)
    except NotResumableError:
        return None


def _full_forward_scores(
    scorer: Scorer, layer: capture.Layer, raw: Tensor, positions: Tensor, element: Element
) -> Tensor:
    ablation = _ZeroedChannels(raw, positions)
    run = _last_run(scorer, layer) if layer.run is None else layer.run

    def score(block: Block) -> Tensor:
        copies = ablation(block)
        images = scorer.images[block.place[0]].repeat_interleave(len(block.variants), 0)
        inputs = scorer.inputs.with_copies(images, block.rows)
        with capture.replace_activation(layer, copies.flatten(0, 1), element, run):
            output = scorer.run(inputs)
        return scorer.bound(output, block.rows).unflatten(0, copies.shape[:2])

    return scorer.collect(len(positions), score)


def _last_run(scorer: Scorer, layer: capture.Layer) -> int:
    """Return the number of the layer's last run in one forward pass, from 0."""
    thread, count = threading.get_ident(), 0

    def count_run(*_: object) -> None:
        nonlocal count
        count += threading.get_ident() == thread

    handle = layer.module.register_forward_hook(count_run)
    try:
        scorer.run(scorer.inputs)
    finally:
        handle.remove()
    return count - 1
