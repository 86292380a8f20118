"""One picture of all methods on one photograph, with what each costs: ``python -m benchmarks.gallery``.

The network is the demo's, EfficientNet-Lite0 with its ImageNet weights; the class is the one it sees. Heat maps lie
over the photograph. Attributions of every pixel are drawn as their papers do: sizes in grey; signed ones, which add up
to the score, in red and blue; what comes back through rectifiers in its own colours about grey. SmoothGrad is the one
with squares.

The network rectifies with ReLU6. Guided backpropagation multiplies with its slope, so that units at 6 let nothing
back; a deconvnet looks at what comes back alone, so that they do. Of the photograph a deconvnet knows only the switches
of max pooling, and this network has none: it draws a pattern of strides, of one class the same for every photograph.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

import fastcam
from benchmarks.results_io import RESULTS
from fastcam import render
from fastcam.bench.timing import interleave
from fastcam.cli import demo
from fastcam.methods.registry import Method

PICTURE = RESULTS / "gallery.jpg"
OPTIONS: dict[str, dict[str, Any]] = {
    "occlusion": {"window": 32, "stride": 16},
    "rise": {"masks": 1000},
    "smooth_grad": {"samples": 25, "level": 0.1, "kind": "square"},
    "integrated_gradients": {"steps": 50},
}
TARGETS = dict.fromkeys(("rise", "occlusion"), fastcam.targets.Probability())  # as in their papers
COUNTS = {"channels": 1280, "masks": 1000, "windows": 169, "steps": 50, "samples": 25}
GREY = ("saliency", "smooth_grad")
SIGNED = ("input_x_gradient", "integrated_gradients")
COLOURED = ("deconvnet", "guided_backprop", "guided_grad_cam")

COLUMNS, TILE, GAP, MARGIN, TITLE = 6, 224, 24, 16, 44  # pixels; a tile is as large as what the network sees
LONG = 2.0  # seconds from which a call is timed once
ROUNDS = 7


def clipped(values: np.ndarray, share: float = 0.995) -> np.ndarray:
    """In [-1, 1], by a size that few exceed: single pixels would hide the others."""
    return np.clip(values / np.quantile(np.abs(values), share), -1, 1)


def drawn(explanation: fastcam.Explanation, picture: Image.Image) -> render.Bytes:
    """(H, W, 3), as is usual for the method."""
    if explanation.method in COLOURED:
        colours = clipped(explanation.attributions[0].movedim(0, -1).double().numpy(), 0.98)
        return render.to_uint8((0.5 + 0.5 * colours).astype(np.float32))
    if explanation.method in GREY:
        return render.colors("gray")[render.to_uint8(clipped(explanation.native[0].numpy()))]
    if explanation.method in SIGNED:
        signed = clipped(explanation.native[0].numpy())
        return render.colors("RdBu_r")[render.to_uint8((0.5 + 0.5 * signed).astype(np.float32))]
    return explanation.overlay([picture])[0]


def timed(call: Callable[[], Any], forward: Callable[[], Any]) -> tuple[Any, float]:
    """What the call returns, and its time over that of a bare forward pass, measured in turns."""
    start = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - start
    if seconds < LONG:
        timings = interleave({"forward": forward, "call": call}, ROUNDS)
        return result, timings["call"].median / timings["forward"].median
    before, after = (interleave({"forward": forward}, ROUNDS)["forward"].median for _ in range(2))
    return result, seconds / statistics.mean((before, after))


def nominal(method: Method) -> str:
    """The cost by definition, with numbers."""
    return " ".join(f"{COUNTS[word]} {word}" if word in COUNTS else word for word in method.cost.split())


def tiles(photograph: str, wanted: list[str]) -> list[tuple[str, str, render.Bytes]]:
    """Title, what is said below it, and picture."""
    model = demo.efficientnet_lite0()
    picture = demo.PREPROCESSING.crop(demo.photographs()[photograph])
    images = demo.PREPROCESSING.tensor(picture)[None]

    def forward() -> torch.Tensor:
        with torch.inference_mode():
            return model(images)

    chance, index = forward().softmax(1)[0].max(0)
    found = [("photograph", f"seen as: {demo.imagenet_names()[index]}, {chance:.0%}", np.asarray(picture))]
    for method in fastcam.list_methods():
        if wanted and method.name not in wanted:
            continue
        explainer = fastcam.Explainer(model, method.name, **OPTIONS.get(method.name, {}))
        target = TARGETS.get(method.name, int(index))

        def explain(explainer: Any = explainer, target: Any = target) -> fastcam.Explanation:
            explanation = explainer(images, target)
            _ = explanation.maps  # made when asked for
            return explanation

        try:
            explanation, cost = timed(explain, forward)
        except ValueError as error:  # gmp_cam: the network has no global max pooling
            print(f"{method.name:22} not applicable: {error}")
            lines = ["for networks that end", "in global max pooling"]
            found.append((method.name, "not applicable", written(lines, "#888888", "#eeeeee")))
            continue
        print(f"{method.name:22} {cost:8.1f} forwards (nominal {nominal(method)}), {explanation.status[0]}", flush=True)
        amount = f"{cost:.1f}" if cost < 10 else f"{cost:.0f}"
        found.append((method.name, f"{amount}  forwards  ({nominal(method)})", drawn(explanation, picture)))
    return [*found, ("how to read it", "EfficientNet-Lite0", legend())]


def written(lines: list[str], colour: str, background: str) -> render.Bytes:
    sheet = Image.new("RGB", (TILE, TILE), background)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=15)
    for row, line in enumerate(lines):
        draw.text((14, TILE / 2 + 22 * (row - (len(lines) - 1) / 2)), line, colour, font, anchor="lm")
    return np.asarray(sheet)


def legend() -> render.Bytes:
    lines = [
        "2.0  forwards  (2):  time of",
        "the explanation over that of",
        "a bare forward pass, and the",
        "number by definition",
        "",
        "Overlays: red is high",
        "Grey: size of the gradient",
        "Red, blue: for, against",
        "Coloured: what came back",
        "through the rectifiers",
    ]
    return written(lines, "#444444", "#f6f6f6")


def grid(found: list[tuple[str, str, render.Bytes]]) -> Image.Image:
    rows = -(-len(found) // COLUMNS)
    width, height = TILE + GAP, TITLE + TILE + GAP
    sheet = Image.new("RGB", (2 * MARGIN + COLUMNS * width - GAP, MARGIN + rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    name_font, cost_font = ImageFont.load_default(size=18), ImageFont.load_default(size=14)
    for place, (name, cost, pixels) in enumerate(found):
        x, y = MARGIN + place % COLUMNS * width, MARGIN + place // COLUMNS * height
        draw.text((x, y + 11), name, "black", name_font, anchor="lm")
        draw.text((x, y + 31), cost, "#666666", cost_font, anchor="lm")
        sheet.paste(Image.fromarray(pixels), (x, y + TITLE))
    return sheet


def main() -> None:
    """Draws the picture and keeps it as results/gallery.jpg."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--photograph", default="cat", help="one of the demo's")
    parser.add_argument("--method", action="append", default=[], help="only this one; repeatable")
    parser.add_argument("--out", type=Path, default=PICTURE)
    arguments = parser.parse_args()
    sheet = grid(tiles(arguments.photograph, arguments.method))
    sheet.save(arguments.out, quality=84, optimize=True)
    print(f"written: {arguments.out}, {sheet.width} x {sheet.height}, {arguments.out.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
