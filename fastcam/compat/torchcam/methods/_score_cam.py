"""Extractors that weight every channel by the score of the image masked by it."""

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from fastcam import ops
from fastcam.compat.torchcam.methods._selection import (
    Classes,
    ModelOutput,
    Targets,
    class_scores,
    target_scores,
    targets_per_image,
)
from fastcam.compat.torchcam.methods._utils import in_evaluation
from fastcam.compat.torchcam.methods.core import _CAM, TargetLayer
from fastcam.model.inputs import Inputs, in_fast_layout

ScoresOf = Callable[[Tensor, list[int]], Tensor]  # from copies (M, C, *S) and the images of each to their scores (M,)


class _InputCAM(_CAM):
    """An extractor that reruns the model on changed images, with its other arguments."""

    _targets_supported = True

    def __init__(
        self,
        model: nn.Module,
        target_layer: TargetLayer = None,
        input_shape: tuple[int, ...] = (3, 224, 224),
        **kwargs: Any,
    ) -> None:
        super().__init__(model, target_layer, input_shape, **kwargs)
        self.hook_handles.append(model.register_forward_pre_hook(self._weak_hook("_store_input"), with_kwargs=True))

    def _store_input(self, model: nn.Module, arguments: tuple[object, ...], keywords: dict[str, object]) -> None:
        """Record the model's arguments; the images as a copy, since the model may change them in place."""
        if self._is_recording and arguments and isinstance(arguments[0], Tensor):
            self._record.inputs = ((arguments[0].detach().clone(), *arguments[1:]), keywords)

    def _inputs(self) -> Inputs:
        """Return the recorded arguments, with the dict of keywords last."""
        if self._record.inputs is None:
            raise ValueError("the model must get the images as its first positional argument, a tensor")
        arguments, keywords = self._record.inputs
        return Inputs.of((*arguments, keywords))

    def _run(self, inputs: Inputs) -> Any:
        """Return the model's output."""
        *arguments, keywords = inputs.arguments
        return self.model(*arguments, **keywords)


class ScoreCAM(_InputCAM):
    """Score-CAM (arXiv:1910.01279): the mask of a channel is its activation map, upsampled and scaled to [0, 1].

    With ``exact_peer=True`` the map is scaled before it is upsampled.

    Args:
        model: any module.
        target_layer: a module, its name, or a list of either; None for the last one with a spatial output.
        batch_size: number of masked images per model call.
        input_shape: (C, *S) of the image used to find the layer.
        kwargs: as for :class:`_CAM`.

    Attributes:
        bs: the batch size; may be changed.
    """

    _relu = True

    def __init__(
        self,
        model: nn.Module,
        target_layer: TargetLayer = None,
        batch_size: int = 32,
        input_shape: tuple[int, ...] = (3, 224, 224),
        **kwargs: Any,
    ) -> None:
        super().__init__(model, target_layer, input_shape, **kwargs)
        self.bs = batch_size

    @torch.no_grad()
    def _get_weights(
        self,
        class_idx: Classes | None,
        scores: ModelOutput | None = None,
        *,
        targets: Targets | None = None,
        **kwargs: Any,
    ) -> list[Tensor]:
        """Return per layer (N, C), the softmax of the channels' scores, in which torch-cam's baseline cancels."""
        recorded = self._inputs()
        callables = None if targets is None else targets_per_image(targets, len(recorded))

        def weights(inputs: Inputs) -> list[Tensor]:
            def scores_of(copies: Tensor, rows: list[int]) -> Tensor:
                output = self._run(inputs.with_copies(copies, torch.tensor(rows)))
                if callables is None:
                    return class_scores(output, cast(Classes, class_idx), rows)
                return target_scores(output, [callables[row] for row in rows])

            return [self._channel_scores(inputs, a, scores_of).softmax(-1) for a in self.hook_a]

        with self._hooks_off(), in_evaluation(self.model):
            return in_fast_layout(weights, recorded)

    def _channel_scores(self, inputs: Inputs, activations: Tensor, scores_of: ScoresOf) -> Tensor:
        """Return (N, C), the scores of every image masked by every channel."""
        maps = self._mask_source(inputs.images, activations)
        return self._by_blocks(maps, lambda images, block, rows: scores_of(self._masked(images, block), rows), inputs)

    def _mask_source(self, images: Tensor, activations: Tensor) -> Tensor:
        """Return (N, C, *s), the maps that masks are made of, in the images' dtype."""
        maps = activations.to(images.dtype)
        return self._normalize(maps, maps.dim() - 2) if self.exact_peer else maps

    def _masked(self, images: Tensor, maps: Tensor) -> Tensor:
        """Return copies (n m, C, *S) of images (n, C, *S), each masked by one of its maps (n, m, *s)."""
        return ops.mask_images(images, maps.contiguous(), not self.exact_peer).flatten(0, 1)

    def _masks(self, images: Tensor, activations: Tensor) -> Tensor:
        """Return (N, C, *S), all masks at the size of the images."""
        source = self._mask_source(images, activations)
        return ops.upsample_normalize(source.contiguous(), tuple(images.shape[2:]), not self.exact_peer)

    def _by_blocks(self, maps: Tensor, work: Callable[[Tensor, Tensor, list[int]], Tensor], inputs: Inputs) -> Tensor:
        """Return (N, C), computed by ``work`` in blocks of at most ``bs`` maps.

        ``work`` gets images, their maps, and the index of the image of each copy.
        """
        scores = inputs.images.new_empty(maps.shape[:2])
        for images, channels in _blocks(maps.shape[0], maps.shape[1], self.bs):
            block = maps[images, channels]
            rows = [row for row in range(images.start, images.stop) for _ in range(block.shape[1])]
            scores[images, channels] = work(inputs.images[images], block, rows).reshape(block.shape[:2]).to(scores)
        return scores

    def __repr__(self) -> str:
        """Return the class name with the batch size."""
        return f"{type(self).__name__}(batch_size={self.bs})"


