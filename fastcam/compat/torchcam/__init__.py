"""The interface of torch-cam 0.5 over this engine.

>>> from fastcam.compat.torchcam.methods import LayerCAM
>>> with LayerCAM(model, "layer3") as cam_extractor:
...     scores = model(input_tensor)
...     maps = cam_extractor(scores[0].argmax().item(), scores)
"""

from importlib.metadata import version

from fastcam.compat.torchcam import explain, methods, metrics, utils
from fastcam.compat.torchcam.differences import DIFFERENCES

__all__ = ["DIFFERENCES", "__version__", "explain", "methods", "metrics", "utils", "version"]

__version__ = "0.5.0"  # the torch-cam release with this interface
