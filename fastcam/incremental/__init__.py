"""Occlusion of an image by many windows, recomputing only the part of every feature map that a window changes."""

from fastcam.incremental.runner import NotIncrementalError
from fastcam.incremental.scores import MIN_GAIN, Engine, check_engine, predict_windows
from fastcam.incremental.sweep import Sweep

__all__ = ["MIN_GAIN", "Engine", "NotIncrementalError", "Sweep", "check_engine", "predict_windows"]
