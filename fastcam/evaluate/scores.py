"""The model as measures see it: scores, and explanations, of copies of the images."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from torch import Tensor, nn

from fastcam import targets
from fastcam.devices import all_rows, take_rows
from fastcam.engine import image_groups, per_image
from fastcam.engine.notes import Notes
from fastcam.engine.scorer import Scorer
from fastcam.evaluate.requests import ScoreKind
from fastcam.evaluate.results import wide
from fastcam.explainer import Explainer
from fastcam.explanation import Explanation
from fastcam.model import layers
from fastcam.model.batching import Batches, BatchSize, Block
from fastcam.model.elements import ModelOutput, Select
from fastcam.model.inputs import Images, Inputs, in_fast_layout
from fastcam.model.progress import ProgressReporter, Report
from fastcam.preparation.prepared import Prepared
from fastcam.targets.binding import Bound, bind, select_output
from fastcam.targets.one_row import has_one_row
from fastcam.targets.output_part import implied

Kinds = tuple[ScoreKind, ...]
KINDS: Kinds = get_args(ScoreKind)


@dataclass(frozen=True)
class Scored:
    """The images and their scores.

    Attributes:
        scorer: scores copies of them, (M, [K,] kinds).
        kinds: "probability", "explained" and "predicted", the highest class.
        scores: (N, [K,] kinds) of the images.
    """

    scorer: Scorer
    kinds: Kinds
    scores: Tensor

    def by_kind(self) -> dict[str, Tensor]:
        """Return the scores (R,) of every image and target, by kind."""
        flat = wide(self.scores.flatten(0, -2))
        return dict(zip(self.kinds, flat.unbind(-1), strict=True))


def scored(
    model: nn.Module,
    images: Images,
    explanation: Explanation,
    target: targets.Target,
    *,
    select: Select,
    shared: Sequence[int | str],
    explain_input: int | str | None,
    channel_axis: int | None,
    batch_size: BatchSize,
    progress: bool | Report,
) -> Scored:
    """Score the images; the arguments are those of :func:`fastcam.evaluate.run`."""
    inputs = Inputs.of(images, model, explain_input, shared, channel_axis)
    if inputs.images.shape != explanation.images.shape:
        raise ValueError(
            f"`images` must be those that were explained, {tuple(explanation.images.shape)}, "
            f"got {tuple(inputs.images.shape)}"
        )
    inputs = per_image.checked(model, inputs, select, Notes(False))
    start = model.batch_size if isinstance(model, Prepared) else None
    if start is None and inputs.images.device.type == "cpu":
        start = image_groups.usual_size(inputs.images)
    batches = Batches(batch_size, inputs.images.device, ProgressReporter(progress, "evaluating"), start)

    def run(fast: Inputs) -> Scored:
        return _scored(model, fast, explanation, target, select, batches)

    with torch.no_grad():
        return in_fast_layout(run, inputs)


def _scored(
    model: nn.Module, inputs: Inputs, explanation: Explanation, target: targets.Target, select: Select, batches: Batches
) -> Scored:
    name = target.layer if isinstance(target, targets.Score) else None
    layer = None if name is None else layers.get_layer(model, name)
    count = len(inputs)
    probe = Scorer(model, inputs, Bound(lambda output, rows: output), inputs.images.new_empty(0), batches, None, layer)
    output = _whole_output(probe)
    select = None if layer else implied(output, select, target)
    output = select_output(output, select)
    if has_one_row(output, target, count):
        raise ValueError(
            f"the model's output has one row for all {count} images, so that they are frames of one input; wrap the "
            "model to take inputs (N, T, C, H, W)"
        )
    bound = _bound(output, explanation, target, count)
    scores = bound(output, all_rows(count)).detach()
    expected = (*explanation.scores.shape, len(KINDS))
    if tuple(scores.shape) != expected:
        raise ValueError(
            f"the target gives scores {tuple(scores.shape[:-1])}, but the explanation has {expected[:-1]} of them"
        )
    return Scored(replace(probe, bound=bound, select=select, scores=scores), KINDS, scores)


def _whole_output(scorer: Scorer) -> ModelOutput:
    """Return the output for all images, in blocks where it is a tensor that can be joined."""
    if isinstance(scorer.images, Tensor) and len(scorer.images) <= scorer.batches.limit:
        return scorer.run(scorer.inputs, from_start=False)

    def part(block: Block) -> ModelOutput:
        rows = torch.arange(block.images.start, block.images.stop)
        return scorer.run(scorer.inputs.with_copies(take_rows(scorer.images, rows), rows), from_start=False)

    parts = [output for _, output in scorer.batches.each(len(scorer.images), 1, part)]
    if all(isinstance(output, Tensor) and output.dim() > 0 for output in parts):
        return torch.cat(parts)
    return scorer.run(scorer.inputs, from_start=False)


def _bound(output: ModelOutput, explanation: Explanation, target: targets.Target, count: int) -> Bound:
    """Return the function from outputs to scores (M, [K,] kinds)."""
    if target is None:
        if explanation.targets is None:
            raise ValueError("the explanation is of no class, but of a function or score: pass it as `target`")
        classes = explanation.targets.clamp(min=0)  # the map of an unknown class is NaN, and so are its values
        explained = bind(output, targets.Logit(classes), count)
        is_one = isinstance(output, Tensor) and (output.dim() == 1 or output.shape[1] == 1)
        # A single output is the logit of the positive class.
        rule = targets.Binary(probability=True) if is_one else targets.Probability(classes)
        probability = bind(output, rule, count)
    else:
        probability = explained = bind(output, target, count)

    def each(outputs: ModelOutput, rows: Tensor) -> Tensor:
        first = probability(outputs, rows)
        second = wide(first if probability is explained else explained(outputs, rows))
        highest = _highest_class(outputs, len(second)).to(second)
        axes = [1] * (second.dim() - 1)
        return torch.stack([first.reshape(second.shape), second, highest.reshape(-1, *axes).expand_as(second)], -1)

    return Bound(each)


def _highest_class(outputs: ModelOutput, count: int) -> Tensor:
    """Return the highest class (M,) of outputs (M, classes), and NaN for others."""
    if not isinstance(outputs, Tensor) or outputs.dim() not in (1, 2):
        return torch.full((count,), torch.nan)
    scores = outputs if outputs.dim() == 2 else outputs[:, None]
    return scores.argmax(1) if scores.shape[1] > 1 else (scores[:, 0] > 0).long()


def explain_copies(
    explainer: "Explainer[Any]", asked: Scored, explanation: Explanation, target: targets.Target, rows: Tensor
) -> Callable[[Tensor, Tensor], Mapping[Hashable, Explanation]]:
    """Return the function that explains copies of the images, each for the class of its row.

    It takes copies (M, C, *S) and the row of each, (M,), and returns their explanations by key.

    Raises:
        ValueError: for a target with data of its own for each image.
    """
    is_score = isinstance(target, targets.Score) and not isinstance(target, targets.PerRow)
    if target is not None and not is_score and (isinstance(target, targets.PerRow) or not callable(target)):
        raise ValueError("copies are explained for classes, scores or one function of the output, not for lists")

    def explain(copies: Tensor, of_rows: Tensor) -> Mapping[Hashable, Explanation]:
        inputs = asked.scorer.inputs.with_copies(copies, rows[of_rows])
        chosen = target
        if chosen is None and explanation.targets is not None:
            chosen = take_rows(explanation.targets.flatten().clamp(min=0), of_rows)
        result = explainer(inputs.as_given, chosen)
        return {result.method: result} if isinstance(result, Explanation) else result

    return explain
