"""What to explain: class indices, scores of every task, any function of the output.

``target=207`` and ``target=None`` mean :class:`Logit`; for anything else pass one of these, or a callable.
"""

from fastcam.targets.binding import (
    Bound,
    Logit,
    Score,
    Scores,
    Target,
    bind,
    bind_if_any,
    score,
    select_output,
)
from fastcam.targets.classification import Binary, Difference, LogProbability, Probability, Regression, Similarity
from fastcam.targets.tasks import Anchors, Box, Neuron, Segmentation

__all__ = [
    "Anchors",
    "Binary",
    "Bound",
    "Box",
    "Difference",
    "LogProbability",
    "Logit",
    "Neuron",
    "Probability",
    "Regression",
    "Score",
    "Scores",
    "Segmentation",
    "Similarity",
    "Target",
    "bind",
    "bind_if_any",
    "score",
    "select_output",
]
