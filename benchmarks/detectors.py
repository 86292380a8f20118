"""What maps of detections cost: ``python -m benchmarks.detectors``.

- **Ten detections of one image**, a Grad-CAM of each, in turns with one forward and one backward pass of the sum of
  their scores, the floor, and with the loop that tutorials show: a forward and a backward pass for each box. The maps
  must agree first.
- **D-RISE** of one detection: copies in batches of the engine's own choice, one at a time, and of a prepared detector.

Faster R-CNN with a ResNet-50 and a feature pyramid, 480 x 640 pixels; the weights are random, the batch norms frozen,
as torchvision freezes those of its trained detectors.
"""

import argparse
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.misc import FrozenBatchNorm2d

import fastcam
from benchmarks.results_io import write
from fastcam.bench.timing import interleave
from fastcam.targets import Detections

LAYER = "backbone.body.layer4"
DETECTIONS, MASKS = 10, 24


def detector() -> nn.Module:
    """Faster R-CNN that returns ten boxes of an image."""
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d)
    options = {"box_score_thresh": 0.0, "box_detections_per_img": DETECTIONS, "min_size": 480, "max_size": 640}
    return FasterRCNN(backbone, num_classes=5, **options).eval()


def forward(model: nn.Module, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return what the layer gave, a leaf of the graph behind it, and the detections."""
    kept: list[Tensor] = []

    def cut(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[-1]

    handle = model.get_submodule(LAYER).register_forward_hook(cut)
    output = model([image])[0]
    handle.remove()
    return kept[0], output


def floor(model: nn.Module, image: Tensor) -> None:
    """One forward and one backward pass, of all scores together."""
    leaf, output = forward(model, image)
    torch.autograd.grad(output["scores"].sum(), leaf)


def loop(model: nn.Module, image: Tensor) -> Tensor:
    """A pass for each box, as tutorials show it."""
    maps = []
    for number in range(DETECTIONS):
        leaf, output = forward(model, image)
        (gradient,) = torch.autograd.grad(output["scores"][number], leaf)
        maps.append((gradient.mean((2, 3), keepdim=True) * leaf).sum(1).relu()[0])
    return torch.stack(maps).detach()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    model = detector()
    image = torch.rand(3, 480, 640, generator=torch.Generator().manual_seed(1))
    explainer = fastcam.Explainer(model, "grad_cam", LAYER)
    every = Detections(0.0, DETECTIONS)
    found, expected = explainer(image[None], every).native[0], loop(model, image)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.max()))
    similar = Detections(0.0, index=0, following="similarity")
    batched = fastcam.Explainer(model, "rise", masks=MASKS, grid=16)
    single = fastcam.Explainer(model, "rise", batch_size=1, masks=MASKS, grid=16)
    prepared = fastcam.Explainer(fastcam.prepare(model, image[None], target_layer=LAYER), "rise", masks=MASKS, grid=16)
    copied = batched(image[None], similar).raw
    torch.testing.assert_close(prepared(image[None], similar).raw, copied, rtol=1e-3, atol=1e-3 * float(copied.max()))
    timings = interleave(
        {
            "a forward and a backward pass": lambda: floor(model, image),
            "fastcam, ten detections": lambda: explainer(image[None], every),
            "a pass for each of ten boxes": lambda: loop(model, image),
        },
        options.rounds,
    )
    copies = interleave(
        {
            "D-RISE in batches": lambda: batched(image[None], similar),
            "D-RISE, one copy at a time": lambda: single(image[None], similar),
            "D-RISE of the prepared detector": lambda: prepared(image[None], similar),
        },
        options.rounds,
    )
    base, slow = timings["a forward and a backward pass"].median, copies["D-RISE, one copy at a time"].median
    rows: list[dict[str, Any]] = [{"what": name, "times_floor": each.median / base} for name, each in timings.items()]
    rows += [{"what": name, "times_single": each.median / slow} for name, each in copies.items()]
    write("detectors", rows)
    table = Table("what", "times a forward and backward pass", "times one copy at a time")
    for row in rows:
        table.add_row(
            row["what"], *(f"{row[key]:.2f}" if key in row else "" for key in ("times_floor", "times_single"))
        )
    Console().print(table)


if __name__ == "__main__":
    main()
