"""A sweep of windows over an image that computes only what each window can change."""

from fastcam.incremental.scores import LEAST_GAIN, Engine, check_engine, predicted
from fastcam.incremental.sweep import NotIncrementalError, Sweep

__all__ = ["LEAST_GAIN", "Engine", "NotIncrementalError", "Sweep", "check_engine", "predicted"]
