"""Drawing of maps: over pictures, under signals, through volumes and videos."""

from fastcam.pictures.drawing import Drawing as Drawing
