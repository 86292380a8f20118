"""Looking inside a network: activations, their statistics, what a filter sees, which images excite it.

>>> seen = fastcam.inspect.survey(model, batches, ["layer3", "layer4"], k=9)
>>> print(seen)  # mean, median, deviation, zeros and dead filters of every layer
>>> seen["layer4"].top.images  # (2048, 9)
>>> fastcam.inspect.receptive_field(model, "layer3", (224, 224)).box(7, 7)
"""

from fastcam.inspect.activations import Activations, StageActivations, activations
from fastcam.inspect.contributions import contributions
from fastcam.inspect.history import ActivationHistory, LayerHistory
from fastcam.inspect.neurons import Excitation, excitations, sheet
from fastcam.inspect.pictures import channel_grid, filters
from fastcam.inspect.receptive_field import ReceptiveField, receptive_field
from fastcam.inspect.recording import Recording, recording
from fastcam.inspect.stages import find_stages
from fastcam.inspect.statistics import ChannelStatistics
from fastcam.inspect.survey import LayerSurvey, Survey, Surveyor, survey
from fastcam.inspect.top import TopActivations

__all__ = [
    "ActivationHistory",
    "Activations",
    "ChannelStatistics",
    "Excitation",
    "LayerHistory",
    "LayerSurvey",
    "ReceptiveField",
    "Recording",
    "StageActivations",
    "Survey",
    "Surveyor",
    "TopActivations",
    "activations",
    "channel_grid",
    "contributions",
    "excitations",
    "filters",
    "find_stages",
    "receptive_field",
    "recording",
    "sheet",
    "survey",
]
