"""The model interface of the rules: scores and gradients of copies of the images."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from fastcam import incremental, ops, postprocess
from fastcam.devices import all_rows
from fastcam.engine.graph_copies import CopiesCall, Results, Work
from fastcam.engine.graphs import Graphs
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
        graphs: the recorded work of the explainer, or None to record none.
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
    graphs: Graphs | None = None

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
        return self._work_on(copies, block, "scores", self._scores)["scores"]

    def _scores(self, inputs: Inputs, bound: Bound, rows: Tensor) -> Results:
        return {"scores": bound(self.run(inputs), rows)}

    def _work_on(self, copies: Tensor, block: Block, name: str, work: Work, *settings: Hashable) -> Results:
        """Return the results (n, m, ...) by name of work on the copies (n, m, C, *S) of a block, recorded if it can be.

        Args:
            copies: of the images of the block.
            block: the images and variants of the copies.
            name: of the work.
            work: from the model's arguments for copies, the target and its rows to tensors (n * m, ...) by name.
            settings: what the work depends on beside these and the scorer.
        """
        rows = block.rows
        inputs = self.inputs.with_copies(copies.flatten(0, 1), rows)
        call = None
        if self.graphs is not None and self.graphs.record_on(copies.device):
            call = CopiesCall.of(inputs, self.bound, rows, f"{name} of copies", (self.select, *settings), work)
        results = (
            work(inputs, self.bound, rows) if self.graphs is None or call is None else self.graphs.run(self.model, call)
        )
        return {key: values.unflatten(0, copies.shape[:2]) for key, values in results.items()}

    def run(self, inputs: Inputs, from_start: bool | None = None) -> ModelOutput:
        """Return the scored value for any inputs: the selected part of the output, or the layer's output."""
        layers: Sequence[capture.Layer] = [] if self.layer is None else [self.layer]
        from_start = self.differentiable if from_start is None else from_start
        captured = capture.forward(self.model, inputs.arguments, layers, from_start=from_start)
        return captured.activations[0] if self.layer is not None else select_output(captured.output, self.select)

    def predictions(self, copies: Tensor, block: Block) -> dict[str, Tensor]:
        """Return scores (n, m, [K]) of copies (n, m, C, *S); for classifiers also ``top_class`` and ``probability``."""

        def work(inputs: Inputs, bound: Bound, rows: Tensor) -> Results:
            return self._predictions_of(self.run(inputs), bound, rows)

        return self._work_on(copies, block, "predictions", work)

    def _predictions_of(self, output: ModelOutput, bound: Bound, rows: Tensor) -> Results:
        """Return predictions (M, ...) from the output for copies."""
        predictions = {"scores": bound(output, rows)}
        if isinstance(output, Tensor) and output.dim() == 2 and output.shape[1] > 1 and self.layer is None:
            predictions["top_class"] = output.argmax(1)
            if bound.indices is not None:
                predictions["probability"] = Logit.pick(output.softmax(1), bound.indices, rows)
        return predictions

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

        def read_output(output: Tensor, block: Block) -> Results:
            results = self._predictions_of(output, self.bound, block.rows)
            return {name: values.unflatten(0, block.shape) for name, values in results.items()}

        return incremental.predict_windows(
            run,
            self.images,
            start,
            windows,
            self.scores,
            read_output,
            self.batches,
            engine,
            images or range(len(self.images)),
            is_alike=not self.inputs.per_image(),
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
        differentiable = self.differentiable

        def work(inputs: Inputs, bound: Bound, rows: Tensor) -> Results:
            images = inputs.images
            leaf = images if differentiable and images.requires_grad else images.detach().requires_grad_()
            with torch.inference_mode(False), torch.enable_grad():
                scores = bound(self.run(inputs.replace_images(leaf), True), rows)
                by_kind = input_gradients(scores, leaf, kinds, differentiable)
            return {"scores": scores if differentiable else scores.detach(), **by_kind}

        by_kind = self._work_on(copies, block, "gradients", work, kinds)
        return by_kind.pop("scores"), by_kind

    def for_copies(self, copies: Tensor, block: Block, scores: Tensor) -> "Scorer":
        """Return a scorer with the same targets for copies (n, m, C, *S), whose scores are (n, m, [K])."""
        return replace(
            self,
            inputs=self.inputs.with_copies(copies.flatten(0, 1), block.rows),
            bound=self.bound.for_copies(block.rows),
            scores=scores.flatten(0, 1),
            batches=self.batches.without_progress(),
        )
