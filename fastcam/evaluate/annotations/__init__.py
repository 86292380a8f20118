"""Objects in images, read from the forms that datasets have: VOC and ILSVRC XML, COCO JSON, tables of boxes, masks."""

from fastcam.evaluate.annotations.regions import Annotation, Region
from fastcam.evaluate.annotations.resolve import Annotations, open_annotations

__all__ = ["Annotation", "Annotations", "Region", "open_annotations"]
