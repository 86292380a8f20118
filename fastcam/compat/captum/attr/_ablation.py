"""What happens to the output when features of the inputs are replaced."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastcam.compat.captum.attr._baselines import Baselines, baselines_of
from fastcam.compat.captum.attr._bases import PerturbationAttribution
from fastcam.compat.captum.attr._calls import Call, Given, Target, as_tuple, like
from fastcam.model.batching import Block

Copies = Callable[[Block], tuple[Tensor, ...]]


class Falls:
    """How far the output falls when something is hidden, for all examples and all that is hidden in turn.

    Several at a time, as long as the output has a row for every copy; where it has not (a sum over the batch, say), one
    after the other for the whole batch.

    Args:
        call: the function, its inputs and arguments.
        at_once: perturbations of each example at a time; 1 for as many as suit the device.
        progress: show a bar.

    Attributes:
        clean: (n, *k), the output as it is; n is N, or 1 for an output without rows.
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
        """(N, variants, *k), or (1, variants, *n) where the output has no rows of its own.

        Args:
            variants: how many things are hidden in turn.
            copies: the inputs for a block, (M, ...) each.
        """
        if self.has_rows:
            found = self._by_rows(variants, copies)
            if found is not None:
                return found
            self.has_rows = False
        whole = range(self.call.count)
        rows = torch.arange(self.call.count)
        outputs = [
            self.call.scores(copies(Block(whole, range(index, index + 1))), rows).detach() for index in range(variants)
        ]
        return self.clean[None, None] - torch.stack(outputs).reshape(1, variants, *self.clean.shape)

    @property
    def outputs(self) -> int:
        """How many attributions every input value has, one after the other: 1 for one score an example."""
        return self.clean.numel() // (self.call.count if self.has_rows else 1)

    def _by_rows(self, variants: int, copies: Copies) -> Tensor | None:
        """With a row for every copy, or None where the output has others."""
        count = self.call.count
        found = self.clean.new_empty((count, variants, *self.clean.shape[1:]))
        batches = self.call.batches("auto" if self.at_once == 1 else self.at_once * count, self.progress)
        for block, output in batches.each(count, variants, lambda block: self._output(copies(block), block)):
            if output.dim() == 0 or len(output) != len(block):
                self._refuse(output)
                return None
            found[block.place] = output.unflatten(0, (len(block.images), len(block.variants)))
        return self.clean.unsqueeze(1) - found

    def _output(self, copies: tuple[Tensor, ...], block: Block) -> Tensor:
        return self.call.scores(copies, block.rows).detach()

    def _refuse(self, output: Tensor) -> None:
        if self.at_once > 1:
            raise AssertionError(
                f"with perturbations_per_eval={self.at_once} the forward function must return a row for every row of "
                f"its input, it returned shape {tuple(output.shape)}; use perturbations_per_eval=1"
            )


class FeatureAblation(PerturbationAttribution):
    """How far the output falls when a feature, or a group of them, is replaced by a baseline.

    Args:
        forward_func: a model, or any function of tensors; it may return a row an example, or something for all of them.
    """

    def attribute(
        self,
        inputs: Given,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        feature_mask: Given | None = None,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
        **kwargs: Any,
    ) -> Any:
        """The falls, shaped as the inputs; with k outputs an example, (N * k, ...).

        Args:
            inputs: a tensor, or a tuple of them.
            baselines: what takes a feature's place: a number or a tensor for each input, None for 0.
            target: which output counts.
            additional_forward_args: what else the forward function takes.
            feature_mask: which feature each value belongs to, of the inputs' shapes or broadcast to them; a number that
                stands in several inputs is one feature. None for each value by itself.
            perturbations_per_eval: features that are replaced at a time; 1 for as many as suit the device.
            show_progress: show a bar on standard error.
            kwargs: none are known.

        Raises:
            TypeError: for arguments that are not known.
        """
        if kwargs:
            raise TypeError(f"attribute() got an unexpected keyword argument {next(iter(kwargs))!r}")
        call = Call(self.forward_func, inputs, target, additional_forward_args)
        starts = baselines_of(call.inputs, baselines)
        features, places = _features(call.inputs, feature_mask)
        falls = Falls(call, perturbations_per_eval, show_progress)

        def copies(block: Block) -> tuple[Tensor, ...]:
            which, here = block.place
            return tuple(
                _replaced(
                    each[which],
                    _part(place, which, call.count),
                    torch.arange(here.start, here.stop),
                    _part(start, which, call.count),
                )
                for each, place, start in zip(call.inputs, places, starts, strict=True)
            )

        found = falls.of(features, copies)
        return like(
            inputs, tuple(_gathered(found, place, each, falls) for each, place in zip(call.inputs, places, strict=True))
        )


