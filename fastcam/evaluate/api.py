"""The function that measures explanations of a batch of images."""

import inspect
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from fastcam import targets
from fastcam.evaluate.answers import Question, Respondent
from fastcam.evaluate.case import Batch, Case
from fastcam.evaluate.objects import Boxes, boxes_of_rows, masks_of_rows
from fastcam.evaluate.registry import Asking, Measure, Outcome, get_measure
from fastcam.evaluate.results import Evaluation, Measured, masked, shaped, wide
from fastcam.evaluate.scores import Scored, explain_copies, scored
from fastcam.explainer import Explainer
from fastcam.explanation import Explanation
from fastcam.model.batching import BatchSize
from fastcam.model.elements import Select
from fastcam.model.inputs import Images
from fastcam.model.progress import Report
from fastcam.ragged import RaggedExplanation

Explanations = Explanation | Mapping[str, Explanation] | Mapping[tuple[str, str], Explanation]
Options = Mapping[str, Mapping[str, Any]]


@torch.inference_mode(False)
@torch.no_grad()
def run(
    explanations: Explanations,
    measures: str | Measure | Sequence[str | Measure],
    model: nn.Module | None = None,
    images: Images | None = None,
    *,
    target: targets.Target = None,
    explainer: "Explainer[Any] | None" = None,
    masks: Tensor | None = None,
    boxes: Boxes | None = None,
    ignored: Tensor | None = None,
    options: Options | None = None,
    select: Select = None,
    shared: int | str | Sequence[int | str] = (),
    explain_input: int | str | None = None,
    channel_axis: int | None = None,
    batch_size: BatchSize = "auto",
    progress: bool | Report = False,
) -> Evaluation:
    """Measure the explanations of a batch of images, all measures and methods together.

    Copies of the images that several measures or methods need are scored once; the model is left as it was. The values
    of one image depend neither on the other images nor on the batch size, beyond the rounding of the model.

    Args:
        explanations: what :func:`fastcam.explain` returns, for one method or several, all of the same images.
        measures: names, see :func:`fastcam.evaluate.list_measures`, or measures of your own.
        model: the model, for measures that need "scores"; None takes the explainer's.
        images: what was explained; None takes the images of the explanation, for models with one argument.
        target: what was explained, where it is no class: the same function or score.
        explainer: makes the explanations of copies, for measures that need it; of the same methods and layers.
        masks: (N, *S) bool, or (N, K, *S) with one for each target, the objects.
        boxes: for every image a tensor (M, 4) of left, top, right, bottom in pixels of the images, the end exclusive;
            or a list of such tensors, one for each target.
            Either of masks and boxes serves measures that need the other: a filled box, and the box around a mask.
        ignored: (N, *S) bool, or (N, K, *S) with one for each target: positions neither of objects nor of background.
        options: options of the measures, by name.
        select: the part of the output that is scored, as for :class:`fastcam.Explainer`.
        shared: as for :class:`fastcam.Explainer`.
        explain_input: as for :class:`fastcam.Explainer`.
        channel_axis: as for :class:`fastcam.Explainer`.
        batch_size: copies at a time; "auto" takes less where memory runs out.
        progress: shows a bar, or is called with (done, total).

    Returns:
        The results by (key, measure): the key is the method's name, or that of the mapping of explanations.

    Raises:
        TypeError, ValueError: for arguments that do not fit; the message says what is needed.
    """
    named = [get_measure(each) for each in ([measures] if isinstance(measures, str | Measure) else measures)]
    given = _checked_options(named, options or {})
    by_key = _by_key(explanations)
    first = next(iter(by_key.values()))
    model = model or (None if explainer is None else explainer.model)
    needs = {need for each in named for need in each.needs}
    asked: Scored | None = None
    if needs & {"scores", "explainer"}:
        asked = scored(
            _needed(model, named),
            first.images if images is None else images,
            first,
            target,
            select=select,
            shared=(shared,) if isinstance(shared, int | str) else tuple(shared),
            explain_input=explain_input,
            channel_axis=channel_axis,
            batch_size=batch_size,
            progress=progress,
        )
    rows = _rows(first)
    batch = Batch(
        images=first.images if asked is None else asked.scorer.images,
        rows=rows,
        scores={} if asked is None else asked.by_kind(),
        masks=masks_of_rows(masks, boxes, first) if needs & {"masks", "boxes"} else None,
        ignored=masks_of_rows(ignored, None, first) if ignored is not None else None,
        boxes=boxes_of_rows(masks, boxes, first) if "boxes" in needs else None,
    )
    cases = {key: case_of(explanation, batch) for key, explanation in by_key.items()}
    respondent = Respondent(
        scorer=None if asked is None else asked.scorer,
        kinds=() if asked is None else asked.kinds,
        columns=None if first.scores.dim() == 1 else torch.arange(len(rows)) % first.scores.shape[1],
        batch=batch,
        cases=cases,
        explain=None if explainer is None or asked is None else explain_copies(explainer, asked, first, target, rows),
    )
    outcomes = _outcomes(cases, named, given, respondent)
    results = {
        (key, each.name): _measured(by_key[key], cases[key], each, given.get(each.name, {}), *outcomes[key, each.name])
        for key in by_key
        for each in named
    }
    return Evaluation(results, respondent.passes)


