"""Changes of the output when features of the inputs are replaced."""

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from fastcam.compat.captum.attr._baselines import Baselines, broadcast_baselines
from fastcam.compat.captum.attr._bases import PerturbationAttribution
from fastcam.compat.captum.attr._calls import Call, Target, TensorOrTuple, Tensors, as_tuple, format_like
from fastcam.model.batching import Block, join_blocks

Copies: TypeAlias = Callable[[Block], tuple[Tensor, ...]]


class OutputDrops:
    """Drops of the output under perturbations, for all examples and each perturbation in turn.

    Several perturbations at a time if the output has one row per copy; otherwise (a sum over the batch, for example),
    one after the other for the whole batch.

    Args:
        call: the function, its inputs and arguments.
        at_once: perturbations of each example at a time; 1 for as many as suit the device.
        progress: show a bar.

    Attributes:
        clean: (n, *k), the unperturbed output; n is N, or 1 for an output without rows.
    """

    def __init__(self, call: Call, at_once: int, progress: bool) -> None:
        if not isinstance(at_once, int) or at_once < 1:
            raise AssertionError(f"`perturbations_per_eval` must be a positive whole number, got {at_once!r}")
        self.call, self.at_once, self.progress = call, at_once, progress
        output = call.scores(call.inputs).detach()
        self.has_rows = output.dim() > 0 and len(output) == call.count
        self.clean = output if output.dim() else output[None]
        if not self.has_rows:
            self._refuse(output)

    def of(self, variants: int, copies: Copies) -> Tensor:
        """Return (N, variants, *k), or (1, variants, *n) for an output without one row per copy.

        Args:
            variants: number of perturbations.
            copies: the inputs for a block, (M, ...) each.
        """
        if self.has_rows:
            drops = self._by_rows(variants, copies)
            if drops is not None:
                return drops
            self.has_rows = False
        whole = range(self.call.count)
        rows = torch.arange(self.call.count)
        outputs = [
            self.call.scores(copies(Block(whole, range(index, index + 1))), rows).detach() for index in range(variants)
        ]
        return self.clean[None, None] - torch.stack(outputs).reshape(1, variants, *self.clean.shape)

    @property
    def outputs(self) -> int:
        """Attributions per input value: 1 for one score per example."""
        return self.clean.numel() // (self.call.count if self.has_rows else 1)

    def _by_rows(self, variants: int, copies: Copies) -> Tensor | None:
        """Return (N, variants, *k), or None where the output does not have one row per copy."""
        count = self.call.count
        parts: list[tuple[Block, Tensor]] = []
        batches = self.call.batches(self._batch_size(), self.progress)
        for block, output in batches.each(count, variants, lambda block: self._output(copies(block), block)):
            if output.dim() == 0 or len(output) != len(block):
                self._refuse(output)
                return None
            parts.append((block, output.unflatten(0, (len(block.images), len(block.variants)))))
        return self.clean.unsqueeze(1) - join_blocks(parts, count, variants)

    def _batch_size(self) -> int | None:
        """Copies at a time; one where the only value of an argument may belong to the example or to every one."""
        if self.at_once > 1:
            return self.at_once * max(self.call.count, 1)
        values = (value for value in self.call.others if isinstance(value, Tensor))
        return 1 if self.call.count == 1 and any(value.shape == (1,) for value in values) else None

    def _output(self, copies: tuple[Tensor, ...], block: Block) -> Tensor:
        return self.call.scores(copies, block.rows).detach()

    def _refuse(self, output: Tensor) -> None:
        if self.at_once > 1:
            raise AssertionError(
                f"with perturbations_per_eval={self.at_once} the forward function must return a row for every row of "
                f"its input, it returned shape {tuple(output.shape)}; use perturbations_per_eval=1"
            )


