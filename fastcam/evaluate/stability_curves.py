"""Stability: how the prediction and the map change when the photograph does a little."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fastcam import targets
from fastcam.evaluate.api import run
from fastcam.evaluate.case import Case
from fastcam.evaluate.perturbations import Colours, Levels, Perturbed, list_levels, perturbed
from fastcam.evaluate.plots import by_level
from fastcam.evaluate.registry import Asking, measure
from fastcam.evaluate.requests import Explained, Explanations, Request, Scores
from fastcam.evaluate.similarity import rank_correlation
from fastcam.explainer import Explainer
from fastcam.explanation import Explanation
from fastcam.methods.registry import Method

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@measure(
    "map_stability",
    needs=("explainer",),
    formula="mean over perturbations p that leave the highest class of Spearman's correlation of map(p(x)) and map(x)",
    paper="none",
)
def map_stability(
    case: Case, *, levels: Levels | None = None, mean: Colours = (0.0,), std: Colours = (1.0,), seed: int = 0
) -> Asking:
    """How alike the map stays where the photograph changes a little and the prediction does not.

    Args:
        case: the maps.
        levels: of the perturbations by name; None takes all of them: "noise" (standard deviation of pixels in [0, 1]),
            "jpeg" (quality), "blur" (standard deviation in pixels), "brightness" (factor).
        mean: that was subtracted from pixels in [0, 1], per channel.
        std: by which they were divided.
        seed: of the noise.

    Returns:
        The means, and of every perturbation "similarity" (R, P), NaN where a map shows nothing, and "flipped" (R, P), 1
        where the highest class is another.
    """
    copies = perturbed(case.batch.images, levels, mean, std, seed)
    flipped = yield from _flipped(case, copies)

    def compare(explained: Explained, rows: slice) -> Tensor:
        return rank_correlation(case.raw[rows], explained.raw).to(case.raw)

    similarity = yield Explanations(copies, compare)
    return similarity.masked_fill(flipped > 0, torch.nan).nanmean(1), {"similarity": similarity, "flipped": flipped}


@measure(
    "prediction_stability",
    needs=("scores",),
    formula="share of the perturbations p for which the highest class of p(x) is that of x",
    score="predicted",
    paper="none",
)
def prediction_stability(
    case: Case, *, levels: Levels | None = None, mean: Colours = (0.0,), std: Colours = (1.0,), seed: int = 0
) -> Asking:
    """How often the prediction stays where the photograph changes a little.

    The arguments are those of ``map_stability``.

    Returns:
        The shares, and "flipped" (R, P), 1 where the highest class is another.
    """
    flipped = yield from _flipped(case, perturbed(case.batch.images, levels, mean, std, seed))
    return 1 - flipped.mean(1), {"flipped": flipped}


def _flipped(case: Case, copies: list[Perturbed]) -> Generator[Request, Tensor, Tensor]:
    """Ask for the highest classes of the copies; return 1 where they are others than the image's, (R, P)."""
    clean = case.batch.scores["predicted"]
    if clean.isnan().any():
        raise ValueError("stability needs an output (N, classes), which has a highest class")
    highest = yield Scores(copies, "predicted")
    return (highest != clean[:, None]).to(case.raw)


@dataclass(frozen=True, eq=False)
class Stability:
    """What perturbations of the images do.

    Attributes:
        method: name of the method.
        levels: (perturbation, level) of each of P perturbations.
        flipped: (P, N) bool, where the highest class is another.
        similarity: (P, N), the rank correlation with the map of the unchanged image; NaN where a map shows nothing.
    """

    method: str
    levels: list[tuple[str, float]]
    flipped: Tensor
    similarity: Tensor

    def rows(self) -> Iterator[dict[str, float | str]]:
        """Yield for every perturbation how often the prediction changes, and how alike maps are where it does not."""
        for (name, level), flipped, similarity in zip(self.levels, self.flipped, self.similarity, strict=True):
            yield {
                "perturbation": name,
                "level": level,
                "flipped": flipped.float().mean().item(),
                "similarity": similarity[~flipped].nanmean().item(),
            }

    def __str__(self) -> str:
        """A table, a line for every perturbation."""
        lines = [f"{'perturbation':16}{'level':>8}{'predictions changed':>22}{'rank correlation of maps':>27}"]
        lines += [
            f"{row['perturbation']:16}{row['level']:8g}{row['flipped']:22.1%}{row['similarity']:27.3f}"
            for row in self.rows()
        ]
        return "\n".join(lines)

    def plot(self) -> "Figure":
        """Return a matplotlib figure: a panel for every kind of perturbation, both curves over its levels.

        Raises:
            ImportError: without matplotlib.
        """
        rows = list(self.rows())
        labels = {"rank correlation of maps": "similarity", "predictions changed": "flipped"}
        curves = {label: [float(row[key]) for row in rows] for label, key in labels.items()}
        return by_level(self.levels, curves)


def stability(
    model: nn.Module,
    images: Tensor,
    method: str | Method = "grad_cam",
    target: targets.Target = None,
    *,
    mean: Colours = (0.0,),
    std: Colours = (1.0,),
    levels: Levels | None = None,
    seed: int = 0,
    **options: Any,
) -> Stability:
    """Perturb images and compare predictions and maps with those of the unchanged ones, which fix the class.

    Args:
        model: a classifier, from (N, C, H, W) to (N, classes).
        images: (N, C, H, W), its input.
        method: a method.
        target: as for :func:`fastcam.explain`.
        mean: that was subtracted from pixels in [0, 1], per channel.
        std: by which they were divided.
        levels: of the perturbations by name; None takes all of them: "noise" (standard deviation of pixels in [0, 1]),
            "jpeg" (quality), "blur" (standard deviation in pixels), "brightness" (factor).
        seed: of the noise.
        options: of :class:`fastcam.Explainer`.

    Raises:
        TypeError, ValueError: for images that are no pixels in [0, 1] before ``mean`` and ``std``, an unknown
            perturbation, or a model without classes.
        ImportError: without SciPy and scikit-image.
    """
    places = list_levels(levels)
    explainer: Explainer[Any] = Explainer(model, method, **options)
    explanation = explainer(images, target)
    if not isinstance(explanation, Explanation) or explanation.scores.dim() != 1:
        raise ValueError("stability is measured for one method, of one target an image")
    measured = run(
        explanation,
        "map_stability",
        explainer=explainer,
        target=target if explanation.targets is None else None,
        options={"map_stability": {"levels": levels, "mean": mean, "std": std, "seed": seed}},
    )[explanation.method, "map_stability"]
    return Stability(
        explanation.method,
        places,
        measured.details["flipped"].T > 0,
        measured.details["similarity"].T,
    )
