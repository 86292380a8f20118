"""Whole explanations beside the peers and beside a bare forward: ``python -m benchmarks.end_to_end``.

Every contestant gets the same eager float32 model and images and returns one map per image; fastcam and
pytorch-grad-cam at the size of the image, torch-cam and Captum at the layer's size. The maps must agree before
anything is timed.
"""

import argparse
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from captum.attr import LayerGradCam
from pytorch_grad_cam import GradCAM, GradCAMPlusPlus, LayerCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torchcam import methods as torchcam

import fastcam
from benchmarks.timing import Contestants, interleave, write

METHODS = {"grad_cam": GradCAM, "grad_cam_pp": GradCAMPlusPlus, "layer_cam": LayerCAM}
LOGIT_SCALE = 1e3  # so that pytorch-grad-cam's 1e-6 in the denominator of Grad-CAM++ is negligible


def normalized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Low-resolution maps as every contestant's are compared: upsampled, then scaled to [0, 1]."""
    maps = F.interpolate(maps[:, None].double(), size=size, mode="bilinear", align_corners=False)[:, 0]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low)


def with_fastcam(model: nn.Module, images: Tensor, targets: list[int], method: str) -> Callable[[], Tensor]:
    explainer = fastcam.Explainer(model, method, "layer4")
    return lambda: explainer(images, targets).maps


def with_pytorch_grad_cam(model: nn.Module, images: Tensor, targets: list[int], method: str) -> Callable[[], Tensor]:
    cam = METHODS[method](model, [model.layer4])
    scored = [ClassifierOutputTarget(target) for target in targets]
    return lambda: torch.from_numpy(cam(images, scored))


def with_torchcam(model: nn.Module, images: Tensor, targets: list[int], method: str) -> Callable[[], Tensor]:
    kind = {"grad_cam": torchcam.GradCAM, "layer_cam": torchcam.LayerCAM}[method]
    size = tuple(images.shape[2:])

    def run() -> Tensor:
        with kind(model, "layer4") as extractor:
            (maps,) = extractor(targets, model(images))
        return maps

    run.finish = lambda maps: normalized(maps, size)  # type: ignore[attr-defined]
    return run


def with_captum(model: nn.Module, images: Tensor, targets: list[int], _: str) -> Callable[[], Tensor]:
    attribution = LayerGradCam(model, model.layer4)
    size = tuple(images.shape[2:])

    def run() -> Tensor:
        return attribution.attribute(images, torch.tensor(targets), relu_attributions=True)[:, 0].detach()

    run.finish = lambda maps: normalized(maps, size)  # type: ignore[attr-defined]
    return run


def bare_forward(model: nn.Module, images: Tensor) -> Callable[[], Any]:
    def run() -> Tensor:
        with torch.inference_mode():
            return model(images)

    return run


def contestants(model: nn.Module, images: Tensor, targets: list[int]) -> Contestants:
    """Every tool with every method it has; torch-cam's Grad-CAM++ is another formula and stays out."""
    found: Contestants = {"forward": bare_forward(model, images)}
    for method in METHODS:
        found[f"fastcam {method}"] = with_fastcam(model, images, targets, method)
        found[f"pytorch-grad-cam {method}"] = with_pytorch_grad_cam(model, images, targets, method)
    for method in ("grad_cam", "layer_cam"):
        found[f"torch-cam {method}"] = with_torchcam(model, images, targets, method)
    found["captum grad_cam"] = with_captum(model, images, targets, "grad_cam")
    return found


def largest_differences(found: Contestants) -> dict[str, float]:
    """Each peer's largest difference from fastcam, both maps in [0, 1]."""
    differences = {}
    for name, call in found.items():
        tool, _, method = name.partition(" ")
        if tool in ("forward", "fastcam"):
            continue
        maps = getattr(call, "finish", lambda m: m)(call())
        differences[name] = (maps.double() - found[f"fastcam {method}"]().double()).abs().max().item()
    return differences


def check(differences: dict[str, float]) -> None:
    """Refuses to time what does not agree; pytorch-grad-cam's epsilons leave a little more in Grad-CAM++."""
    for name, difference in differences.items():
        limit = 2e-3 if name.endswith("_pp") else 1e-4
        if not difference <= limit:
            raise AssertionError(f"{name} differs from fastcam by {difference:.1e}, more than {limit:.0e}")


def measure(name: str, batch: int, rounds: int) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(weights=None).eval()
    images = torch.randn(batch, 3, 224, 224)
    with torch.no_grad():
        for parameter in model.fc.parameters():
            parameter.mul_(LOGIT_SCALE)
        targets = model(images).argmax(1).tolist()  # a positive score, so that no map is all zeros
    found = contestants(model, images, targets)
    differences = largest_differences(found)
    check(differences)
    timings = interleave(found, rounds)
    forward = timings["forward"].median
    return [
        {
            "model": name,
            "batch": batch,
            "contestant": contestant,
            "milliseconds": timing.median * 1e3,
            "spread": timing.spread * 1e3,
            "times_forward": timing.median / forward,
            "difference": differences.get(contestant, 0.0),
        }
        for contestant, timing in timings.items()
    ]


def main() -> None:
    """Prints the table and keeps it as results/end_to_end.json."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    warnings.filterwarnings("ignore")
    console = Console(width=120)
    rows = []
    for name in ("resnet18", "resnet50"):
        for batch in (1, 8):
            found = measure(name, batch, rounds)
            rows += found
            table = Table(
                "contestant", "median", "spread", "x forward", "largest difference", title=f"{name}, batch {batch}"
            )
            for row in found:
                difference = f"{row['difference']:.1e}" if row["difference"] else ""
                time, spread = f"{row['milliseconds']:.1f} ms", f"{row['spread']:.1f} ms"
                table.add_row(row["contestant"], time, spread, f"{row['times_forward']:.2f}", difference)
            console.print(table)
    console.print(f"written: {write('end_to_end', rows)}")


if __name__ == "__main__":
    main()
