"""The public names of :mod:`fastcam`, which loads this module, and with it torch, when one of them is first used."""

from fastcam import ops, targets
from fastcam._extension import build_info, library_path
from fastcam.artefacts import load
from fastcam.classifiers.load_images import load_images
from fastcam.engine.class_maps import class_maps
from fastcam.engine.occlusion_plan import OcclusionPlan, occlusion_plan
from fastcam.explainer import Explainer
from fastcam.explanation import Explanation
from fastcam.exporting.api import ExportReport, export
from fastcam.inspect.recording import Recording, recording
from fastcam.methods.registry import Method, get_method, list_methods, method
from fastcam.one_call import explain
from fastcam.preparation.prepare import prepare
from fastcam.preparation.prepared import Prepared
from fastcam.ragged import RaggedExplanation
from fastcam.reshape import swin_reshape, vit_reshape
from fastcam.scale import Scale

__all__ = [
    "Explainer",
    "Explanation",
    "ExportReport",
    "Method",
    "OcclusionPlan",
    "Prepared",
    "RaggedExplanation",
    "Recording",
    "Scale",
    "build_info",
    "class_maps",
    "explain",
    "export",
    "get_method",
    "library_path",
    "list_methods",
    "load",
    "load_images",
    "method",
    "occlusion_plan",
    "ops",
    "prepare",
    "recording",
    "swin_reshape",
    "targets",
    "vit_reshape",
]