class SSCAM(ScoreCAM):
    """SS-CAM (arXiv:2006.14255): Score-CAM with the mean score of noisy masks.

    Args:
        model, target_layer, batch_size, input_shape, kwargs: as for :class:`ScoreCAM`.
        num_samples: number of noisy masks per channel.
        std: standard deviation of the noise, drawn by torch's default generator.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: TargetLayer = None,
        batch_size: int = 32,
        num_samples: int = 35,
        std: float = 2.0,
        input_shape: tuple[int, ...] = (3, 224, 224),
        **kwargs: Any,
    ) -> None:
        super().__init__(model, target_layer, batch_size, input_shape, **kwargs)
        self.num_samples, self.std = num_samples, std

    def _channel_scores(self, inputs: Inputs, activations: Tensor, scores_of: ScoresOf) -> Tensor:
        masks = self._masks(inputs.images, activations)

        def work(images: Tensor, block: Tensor, rows: list[int]) -> Tensor:
            return scores_of((images.unsqueeze(1) * block.unsqueeze(2)).flatten(0, 1), rows)

        total = masks.new_zeros(masks.shape[:2])
        for _ in range(self.num_samples):
            noise = torch.distributions.Normal(0, self.std).sample(masks.shape).to(masks)
            total += self._by_blocks(noise.add_(masks), work, inputs)
        return total / self.num_samples

    def __repr__(self) -> str:
        """Return the class name with the settings."""
        return f"{type(self).__name__}(batch_size={self.bs}, num_samples={self.num_samples}, std={self.std})"


class ISCAM(ScoreCAM):
    """IS-CAM (arXiv:2010.03023): Score-CAM with the mean score of the masked image times 1/n, 3/n, 6/n, ...

    Args:
        model, target_layer, batch_size, input_shape, kwargs: as for :class:`ScoreCAM`.
        num_samples: n, number of steps per channel.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: TargetLayer = None,
        batch_size: int = 32,
        num_samples: int = 10,
        input_shape: tuple[int, ...] = (3, 224, 224),
        **kwargs: Any,
    ) -> None:
        super().__init__(model, target_layer, batch_size, input_shape, **kwargs)
        self.num_samples = num_samples

    def _channel_scores(self, inputs: Inputs, activations: Tensor, scores_of: ScoresOf) -> Tensor:
        count = self.num_samples
        factors = [step * (step + 1) / (2 * count) for step in range(1, count + 1)]  # sums of 1/n to step/n

        def work(images: Tensor, maps: Tensor, rows: list[int]) -> Tensor:
            masked = self._masked(images, maps)
            return torch.stack([scores_of(factor * masked, rows) for factor in factors]).mean(0)

        return self._by_blocks(self._mask_source(inputs.images, activations), work, inputs)


def _blocks(images: int, channels: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Yield blocks of images and channels with at most ``size`` pairs, at least one."""
    images_per_block = max(1, size // channels)
    for first in range(0, images, images_per_block):
        for channel in range(0, channels, max(1, size)):
            yield slice(first, min(first + images_per_block, images)), slice(channel, min(channel + size, channels))
