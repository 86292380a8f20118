"""Which maps of a detection point at it: ``python -m benchmarks.detections``.

A YOLOv8n that was trained on people (``pip install onnx onnx2torch`` and, with ``--no-deps``, ``nudenet``) looks at
parts of two photographs until it has found a hundred faces. For every method and layer: the share of maps whose
maximum lies inside the detection's own box (the pointing game), and the share of the map's sum that does.

``--picture`` draws some of the maps of one photograph.
"""

import argparse
import importlib.util
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import fastcam
from benchmarks.results_io import RESULTS, write
from fastcam.pictures.boxes import draw_boxes
from fastcam.targets import Detections

SIDE = 320
LEVELS = [f"model/{number}/cv2/act/Mul" for number in (15, 18, 21)]  # what the heads read
FOUND = {"found": None, "the heads' inputs": LEVELS}
METHODS = ["layer_cam", "hires_cam", "grad_cam_elementwise", "grad_cam", "grad_cam_pp", "xgrad_cam", "eigen_cam"]
AT_INPUT = {
    "saliency": {},
    "input_x_gradient": {},
    "occlusion": {"window": 40, "stride": 40},
}
QUALITY = 88


def detector() -> nn.Module:
    """YOLOv8n with its trained weights."""
    import onnx2torch

    package = importlib.util.find_spec("nudenet")
    if package is None or package.origin is None:
        raise SystemExit("the trained detector is missing: pip install --no-deps nudenet")
    return onnx2torch.convert(str(Path(package.origin).parent / "320n.onnx")).eval()


def photographs() -> dict[str, Image.Image]:
    """Photographs of people that scikit-image ships."""
    import skimage.data

    return {name: Image.fromarray(getattr(skimage.data, name)()).convert("RGB") for name in ("astronaut", "camera")}


def as_input(picture: Image.Image) -> Tensor:
    """A picture as (1, 3, SIDE, SIDE)."""
    resized = picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1)[None].float() / 255


def parts(generator: np.random.Generator) -> Iterator[Tensor]:
    """Squares of the photographs, of any size, some of them mirrored."""
    pictures = list(photographs().values())
    while True:
        picture = pictures[int(generator.random() < 0.2)]
        side = int(generator.uniform(0.35, 1) * min(picture.size))
        left, top = (int(generator.integers(0, length - side + 1)) for length in picture.size)
        part = picture.crop((left, top, left + side, top + side))
        yield as_input(part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if generator.random() < 0.5 else part)


def pointed(maps: Tensor, box: Tensor) -> tuple[bool, float]:
    """Whether a map (H, W) is highest inside a box, and the share of its sum inside."""
    left, top, right, bottom = box.round().int().clamp(0, SIDE).tolist()
    place, total = int(maps.argmax()), float(maps.sum())
    inside = left <= place % SIDE < right and top <= place // SIDE < bottom
    return inside and total > 0, float(maps[top:bottom, left:right].sum()) / total if total else 0.0


def play(model: nn.Module, count: int) -> list[dict[str, Any]]:
    """The pointing game of so many detections."""
    first = Detections(0.5, index=0)
    results: dict[tuple[str, str], list[tuple[bool, float]]] = {}
    shares: list[float] = []
    for image in parts(np.random.default_rng(0)):
        found = fastcam.explain(model, image, METHODS, first)
        box = found["grad_cam"].details["boxes"][0]
        if not bool(found["grad_cam"].is_found):
            continue
        shares.append(float((box[2:] - box[:2]).prod()) / SIDE**2)
        for where, layer in FOUND.items():
            of_layer = found if layer is None else fastcam.explain(model, image, METHODS, first, layer)
            for method, each in of_layer.items():
                results.setdefault((method, where), []).append(pointed(each.maps[0], box))
        for method, options in AT_INPUT.items():
            each = fastcam.explain(model, image, method, first, **options)
            maps = each.raw[0].clamp(min=0) if method == "occlusion" else each.maps[0]
            results.setdefault((method, ""), []).append(pointed(maps, box))
        if len(shares) == count:
            break
    rows = [
        {
            "method": method,
            "layer": where,
            "pointing": float(np.mean([hit for hit, _ in values])),
            "inside": float(np.mean([share for _, share in values])),
        }
        for (method, where), values in results.items()
    ]
    return [*rows, {"method": "", "layer": "area of the box", "pointing": 0.0, "inside": float(np.mean(shares))}]


def draw(model: nn.Module) -> None:
    """Write results/detections.jpg: what was found, and some maps of it."""
    picture = photographs()["astronaut"]
    image, target = as_input(picture), Detections(0.5, index=0)
    similar = Detections(0.5, index=0, following="similarity")
    scale = picture.width / SIDE
    panels: dict[str, fastcam.Explanation] = {
        "layer_cam": fastcam.explain(model, image, "layer_cam", target),
        "hires_cam (ODAM)": fastcam.explain(model, image, "hires_cam", target, LEVELS),
        "grad_cam": fastcam.explain(model, image, "grad_cam", target, LEVELS[0]),
        "occlusion": fastcam.explain(model, image, "occlusion", target, window=40, stride=10, relu=True),
        "rise (D-RISE)": fastcam.explain(model, image, "rise", similar, masks=2000, grid=16),
    }
    first = next(iter(panels.values()))
    box = (first.details["boxes"][0] * scale).tolist()
    photo = np.asarray(picture)
    drawn = [draw_boxes(photo, [box], [f"face {float(first.details['confidences'][0]):.0%}"])]
    drawn += [draw_boxes(each.overlay(photo[None])[0], [box], [name], ["#ffffff"]) for name, each in panels.items()]
    rows = [np.concatenate(drawn[start : start + 3], 1) for start in (0, 3)]
    sheet = Image.fromarray(np.concatenate(rows))
    sheet.resize((900, 600), Image.Resampling.LANCZOS).save(RESULTS / "detections.jpg", quality=QUALITY)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--picture", action="store_true")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", "Using a non-tuple sequence")  # of onnx2torch
    model = detector()
    if options.picture:
        draw(model)
        return
    rows = sorted(play(model, options.count), key=lambda row: (-row["pointing"], -row["inside"]))
    write("detections", rows)
    table = Table("method", "layer", "maximum in the box", "share in the box")
    for row in rows:
        table.add_row(row["method"], row["layer"], f"{row['pointing']:.2f}", f"{row['inside']:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