def _checked_options(measures: Sequence[Measure], options: Options) -> dict[str, dict[str, Any]]:
    """Return the options of the measures.

    Raises:
        TypeError, ValueError: for those of another measure, or that a measure does not have.
    """
    given = {name: dict(values) for name, values in options.items()}
    for name in given.keys() - {each.name for each in measures}:
        raise ValueError(f"`options` names the measure {name!r}, which is not measured")
    for each in measures:
        each.check_options(given.get(each.name, {}))
    return given


def _needed(model: nn.Module | None, measures: Sequence[Measure]) -> nn.Module:
    """Return the model.

    Raises:
        ValueError: if there is none.
    """
    if model is not None:
        return model
    names = ", ".join(each.name for each in measures if {"scores", "explainer"} & set(each.needs))
    raise ValueError(f"{names} changes the images and asks the model: pass `model`")


def case_of(explanation: Explanation, batch: Batch) -> Case:
    """Return what measures see of an explanation, with a row for every image and target."""

    def by_row(values: Tensor) -> Tensor:
        return wide(values.detach().flatten(0, explanation.scores.dim() - 1))

    raw = by_row(explanation.raw)
    is_valid = raw.isfinite().flatten(1).all(1)
    attributions = explanation.attributions
    return Case(
        batch,
        by_row(explanation.maps).nan_to_num(0, 0, 0),
        raw.nan_to_num(0, 0, 0),
        is_valid,
        None if attributions is None else by_row(attributions).nan_to_num(0, 0, 0),
    )


def _by_key(explanations: Explanations) -> dict[Hashable, Explanation]:
    if isinstance(explanations, Explanation):
        by_key: dict[Hashable, Explanation] = {explanations.method: explanations}
    elif isinstance(explanations, Mapping):
        by_key = dict(cast("Mapping[Hashable, Explanation]", explanations))
    else:
        raise TypeError(f"`explanations` must be what fastcam.explain returns, got {type(explanations).__name__}")
    if not by_key or not all(isinstance(each, Explanation) for each in by_key.values()):
        raise TypeError("`explanations` must hold at least one explanation, and nothing else")
    shapes = {(tuple(each.scores.shape), tuple(each.images.shape)) for each in by_key.values()}
    if len(shapes) > 1:
        raise ValueError(f"the explanations must be of the same images and targets, got those of {sorted(shapes)}")
    if any(isinstance(each, RaggedExplanation) for each in by_key.values()):
        raise ValueError("images of several sizes are measured one by one: pass each of `explanation.parts`")
    return by_key


def _rows(explanation: Explanation) -> Tensor:
    """Return (R,), the image of every map."""
    each = 1 if explanation.scores.dim() == 1 else explanation.scores.shape[1]
    return torch.arange(len(explanation)).repeat_interleave(each)


def _outcomes(
    cases: Mapping[Hashable, Case], measures: Sequence[Measure], options: Options, respondent: Respondent
) -> dict[tuple[Hashable, str], tuple[Outcome, int]]:
    """Return what every measure returns for every case, and its passes."""
    outcomes: dict[tuple[Hashable, str], tuple[Outcome, int]] = {}
    questions: dict[tuple[Hashable, str], Question] = {}
    for key, case in cases.items():
        for each in measures:
            if "attributions" in each.needs and case.attributions is None:
                raise ValueError(f"{each.name} needs signed attributions of the input, which {key} does not have")
            begun = each.rule(case, **options.get(each.name, {}))
            if inspect.isgenerator(begun):
                questions[key, each.name] = Question(key, cast("Asking", begun), each.score or "probability")
            else:
                outcomes[key, each.name] = cast("Outcome", begun), 0
    respondent.answer(list(questions.values()))
    for place, question in questions.items():
        outcomes[place] = cast("Outcome", question.outcome), question.passes
    return outcomes


def _measured(
    explanation: Explanation, case: Case, measure: Measure, options: Mapping[str, Any], outcome: Outcome, passes: int
) -> Measured:
    values, details = outcome if isinstance(outcome, tuple) else (outcome, {})
    is_single = explanation.scores.dim() == 1

    def by_target(each: Tensor) -> Tensor:
        return shaped(masked(each, case.is_valid), len(explanation), is_single)

    return Measured(
        measure,
        explanation.method,
        explanation.layer,
        by_target(values),
        {name: by_target(each) for name, each in details.items()},
        {**measure.options, **options},
        passes,
    )
