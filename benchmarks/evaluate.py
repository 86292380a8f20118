"""What the measures say of the methods, and what measuring costs: ``python -m benchmarks.evaluate [ranking] [speed]``.

``ranking`` explains scenes whose objects are known to the pixel, by every method, and measures the maps; half of the
scenes must rank the methods as the other half does. ``speed`` measures the same maps as Quantus, pytorch-grad-cam and
torch-cam do, in turns with the forward passes that the copies need, batched: the floor. Values must agree first.
"""

import argparse
import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import fastcam
from benchmarks.networks import network
from benchmarks.results_io import write
from benchmarks.scenes import scenes
from fastcam import evaluate
from fastcam.bench.timing import interleave
from fastcam.model.inputs import as_channels_last

PLACES, STEPS = 9, 10
OPTIONS: dict[str, dict[str, Any]] = {
    "score_cam": {"channels": 128},
    "rise": {"masks": 300},
    "occlusion": {"window": 32, "stride": 16},
    "integrated_gradients": {"steps": 20},
    "smooth_grad": {"samples": 20},
}
WITHOUT = ("gmp_cam",)  # for networks with max pooling
MEASURES = ("energy_pointing_game", "rank_accuracy", "mask_iou", "box_iou", "insertion", "deletion", "average_drop")
BATCH, ROUNDS = 8, 3


def ranking() -> list[dict[str, Any]]:
    """Return a row for each method: the means of all measures, and their intervals."""
    model, made = scenes(PLACES)
    rows = []
    halves: dict[str, list[list[float]]] = {name: [[], []] for name in MEASURES}
    for method in (each for each in fastcam.list_methods() if each.name not in WITHOUT):
        explanation = fastcam.explain(model, made.images, method, made.classes, **OPTIONS.get(method.name, {}))
        options = {"insertion": {"steps": STEPS}, "deletion": {"steps": STEPS}}
        results = evaluate.run(explanation, MEASURES, model, masks=made.masks, options=options)
        row: dict[str, Any] = {"method": method.name, "images": len(made.images)}
        for name in MEASURES:
            result = results[method.name, name]
            row[name] = [result.mean, *result.interval()]
            for half in (0, 1):
                halves[name][half].append(result.values[half::2].double().nanmean().item())
        rows.append(row)
        print(method.name, {name: round(row[name][0], 3) for name in MEASURES}, flush=True)
    for name in MEASURES:
        ranks = [evaluate.similarity.spearman(*(np.array([half]) for half in halves[name]))[0]]
        rows.append({"measure": name, "rank_correlation_of_halves": float(ranks[0])})
    return rows


