"""The model interface of the rules: scores and gradients of copies of the images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from fastcam import incremental, ops, postprocess
from fastcam.devices import all_rows
from fastcam.engine.input_gradients import input_gradients
from fastcam.model import capture
from fastcam.model.batching import Batches, Block, join_blocks
from fastcam.model.elements import ModelOutput, Select
from fastcam.model.inputs import Inputs
from fastcam.model.running import is_training
from fastcam.targets.binding import Bound, Logit, select_output

Result = TypeVar("Result")


@dataclass(frozen=True)
class Scorer:
    """Scores any copies of the images; the targets are those of the unchanged images.

    Attributes:
        model: the model.
        inputs: N images and the model's other arguments.
        bound: the bound target, from an output to scores.
        scores: (N,) or (N, K), of the unchanged images; () before they are computed.
        batches: splits the work.
        select: the part of the model's output to score.
        layer: the layer inside the model that is scored instead of its output, or None.
        differentiable: whether the results are differentiable.
        cover: shares of a layer's axes that the images take; see :class:`.Padding`.
    """

    model: nn.Module
    inputs: Inputs
    bound: Bound
    scores: Tensor
    batches: Batches
    select: Select = None
    layer: capture.Layer | None = None
    differentiable: bool = False
    cover: postprocess.Cover = None

    @property
    def images(self) -> Tensor:
        """(N, C, *S)."""
        return self.inputs.images

    @property
    def rows(self) -> Tensor:
        """(N,): every image once."""
        return all_rows(len(self.images))

    def each(
        self, variants: int, work: Callable[[Block], Result], images: range | None = None, size: float = 1.0
    ) -> Iterator[tuple[Block, Result]]:
        """Run the work for variants of every image, or of a range of images, in blocks; see :class:`.Batches`."""
        return self.batches.each(self.images.shape[0] if images is None else images, variants, work, size)

    def masked(self, maps: Tensor, block: Block) -> Tensor:
        """Return a block's images (n, m, C, *S) under its maps (n, m, *s) of a layer, resized and scaled to [0, 1]."""
        images = self.images[block.place[0]]
        if self.cover is None:
            return ops.mask_images(images, maps)
        masks = postprocess.resize(maps, images.shape[2:], True, cover=self.cover)
        return images.unsqueeze(1) * masks.unsqueeze(2)

    def score(self, copies: Tensor, block: Block) -> Tensor:
        """Return the scores (n, m, [K]) of the copies (n, m, C, *S) of a block."""
        return self.bound(self.output(copies, block), block.rows).unflatten(0, copies.shape[:2])

    def output(self, copies: Tensor, block: Block) -> ModelOutput:
        """Return the output, n * m rows, for the copies (n, m, C, *S) of a block."""
        return self.run(self.inputs.with_copies(copies.flatten(0, 1), block.rows))

    def run(self, inputs: Inputs, from_start: bool | None = None) -> ModelOutput:
        """Return the scored value for any inputs: the selected part of the output, or the layer's output."""
        layers: Sequence[capture.Layer] = [] if self.layer is None else [self.layer]
        from_start = self.differentiable if from_start is None else from_start
        captured = capture.forward(self.model, inputs.arguments, layers, from_start=from_start)
        return captured.activations[0] if self.layer is not None else select_output(captured.output, self.select)

    def predictions(self, copies: Tensor, block: Block) -> dict[str, Tensor]:
        """Return scores (n, m, [K]) of copies (n, m, C, *S); for classifiers also ``top_class`` and ``probability``."""
        return self._predictions_of(self.output(copies, block), block)

    def _predictions_of(self, output: ModelOutput, block: Block) -> dict[str, Tensor]:
        """Return predictions (n, m, ...) from the output for a block's copies."""
        rows, shape = block.rows, block.shape
        predictions = {"scores": self.bound(output, rows)}
        if isinstance(output, Tensor) and output.dim() == 2 and output.shape[1] > 1 and self.layer is None:
            predictions["top_class"] = output.argmax(1)
            if self.bound.indices is not None:
                predictions["probability"] = Logit.pick(output.softmax(1), self.bound.indices, rows)
        return {name: values.unflatten(0, shape) for name, values in predictions.items()}

    def occluded_predictions(
        self, windows: Tensor, start: Tensor, engine: incremental.Engine, images: range | None
    ) -> list[tuple[Block, dict[str, Tensor]]] | None:
        """Return incrementally computed predictions for the images occluded by every window; None if not possible.

        Args:
            windows: (M, 2, axes): start and size along every axis.
            start: (N, C, *S), the values inside the windows.
            engine: "auto" for incremental if it saves enough, "incremental", or "dense" for None.
            images: the range of images; None for all.

        Raises:
            ValueError: for an unknown engine, or "incremental" if it cannot be used.
        """
        incremental.check_engine(engine)
        reason = self._reason_for_dense()
        if reason and engine == "incremental":
            raise ValueError(f'engine="incremental" cannot be used: {reason}')
        if reason or engine == "dense":
            return None

        def run(image: int, copies: Tensor) -> ModelOutput:
            rows = torch.full((len(copies),), image)
            return self.run(self.inputs.with_copies(copies, rows), from_start=False)

        return incremental.predict_windows(
            run,
            self.images,
            start,
            windows,
            self._predictions_of,
            self.batches,
            engine,
            images or range(len(self.images)),
        )

    def _reason_for_dense(self) -> str:
        """Return the reason why patches cannot be used; empty if they can."""
        if self.images.dim() != 4:
            return "it needs images with two axes"
        if self.differentiable:
            return "maps with gradients need whole forward passes"
        return "the model is in training mode" if is_training(self.model) else ""

    def scores_of(self, variants: int, make: Callable[[Block], Tensor]) -> Tensor:
        """Return the scores (N, [K,] variants) of all copies that ``make`` returns, (n, m, C, *S) for a block."""
        return self.collect(variants, lambda block: self.score(make(block), block))

    def collect(self, variants: int, work: Callable[[Block], Tensor], size: float = 1.0) -> Tensor:
        """Join the results (n, m, ...) of the work for all blocks into (N, ..., variants)."""
        return join_blocks(list(self.each(variants, work, size=size)), self.images.shape[0], variants).movedim(1, -1)

    def gradients(self, copies: Tensor, block: Block, *kinds: str) -> tuple[Tensor, dict[str, Tensor]]:
        """Return scores (n, m, [K]) and gradients (n, m, [K,] C, *S) with respect to copies (n, m, C, *S), by kind.

        Args:
            copies: of the images of the block.
            block: the images and variants of the copies.
            kinds: "input_gradients", "guided_gradients", "deconvnet_gradients".
        """
        shape = copies.shape[:2]
        flat = copies.flatten(0, 1)
        leaf = flat if self.differentiable and flat.requires_grad else flat.detach().requires_grad_()
        with torch.inference_mode(False), torch.enable_grad():
            scores = self.bound(self.run(self.inputs.with_copies(leaf, block.rows), True), block.rows)
            by_kind = input_gradients(scores, leaf, kinds, self.differentiable)
        scores = scores if self.differentiable else scores.detach()
        return scores.unflatten(0, shape), {kind: values.unflatten(0, shape) for kind, values in by_kind.items()}

    def for_copies(self, copies: Tensor, block: Block, scores: Tensor) -> "Scorer":
        """Return a scorer with the same targets for copies (n, m, C, *S), whose scores are (n, m, [K])."""
        rows = block.rows
        bound = Bound(lambda output, copy_rows: self.bound(output, rows[copy_rows.to(rows.device)]))
        inputs = self.inputs.with_copies(copies.flatten(0, 1), rows)
        batches = self.batches.without_progress()
        return Scorer(
            self.model, inputs, bound, scores.flatten(0, 1), batches, self.select, self.layer, self.differentiable
        )
