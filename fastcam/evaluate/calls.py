"""Every measure as a function of its own, ``fastcam.evaluate.insertion(model, images, explanation)`` for example."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from fastcam import targets
from fastcam.evaluate import (  # noqa: F401 - register the measures
    concentration,
    curves,
    faithfulness,
    faithfulness_regions,
    localisation,
    robustness,
    stability_curves,
)
from fastcam.evaluate.api import run
from fastcam.evaluate.registry import Measure, get_measure
from fastcam.explainer import Explainer
from fastcam.explanation import Explanation
from fastcam.model.batching import BatchSize
from fastcam.model.inputs import Images


class OfMap(Protocol):
    """A measure that needs no model."""

    def __call__(
        self,
        explanation: Explanation,
        *,
        masks: Tensor | None = None,
        boxes: Sequence[Tensor] | None = None,
        ignored: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """Return (N,) or (N, K), NaN where there is no value.

        Args:
            explanation: the maps.
            masks: (N, *S) bool, the objects, for measures that compare with them.
            boxes: the same as boxes, for every image (M, 4); see :func:`fastcam.evaluate.run`.
            ignored: (N, *S) bool, positions that are neither object nor background.
            options: of the measure.
        """


class OfModel(Protocol):
    """A measure that needs scores of changed images."""

    def __call__(
        self,
        model: nn.Module,
        images: Images,
        explanation: Explanation,
        *,
        target: targets.Target = None,
        batch_size: BatchSize = "auto",
        **options: Any,
    ) -> Tensor:
        """Return (N,) or (N, K), NaN where there is no value.

        Args:
            model: the model.
            images: what was explained.
            explanation: the maps.
            target: what was explained, where it is no class.
            batch_size: copies at a time.
            options: of the measure.
        """


class OfExplainer(Protocol):
    """A measure that needs explanations of changed images."""

    def __call__(
        self,
        explainer: "Explainer[Any]",
        images: Images,
        explanation: Explanation,
        *,
        target: targets.Target = None,
        batch_size: BatchSize = "auto",
        **options: Any,
    ) -> Tensor:
        """Return (N,) or (N, K), NaN where there is no value.

        Args:
            explainer: with the method that made the explanation.
            images: what was explained.
            explanation: the maps.
            target: what was explained, where it is no class.
            batch_size: copies at a time.
            options: of the measure.
        """


def _of_map(name: str) -> OfMap:
    def call(explanation: Explanation, **arguments: Any) -> Tensor:
        places = {key: arguments.pop(key, None) for key in ("masks", "boxes", "ignored")}
        return _only(run(explanation, name, options={name: arguments}, **places))

    return _described(call, get_measure(name))


def _of_model(name: str) -> OfModel:
    def call(model: nn.Module, images: Images, explanation: Explanation, **arguments: Any) -> Tensor:
        settings = {"target": arguments.pop("target", None), "batch_size": arguments.pop("batch_size", "auto")}
        return _only(run(explanation, name, model, images, options={name: arguments}, **settings))

    return _described(call, get_measure(name))


def _of_explainer(name: str) -> OfExplainer:
    def call(explainer: "Explainer[Any]", images: Images, explanation: Explanation, **arguments: Any) -> Tensor:
        settings = {"target": arguments.pop("target", None), "batch_size": arguments.pop("batch_size", "auto")}
        return _only(run(explanation, name, images=images, explainer=explainer, options={name: arguments}, **settings))

    return _described(call, get_measure(name))


def _only(evaluation: Any) -> Tensor:
    return next(iter(evaluation.values())).values


def _described(call: Any, measure: Measure) -> Any:
    """Give a function the measure's name, and say what it does: summary, formula, options, source."""
    options = ", ".join(f"{name}={default!r}" for name, default in measure.options.items()) or "none"
    call.__name__ = call.__qualname__ = measure.name
    call.__doc__ = f"{measure.summary}\n\n{measure.formula}\n\nOptions: {options}. Source: {measure.paper}."
    return call


sparseness = _of_map("sparseness")
complexity = _of_map("complexity")
mean_intensity = _of_map("mean_intensity")
pointing_game = _of_map("pointing_game")
energy_pointing_game = _of_map("energy_pointing_game")
rank_accuracy = _of_map("rank_accuracy")
mask_iou = _of_map("mask_iou")
box_iou = _of_map("box_iou")
localisation_accuracy = _of_map("localisation_accuracy")
max_box_accuracy = _of_map("max_box_accuracy")
pixel_average_precision = _of_map("pixel_average_precision")
deletion = _of_model("deletion")
insertion = _of_model("insertion")
pixel_flipping = _of_model("pixel_flipping")
road = _of_model("road")
average_drop = _of_model("average_drop")
increase_in_confidence = _of_model("increase_in_confidence")
average_gain = _of_model("average_gain")
sufficiency = _of_model("sufficiency")
comprehensiveness = _of_model("comprehensiveness")
infidelity = _of_model("infidelity")
faithfulness_correlation = _of_model("faithfulness_correlation")
completeness_gap = _of_model("completeness_gap")
max_sensitivity = _of_explainer("max_sensitivity")
local_lipschitz = _of_explainer("local_lipschitz")
coherency = _of_explainer("coherency")
adcc = _of_explainer("adcc")
map_stability = _of_explainer("map_stability")
prediction_stability = _of_model("prediction_stability")