class FeatureAblation(PerturbationAttribution):
    """The drop of the output when a feature, or a group of them, is replaced by a baseline.

    Args:
        forward_func: a model, or any function of tensors; its output may have one row per example or not.
    """

    def attribute(
        self,
        inputs: TensorOrTuple,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: object = None,
        feature_mask: Tensors | None = None,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
        **kwargs: object,
    ) -> TensorOrTuple:
        """Return the drops, shaped as the inputs; (N * k, ...) for k outputs per example.

        Args:
            inputs: a tensor, or a tuple of them.
            baselines: replacement values: a number or a tensor for each input, None for 0.
            target: selects the score.
            additional_forward_args: further arguments of the forward function.
            feature_mask: the feature number of each value, of the inputs' shapes or broadcast to them; a number in
                several inputs is one feature. None makes each value a feature.
            perturbations_per_eval: features at a time; 1 for as many as suit the device.
            show_progress: show a bar on standard error.
            kwargs: not supported.

        Raises:
            TypeError: for unknown arguments.
        """
        if kwargs:
            raise TypeError(f"attribute() got an unexpected keyword argument {next(iter(kwargs))!r}")
        call = Call(self.forward_func, inputs, target, additional_forward_args)
        starts = broadcast_baselines(call.inputs, baselines)
        count, features = _features(call.inputs, feature_mask)
        drops = OutputDrops(call, perturbations_per_eval, show_progress)
        by_feature = drops.of(count, lambda block: _ablated_copies(call, features, starts, block))
        pairs = zip(call.inputs, features, strict=True)
        return format_like(inputs, tuple(_by_value(by_feature, feature, tensor) for tensor, feature in pairs))


def _features(inputs: tuple[Tensor, ...], masks: Tensors | None) -> tuple[int, tuple[Tensor, ...]]:
    """Return the number of features and, for each input, every value's feature number from 0 on, (1 or N, ...)."""
    if masks is None:
        first, features = 0, []
        for tensor in inputs:
            size = math.prod(tensor.shape[1:])
            features.append(first + torch.arange(size, device=tensor.device).reshape(1, *tensor.shape[1:]))
            first += size
        return first, tuple(features)
    masks = as_tuple(masks, "feature_mask")
    if len(masks) != len(inputs):
        raise ValueError(f"there must be one feature mask for each of the {len(inputs)} inputs, got {len(masks)}")
    shaped = [_with_all_axes(mask, tensor) for mask, tensor in zip(masks, inputs, strict=True)]
    numbers = torch.cat([mask.flatten() for mask in shaped]).unique()
    return len(numbers), tuple(torch.searchsorted(numbers, mask.contiguous()) for mask in shaped)


def _with_all_axes(mask: Tensor, inputs: Tensor) -> Tensor:
    """Return a feature mask with the number of axes of its input."""
    sizes = zip(reversed(mask.shape), reversed(inputs.shape), strict=False)
    if mask.dim() > inputs.dim() or any(size not in (1, full) for size, full in sizes):
        raise AssertionError(
            f"a feature mask must have its input's shape, {tuple(inputs.shape)}, or be broadcast to it; "
            f"got {tuple(mask.shape)}"
        )
    return mask.reshape(*[1] * (inputs.dim() - mask.dim()), *mask.shape)


def _ablated_copies(
    call: Call, features: tuple[Tensor, ...], starts: tuple[Tensor, ...], block: Block
) -> tuple[Tensor, ...]:
    """Return the copies for a block of features, (M, ...) for each input."""
    rows = block.place[0]
    return tuple(
        _replace_features(tensor[rows], feature[rows] if len(feature) > 1 else feature, block.variants, start[rows])
        for tensor, feature, start in zip(call.inputs, features, starts, strict=True)
    )


def _replace_features(inputs: Tensor, features: Tensor, replaced: range, start: Tensor) -> Tensor:
    """Return (n * m, ...), a copy of every example (n, ...) for each of m features, with that feature replaced."""
    numbers = torch.arange(replaced.start, replaced.stop, device=inputs.device)
    numbers = numbers.reshape(1, -1, *[1] * (inputs.dim() - 1))
    return torch.where(features.unsqueeze(1) == numbers, start.unsqueeze(1), inputs.unsqueeze(1)).flatten(0, 1)


def _by_value(drops: Tensor, features: Tensor, inputs: Tensor) -> Tensor:
    """Return (N * k, ...), the drop of every value's feature."""
    rows, variants = drops.shape[:2]
    if rows == 1 and len(features) > 1:
        raise ValueError("for an output without one row per example, all examples must share one feature mask")
    flat = drops.reshape(rows, variants, math.prod(drops.shape[2:])).movedim(1, -1)  # (n, k, variants)
    shape = inputs.shape[1:]
    index = features.expand(len(features), *shape).reshape(len(features), 1, -1)
    return flat.gather(2, index.expand(rows, flat.shape[1], -1)).reshape(-1, *shape)