def _features(inputs: tuple[Tensor, ...], masks: Given | None) -> tuple[int, tuple[Tensor, ...]]:
    """How many features there are, and for each input the number (from 0 on) of every value's, (1 or N, ...)."""
    if masks is None:
        first, found = 0, []
        for each in inputs:
            found.append(first + torch.arange(each[:1].numel(), device=each.device).reshape(each[:1].shape))
            first += each[:1].numel()
        return first, tuple(found)
    given = as_tuple(masks, "feature_mask")
    if len(given) != len(inputs):
        raise AssertionError(f"there must be one feature mask for each of the {len(inputs)} inputs, got {len(given)}")
    for mask, each in zip(given, inputs, strict=True):
        sizes = zip(reversed(mask.shape), reversed(each.shape), strict=False)
        if mask.dim() > each.dim() or any(size not in (1, full) for size, full in sizes):
            raise AssertionError(
                f"a feature mask must have its input's shape, {tuple(each.shape)}, or be broadcast to it; "
                f"got {tuple(mask.shape)}"
            )
    names = torch.cat([mask.flatten() for mask in given]).unique()
    shaped = tuple(
        mask.reshape(*[1] * (each.dim() - mask.dim()), *mask.shape) for mask, each in zip(given, inputs, strict=True)
    )
    return len(names), tuple(torch.searchsorted(names, mask.contiguous()) for mask in shaped)


def _part(given: Any, which: slice, count: int) -> Any:
    """The rows of a block, of what has a row for each example."""
    return given[which] if isinstance(given, Tensor) and given.dim() > 0 and len(given) == count > 1 else given


def _replaced(inputs: Tensor, places: Tensor, features: Tensor, baseline: Tensor | int | float) -> Tensor:
    """(n * m, ...): a copy of every example (n, ...) for each of m features, the feature replaced."""
    numbers = features.to(inputs.device).reshape(1, -1, *[1] * (inputs.dim() - 1))
    start = torch.as_tensor(baseline, device=inputs.device)
    if not inputs.is_floating_point() and start.is_floating_point():
        inputs = inputs.to(start.dtype)
    start = start.to(inputs.dtype)
    start = start.unsqueeze(1) if start.dim() == inputs.dim() else start
    return torch.where(places.unsqueeze(1) == numbers, start, inputs.unsqueeze(1)).flatten(0, 1)


def _gathered(falls: Tensor, places: Tensor, inputs: Tensor, of: Falls) -> Tensor:
    """(N * k, ...): every value's fall is that of its feature."""
    rows, variants = falls.shape[:2]
    flat = falls.reshape(rows, variants, -1).movedim(1, -1)  # (n, k, variants)
    shape = inputs.shape[1:]
    where = places.expand(len(places), *shape).reshape(len(places), 1, -1)
    if rows == 1 and len(places) > 1:
        raise AssertionError(
            "where the output has no row for each example, a feature mask must be the same for all of them"
        )
    where = where.expand(rows, flat.shape[1], -1)
    return flat.gather(2, where).reshape(-1, *shape)
