"""segmentation_models_pytorch, and the detectors of ultralytics, which is AGPL and never installed by the tests."""

from functools import partial

import torch

from fastcam import targets
from tests.zoo.case import Built, Case
from tests.zoo.torchvision_cases import for_segmentation

SEGMENTERS = ("Unet", "FPN", "DeepLabV3Plus", "Segformer")
DETECTORS = ("yolov8n", "yolo11n")
FIRST_CLASS = 4  # behind the coordinates of the box


def segmenter(name: str, size: int | None) -> Built:
    """Build a segmenter with the encoder of resnet34."""
    import segmentation_models_pytorch as smp

    return for_segmentation(getattr(smp, name)("resnet34", encoder_weights=None, classes=3).eval(), size)


def detector(name: str, size: int | None) -> Built:
    """Build a detector from its description; one class over all candidate boxes is explained."""
    from ultralytics.nn.tasks import DetectionModel

    model = DetectionModel(f"{name}.yaml", verbose=False)
    return Built(model, torch.rand(1, 3, size or 128, size or 128), targets.Anchors(FIRST_CLASS + 7, axis=1))


def cases() -> list[Case]:
    """Return all cases."""
    return [
        *(Case(f"segmentation_models_pytorch/{name}", partial(segmenter, name)) for name in SEGMENTERS),
        *(Case(f"ultralytics/{name}", partial(detector, name)) for name in DETECTORS),
    ]
