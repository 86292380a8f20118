"""The targets of explanations: class indices, scores of every task, any function of the output.

``target=207`` and ``target=None`` mean :class:`Logit`; for anything else pass one of these, or a callable.
"""

from fastcam.targets.anomaly import Distance, LogLikelihood, NearestNeighbours
from fastcam.targets.binding import Logit, PerRow, Score, Target
from fastcam.targets.classification import Binary, Difference, LogProbability, Probability, Regression, Similarity
from fastcam.targets.detections import Detections
from fastcam.targets.reconstruction import Reconstruction
from fastcam.targets.tasks import Anchors, Box, Neuron, Segmentation

__all__ = [
    "Anchors",
    "Binary",
    "Box",
    "Detections",
    "Difference",
    "Distance",
    "LogLikelihood",
    "LogProbability",
    "Logit",
    "NearestNeighbours",
    "Neuron",
    "PerRow",
    "Probability",
    "Reconstruction",
    "Regression",
    "Score",
    "Segmentation",
    "Similarity",
    "Target",
]
