"""Does a map tell the truth: measures of localisation, faithfulness, robustness and concentration, batch by batch.

>>> explanations = fastcam.explain(model, images, ["grad_cam", "layer_cam"], target=classes)
>>> evaluation = fastcam.evaluate.run(explanations, ["insertion", "deletion"], model)
>>> print(evaluation)  # means with confidence intervals
>>> fastcam.evaluate.insertion(model, images, explanations["grad_cam"])  # (N,)

Every measure is a small function with a formula, in a registry like that of the methods.
"""

from fastcam.evaluate.annotations.anomaly_folder import AnomalyFolder, AnomalyImage
from fastcam.evaluate.anomalies import auroc, per_region_overlap
from fastcam.evaluate.api import run
from fastcam.evaluate.calls import (
    adcc,
    average_drop,
    average_gain,
    box_iou,
    coherency,
    completeness_gap,
    complexity,
    comprehensiveness,
    deletion,
    energy_pointing_game,
    faithfulness_correlation,
    increase_in_confidence,
    infidelity,
    insertion,
    local_lipschitz,
    localisation_accuracy,
    map_stability,
    mask_iou,
    max_box_accuracy,
    max_sensitivity,
    mean_intensity,
    pixel_average_precision,
    pixel_flipping,
    pointing_game,
    prediction_stability,
    rank_accuracy,
    road,
    sparseness,
    sufficiency,
)
from fastcam.evaluate.random_weights import Randomisation, plot_randomisations, randomisation
from fastcam.evaluate.registry import Measure, get_measure, list_measures, measure
from fastcam.evaluate.results import Evaluation, Measured
from fastcam.evaluate.seeds import SeedScore, write_seeds
from fastcam.evaluate.seeds import seeds as segmentation_seeds
from fastcam.evaluate.stability_curves import Stability, stability

__all__ = [
    "AnomalyFolder",
    "AnomalyImage",
    "Evaluation",
    "Measure",
    "Measured",
    "Randomisation",
    "SeedScore",
    "Stability",
    "adcc",
    "auroc",
    "average_drop",
    "average_gain",
    "box_iou",
    "coherency",
    "completeness_gap",
    "complexity",
    "comprehensiveness",
    "deletion",
    "energy_pointing_game",
    "faithfulness_correlation",
    "get_measure",
    "increase_in_confidence",
    "infidelity",
    "insertion",
    "list_measures",
    "local_lipschitz",
    "localisation_accuracy",
    "map_stability",
    "mask_iou",
    "max_box_accuracy",
    "max_sensitivity",
    "mean_intensity",
    "measure",
    "per_region_overlap",
    "pixel_average_precision",
    "pixel_flipping",
    "plot_randomisations",
    "pointing_game",
    "prediction_stability",
    "randomisation",
    "rank_accuracy",
    "road",
    "run",
    "segmentation_seeds",
    "sparseness",
    "stability",
    "sufficiency",
    "write_seeds",
]
