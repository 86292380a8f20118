"""One picture of all methods on one photograph: ``python -m benchmarks.gallery``."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

import fastcam
from benchmarks.timing import RESULTS
from fastcam.demo import PREPROCESSING, efficientnet_lite0, photographs
from fastcam.registry import Method
from fastcam.render import to_uint8

PICTURE = RESULTS / "gallery.jpg"
LEFT_OUT = ("gmp_cam",)  # this network has no global max pooling
GREY = (
    "saliency",
    "input_x_gradient",
    "deconvnet",
    "guided_backprop",
    "guided_grad_cam",
    "integrated_gradients",
    "smooth_grad",
)
OPTIONS: dict[str, dict[str, Any]] = {"rise": {"masks": 1000}}
TARGETS = {"rise": fastcam.targets.Probability()}
COLUMNS, TILE, GAP, TITLE = 6, 244, 8, 34  # pixels
REPEATS = 5  # of what takes less than a second


def seconds(call: Callable[[], Any]) -> tuple[Any, float]:
    """What the call returns, and the median time of a few calls after the first; of long calls the first counts."""
    start = time.perf_counter()
    result = call()
    first = time.perf_counter() - start
    if first > 1:
        return result, first
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return result, statistics.median(times)


def bare_forward(model: nn.Module, images: Tensor) -> float:
    with torch.inference_mode():
        return seconds(lambda: model(images))[1]


def grey(explanation: fastcam.Explanation) -> np.ndarray:
    """The map's size, white where it is largest; a few pixels in a thousand are cut, or they would hide the others."""
    size = explanation.native[0].abs().double()
    shown = (size / size.quantile(0.995)).clamp(max=1).numpy()
    return np.repeat(to_uint8(shown)[..., None], 3, -1)


def drawn(method: Method, explanation: fastcam.Explanation, picture: Image.Image) -> np.ndarray:
    return grey(explanation) if method.name in GREY else explanation.overlay([picture])[0]


def tiles() -> list[tuple[str, str, np.ndarray]]:
    """Name, cost and picture of the photograph and of every method."""
    model = efficientnet_lite0()
    picture = PREPROCESSING.crop(photographs()["cat"])
    images = PREPROCESSING.tensor(picture)[None]
    found = [("photograph", "", np.asarray(picture))]
    for method in fastcam.list_methods():
        if method.name in LEFT_OUT:
            continue
        explainer = fastcam.Explainer(model, method.name, **OPTIONS.get(method.name, {}))
        target = TARGETS.get(method.name)
        before = bare_forward(model, images)  # next to it: the machine may be busy at another time
        explanation, taken = seconds(lambda explainer=explainer, target=target: explainer(images, target))
        cost = 2 * taken / (before + bare_forward(model, images))
        print(
            f"{method.name:22} {cost:8.1f} forwards  {explanation.layer or 'no layer'}  {explanation.status}",
            flush=True,
        )
        found.append((method.name, f"{cost:.1f}" if cost < 10 else f"{cost:.0f}", drawn(method, explanation, picture)))
    return found


def grid(found: list[tuple[str, str, np.ndarray]]) -> Image.Image:
    rows = -(-len(found) // COLUMNS)
    sheet = Image.new("RGB", (GAP + COLUMNS * (TILE + GAP), GAP + rows * (TITLE + TILE + GAP)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=18)
    for index, (name, cost, pixels) in enumerate(found):
        x = GAP + index % COLUMNS * (TILE + GAP)
        y = GAP + index // COLUMNS * (TITLE + TILE + GAP)
        draw.text((x, y + TITLE / 2), name, "black", font, anchor="lm")
        draw.text((x + TILE, y + TITLE / 2), cost, "#666666", font, anchor="rm")
        sheet.paste(Image.fromarray(pixels).resize((TILE, TILE), Image.Resampling.BICUBIC), (x, y + TITLE))
    return sheet


def main() -> None:
    """Writes results/gallery.jpg."""
    sheet = grid(tiles())
    sheet.save(PICTURE, quality=80, optimize=True)
    print(f"written: {PICTURE}, {sheet.width} x {sheet.height}, {PICTURE.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
