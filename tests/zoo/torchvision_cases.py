"""torchvision's classifiers, one per family, its segmenters, detectors and video models."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastcam import targets
from tests.zoo.case import Built, Case, most_frequent_class, without_zeros

CLASSIFIERS = (
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3"),
    *("maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnet18"),
    *("resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vgg11_bn"),
    *("vit_b_32", "wide_resnet50_2"),
)
SEGMENTERS = ("fcn_resnet50", "deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large")
DETECTORS = (
    *("fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2", "fasterrcnn_mobilenet_v3_large_fpn"),
    *("fasterrcnn_mobilenet_v3_large_320_fpn", "maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2"),
    *("keypointrcnn_resnet50_fpn", "retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2", "fcos_resnet50_fpn"),
    *("ssd300_vgg16", "ssdlite320_mobilenet_v3_large"),
)
FRAMES_AND_SIDES = {  # of video models; MViT and S3D take no other size
    "r3d_18": (8, 112),
    "mc3_18": (8, 112),
    "r2plus1d_18": (8, 112),
    "s3d": (16, 224),
    "mvit_v1_b": (16, 224),
    "mvit_v2_s": (16, 224),
    "swin3d_t": (8, 112),
}


def classifier(name: str, size: int | None) -> Built:
    """Build a classifier."""
    from torchvision import models

    options: dict[str, Any] = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    if size and name in ("vit_b_32", "maxvit_t"):
        options |= {"image_size": size} if name == "vit_b_32" else {"input_size": (size, size)}
    side = size or (299 if name == "inception_v3" else 224)
    return Built(getattr(models, name)(**options), torch.randn(1, 3, side, side))


def segmenter(name: str, size: int | None) -> Built:
    """Build a segmenter; the class that is highest at most positions is explained."""
    from torchvision.models import segmentation

    model = getattr(segmentation, name)(weights=None, weights_backbone=None).eval()
    return for_segmentation(model, size)


def for_segmentation(model: nn.Module, size: int | None) -> Built:
    """Return a segmenter of images, whose logits are its output or a part of it called "out"."""
    images = torch.rand(1, 3, size or 128, size or 128)
    with torch.no_grad():
        output = without_zeros(model)(images)
    logits: Tensor = output if isinstance(output, Tensor) else output["out"]
    return Built(model, images, targets.Segmentation(most_frequent_class(logits)))


def detector(name: str, size: int | None) -> Built:
    """Build a detector; its first detection is explained."""
    from torchvision.models import detection

    side = size or 128
    threshold = "box_score_thresh" if "rcnn" in name else "score_thresh"
    options: dict[str, Any] = {threshold: 0.0, "weights": None, "weights_backbone": None}
    if "ssd" not in name:  # their sizes are fixed
        options |= {"min_size": side, "max_size": side}
    if "rcnn" in name:
        options["rpn_post_nms_top_n_test"] = 100  # of 1000 boxes: their heads would take most of the time
    if "keypoint" in name:  # torchvision resizes the 17 maps of each detection to its box, one after the other
        options["box_detections_per_img"] = 2
    model = getattr(detection, name)(**options).eval()
    images = torch.rand(1, 3, side, side)
    with torch.no_grad():
        found = without_zeros(model)(images)[0]
    if not len(found["boxes"]):
        raise RuntimeError("with these random weights it detects nothing")
    return Built(model, images, targets.Box(int(found["labels"][0]), found["boxes"][0]))


def video(name: str, size: int | None) -> Built:
    """Build a classifier of videos."""
    from torchvision.models import video as models

    frames, side = FRAMES_AND_SIDES[name]
    return Built(getattr(models, name)(), torch.randn(1, 3, frames, size or side, size or side))


def cases() -> list[Case]:
    """Return all cases."""
    kinds = ((classifier, CLASSIFIERS), (segmenter, SEGMENTERS), (detector, DETECTORS), (video, FRAMES_AND_SIDES))
    return [Case(f"torchvision/{name}", partial(build, name)) for build, names in kinds for name in names]