def forwards(model: nn.Module, images: Tensor, count: int, size: int = 8) -> Callable[[], None]:
    """Return the floor: so many forward passes of each image, in batches of a good size."""
    batch = as_channels_last(images.repeat(-(-size // len(images)), 1, 1, 1)[:size])

    def run() -> None:
        with torch.no_grad():
            for _ in range(count * len(images) // size):
                model(batch)

    return run


def insertion_and_deletion(model: nn.Module, images: Tensor) -> dict[str, Callable[[], Any]]:
    from torchcam.methods import LayerCAM
    from torchcam.metrics import DeletionInsertionMetric

    explanation = fastcam.explain(model, images, "layer_cam", target_layer="layer4")
    classes = explanation.targets.tolist()
    options = {"insertion": {"baseline": 0.0}}

    def own() -> tuple[float, float]:
        found = evaluate.run(explanation, ["deletion", "insertion"], model, options=options)
        return found["layer_cam", "deletion"].mean, found["layer_cam", "insertion"].mean

    def torchcam() -> tuple[float, float]:
        with LayerCAM(model, "layer4") as extractor:
            metric = DeletionInsertionMetric(
                extractor, functools.partial(torch.softmax, dim=-1), steps=20, batch_size=16
            )
            metric.update(images, classes)
            summary = metric.summary()
        return summary["deletion_auc"], summary["insertion_auc"]

    assert np.allclose(own(), torchcam(), rtol=0.05), (own(), torchcam())
    return {"floor": forwards(model, images, 40), "fastcam": own, "torch-cam": torchcam}


def pixel_flipping(model: nn.Module, images: Tensor) -> dict[str, Callable[[], Any]]:
    import quantus

    grey = nn.Sequential(nn.Conv2d(1, 3, 1), model).eval()
    pictures = images.mean(1, keepdim=True)
    explanation = fastcam.explain(grey, pictures, "grad_cam", target_layer="1.layer4")
    pixels = 224 * 224 // 32
    options = {"pixel_flipping": {"pixels": pixels}}

    def own() -> Tensor:
        found = evaluate.run(explanation, "pixel_flipping", grey, options=options)
        return next(iter(found.values())).details["curve"][:, 1:]

    def peer() -> Any:
        metric = quantus.PixelFlipping(
            features_in_step=pixels, perturb_baseline=0.0, disable_warnings=True, normalise=False, abs=False
        )
        return metric(grey, pictures.numpy(), explanation.targets.numpy(), explanation.maps[:, None].numpy().copy())

    np.testing.assert_allclose(own(), np.array(peer()), rtol=0.02)  # a pixel or two of equal values go in another step
    return {"floor": forwards(grey, pictures, 32), "fastcam": own, "quantus": peer}


def road(model: nn.Module, images: Tensor) -> dict[str, Callable[[], Any]]:
    from pytorch_grad_cam.metrics.road import ROADCombined
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    percentages = [20, 50, 80]
    explanation = fastcam.explain(model, images, "grad_cam", target_layer="layer4")
    targets = [ClassifierOutputSoftmaxTarget(each) for each in explanation.targets.tolist()]

    def own() -> Tensor:
        found = evaluate.run(explanation, "road", model, options={"road": {"percentages": percentages}})
        return next(iter(found.values())).values

    def peer() -> Any:
        return ROADCombined(percentages)(images, explanation.maps.numpy(), targets, model)

    np.testing.assert_allclose(own(), peer(), atol=0.02)
    return {"floor": forwards(model, images, 7), "fastcam": own, "pytorch-grad-cam": peer}


def several_methods(model: nn.Module, images: Tensor) -> dict[str, Callable[[], Any]]:
    """Five methods: at most 1.1 times the forward passes of five."""
    names = ["grad_cam", "grad_cam_pp", "xgrad_cam", "hires_cam", "layer_cam"]
    explanations = fastcam.explain(model, images, names, target_layer="layer4")
    several = ["deletion", "insertion", "average_drop", "sufficiency", "comprehensiveness"]
    options = {"deletion": {"steps": STEPS}, "insertion": {"steps": STEPS}}
    passes = evaluate.run(explanations, several, model, options=options).passes

    def own() -> Any:
        return evaluate.run(explanations, several, model, options=options)

    return {"floor": forwards(model, images, passes), "fastcam": own}


CASES = {
    "deletion and insertion, 20 steps": insertion_and_deletion,
    "pixel flipping, 32 steps, grey": pixel_flipping,
    "ROAD, 3 percentages, both ends": road,
    "5 methods, 5 measures": several_methods,
}


def speed(networks: list[str]) -> list[dict[str, Any]]:
    rows = []
    for name in networks:
        model, images = network(name), torch.randn(BATCH, 3, 224, 224, generator=torch.Generator().manual_seed(0))
        for case, make in CASES.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                contestants = make(model, images)
                times = interleave(contestants, ROUNDS)
            for tool, timing in times.items():
                ratio = timing.median / times["floor"].median
                rows.append({"model": name, "case": case, "tool": tool, "times_floor": ratio, "rounds": ROUNDS})
                print(name, case, tool, round(ratio, 2), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["ranking", "speed"], choices=["ranking", "speed"])
    parser.add_argument("--networks", nargs="+", default=["resnet18"])
    options = parser.parse_args()
    if "ranking" in options.parts:
        write("evaluate_ranking", ranking())
    if "speed" in options.parts:
        rows = speed(options.networks)
        write("evaluate_speed", rows)
        table = Table("model", "case", "tool", "times the forward passes")
        for row in rows:
            table.add_row(row["model"], row["case"], row["tool"], f"{row['times_floor']:.2f}")
        Console().print(table)


if __name__ == "__main__":
    main()
