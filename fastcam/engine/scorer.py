"""The model as the rules see it: from copies of the images to scores, gradients and bias gradients."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fastcam import incremental, targets
from fastcam.engine.input_gradients import input_gradients
from fastcam.model import capture
from fastcam.model.batching import Batches, Block, join_blocks
from fastcam.model.elements import Select
from fastcam.model.inputs import Inputs
from fastcam.model.running import is_training

Result = TypeVar("Result")


@dataclass(frozen=True)
class Scorer:
    """Scores of any copies of the images; the targets are those found on the images as they are.

    Attributes:
        model: the model.
        inputs: N images and what else the model takes.
        bound: from an output to scores.
        scores: (N,) or (N, K), of the images as they are; () before they are known.
        batches: how work is cut.
        select: the part of the model's output to score.
        layer: the layer inside the model that is scored in place of its output, or None.
        differentiable: whether what comes out has gradients.
    """

    model: nn.Module
    inputs: Inputs
    bound: targets.Bound
    scores: Tensor
    batches: Batches
    select: Select = None
    layer: capture.Layer | None = None
    differentiable: bool = False

    @property
    def images(self) -> Tensor:
        """(N, C, *S)."""
        return self.inputs.images

    @property
    def rows(self) -> Tensor:
        """(N,): every image once."""
        return torch.arange(len(self.images))

    def each(
        self, variants: int, work: Callable[[Block], Result], images: range | None = None, size: float = 1.0
    ) -> Iterator[tuple[Block, Result]]:
        """Does the work for that many variants of every image, or of some, block by block; see :class:`.Batches`."""
        return self.batches.each(len(self.images) if images is None else images, variants, work, size)

    def score(self, copies: Tensor, block: Block) -> Tensor:
        """(n, m, [K]): scores of the copies (n, m, C, *S) of a block."""
        return self.bound(self.output(copies, block), block.rows).unflatten(0, copies.shape[:2])

    def output(self, copies: Tensor, block: Block) -> Any:
        """What the model says of the copies (n, m, C, *S) of a block, n * m rows."""
        return self.run(self.inputs.with_copies(copies.flatten(0, 1), block.rows))

    def run(self, inputs: Inputs, from_start: bool | None = None) -> Any:
        """What is scored, for any inputs: the model's output or what the layer returned."""
        layers: Sequence[capture.Layer] = [] if self.layer is None else [self.layer]
        from_start = self.differentiable if from_start is None else from_start
        captured = capture.forward(self.model, inputs.arguments, layers, from_start=from_start)
        return (
            captured.activations[0] if self.layer is not None else targets.select_output(captured.output, self.select)
        )

    def predictions(self, copies: Tensor, block: Block) -> dict[str, Tensor]:
        """Scores (n, m, [K]) of copies (n, m, C, *S); of a classifier ``top_class`` (n, m) and ``probability`` too."""
        return self._predictions_of(self.output(copies, block), block)

    def _predictions_of(self, output: Any, block: Block) -> dict[str, Tensor]:
        """Predictions (n, m, ...) from what the model said of a block's copies."""
        rows, shape = block.rows, (len(block.images), len(block.variants))
        found = {"scores": self.bound(output, rows)}
        if isinstance(output, Tensor) and output.dim() == 2 and output.shape[1] > 1 and self.layer is None:
            found["top_class"] = output.argmax(1)
            if self.bound.classes is not None:
                found["probability"] = targets.Logit.pick(output.softmax(1), self.bound.classes, rows)
        return {name: each.unflatten(0, shape) for name, each in found.items()}

    def occluded_predictions(
        self, windows: Tensor, start: Tensor, engine: incremental.Engine, images: range
    ) -> list[tuple[Block, dict[str, Tensor]]] | None:
        """Predictions for the images behind every window, from what each window changes; None where that cannot be.

        Args:
            windows: (M, 2, axes): start and size along every axis.
            start: what they hold, (N, C, *S).
            engine: "auto" where it saves enough, "incremental", or "dense" for None.
            images: which.

        Raises:
            ValueError: for an engine that is not known, or "incremental" where it cannot be.
        """
        incremental.check_engine(engine)
        reason = self._why_dense()
        if reason and engine == "incremental":
            raise ValueError(f'engine="incremental" cannot be used: {reason}')
        if reason or engine == "dense":
            return None

        def run(image: int, copies: Tensor) -> Any:
            rows = torch.full((len(copies),), image)
            return self.run(self.inputs.with_copies(copies, rows), from_start=False)

        return incremental.predict_windows(
            run, self.images, start, windows, self._predictions_of, self.batches, engine, images
        )

    def _why_dense(self) -> str:
        """Why patches are out of the question; nothing where they are not."""
        if self.images.dim() != 4:
            return "it needs images with two axes"
        if self.differentiable:
            return "maps with gradients need whole forward passes"
        return "the model is in training mode" if is_training(self.model) else ""

    def scores_of(self, variants: int, make: Callable[[Block], Tensor]) -> Tensor:
        """(N, [K,] variants): the scores of all copies that ``make`` gives, (n, m, C, *S) for a block."""
        return self.collect(variants, lambda block: self.score(make(block), block))

    def collect(self, variants: int, work: Callable[[Block], Tensor], size: float = 1.0) -> Tensor:
        """(N, ..., variants): results (n, m, ...) of the work for all blocks."""
        return join_blocks(list(self.each(variants, work, size=size)), len(self.images), variants).movedim(1, -1)

    def gradients(self, copies: Tensor, block: Block, *kinds: str) -> tuple[Tensor, dict[str, Tensor]]:
        """Scores (n, m, [K]) and gradients (n, m, [K,] C, *S) with respect to copies (n, m, C, *S), by kind.

        Args:
            copies: made by the rule.
            block: what they are copies of.
            kinds: "input_gradients", "guided_gradients", "deconvnet_gradients".
        """
        shape = copies.shape[:2]
        flat = copies.flatten(0, 1)
        leaf = flat if self.differentiable and flat.requires_grad else flat.detach().requires_grad_()
        with torch.inference_mode(False), torch.enable_grad():
            scores = self.bound(self.run(self.inputs.with_copies(leaf, block.rows), True), block.rows)
            found = input_gradients(scores, leaf, kinds, self.differentiable)
        kept = scores if self.differentiable else scores.detach()
        return kept.unflatten(0, shape), {kind: each.unflatten(0, shape) for kind, each in found.items()}

    def for_copies(self, copies: Tensor, block: Block, scores: Tensor) -> "Scorer":
        """The same targets for copies (n, m, C, *S) in the place of the images, with their scores (n, m, [K])."""
        rows = block.rows
        bound = targets.Bound(lambda output, which: self.bound(output, rows[which.to(rows.device)]))
        inputs = self.inputs.with_copies(copies.flatten(0, 1), rows)
        batches = self.batches.quietly()
        return Scorer(
            self.model, inputs, bound, scores.flatten(0, 1), batches, self.select, self.layer, self.differentiable
        )
