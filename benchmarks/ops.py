"""Every op beside eager PyTorch and beside reading its input once: ``python -m benchmarks.ops``.

"read" is the time torch needs to sum the tensors the op must read, the floor of a reduction; "x read" is how many
of those the op takes, "x eager" how many times faster it is than the same formula in eager PyTorch. On a GPU the
floor is the bytes that must move at the speed of a copy: "share of GPU copy" is how much of that speed the op reaches.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.timing import Contestants, interleave, write
from fastcam import ops, render

ROUNDS, SAMPLE = 15, 0.02


@dataclass(frozen=True)
class Case:
    """One op on one set of tensors."""

    op: str
    label: str
    call: Callable[[], Tensor]
    eager: Callable[[], Tensor]
    read: tuple[Tensor, ...]

    @property
    def device(self) -> str:
        """Where it runs: cpu or cuda."""
        return self.read[0].device.type

    @property
    def reduces(self) -> bool:
        """Whether reading the input is the floor, beside which the output is small."""
        return 10 * self.call().nbytes < sum(t.nbytes for t in self.read)

    @property
    def bytes(self) -> int:
        """What must move: every input read once, the output written once."""
        return sum(t.nbytes for t in (*self.read, self.call()))


def eager_grad_cam(a: Tensor, g: Tensor) -> Tensor:
    return (g.mean((2, 3), keepdim=True) * a).sum(1).relu()


def eager_grad_cam_pp(a: Tensor, g: Tensor) -> Tensor:
    denominator = 2 * g.pow(2) + a.sum((2, 3), keepdim=True) * g.pow(3)
    alpha = g.pow(2) / torch.where(denominator != 0, denominator, torch.ones_like(denominator))
    return ((alpha * g.relu()).sum((2, 3), keepdim=True) * a).sum(1).relu()


def eager_xgrad_cam(a: Tensor, g: Tensor) -> Tensor:
    weights = (g * a).sum((2, 3), keepdim=True) / (a.sum((2, 3), keepdim=True) + 1e-7)
    return (weights * a).sum(1).relu()


def eager_layer_cam(a: Tensor, g: Tensor) -> Tensor:
    return (g.relu() * a).sum(1).relu()


def eager_upsample_normalize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    out = F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    low, high = out.amin((1, 2), keepdim=True), out.amax((1, 2), keepdim=True)
    return (out - low) / (high - low)


def eager_occlude(images: Tensor, windows: Tensor) -> Tensor:
    copies = images[:, None].repeat(1, len(windows), 1, 1, 1)
    for i, ((top, left), (height, width)) in enumerate(windows.tolist()):
        copies[:, i, :, top : top + height, left : left + width] = 0
    return copies


def eager_mask_images(images: Tensor, maps: Tensor) -> Tensor:
    masks = F.interpolate(maps, size=images.shape[2:], mode="bilinear", align_corners=False)
    low, high = masks.amin((2, 3), keepdim=True), masks.amax((2, 3), keepdim=True)
    return ((masks - low) / (high - low))[:, :, None] * images[:, None]


def eager_gather_patches(
    clean: Tensor, images: Tensor, patches: Tensor, origins: Tensor, windows: Tensor, size: tuple[int, int]
) -> Tensor:
    """For patches that lie inside map and window, and windows that reach at most 8 beyond the map."""
    padded, (height, width), found = F.pad(clean, [8] * 4), size, []
    for patch, n, (y, x), (top, left) in zip(patches, images.tolist(), origins.tolist(), windows.tolist(), strict=True):
        window = padded[n, :, top + 8 : top + 8 + height, left + 8 : left + 8 + width].clone()
        window[:, y - top : y - top + patch.shape[1], x - left : x - left + patch.shape[2]] = patch
        found.append(window)
    return torch.stack(found)


def eager_overlay(images: Tensor, maps: Tensor, colors: Tensor, alpha: float) -> Tensor:
    wanted = colors[(maps.nan_to_num(0).clamp(0, 1) * 255 + 0.5).long()].float()
    blended = (images + alpha * (wanted - images) + 0.5).byte()
    return torch.where(maps.isnan()[..., None], images, blended)


def channel_cases(label: str, a: Tensor, g: Tensor) -> list[Case]:
    """The reductions over channels, on activations and gradients of one shape, dtype and layout."""
    weights = torch.randn(a.shape[:2], dtype=a.dtype)
    pairs = [
        ("grad_cam", ops.grad_cam, eager_grad_cam),
        ("grad_cam_pp", ops.grad_cam_pp, eager_grad_cam_pp),
        ("xgrad_cam", ops.xgrad_cam, eager_xgrad_cam),
        ("layer_cam", ops.layer_cam, eager_layer_cam),
    ]
    cases = [Case(name, label, lambda op=op: op(a, g), lambda f=f: f(a, g), (a, g)) for name, op, f in pairs]
    cases.append(Case("channel_mean", label, lambda: ops.channel_mean(g), lambda: g.mean((2, 3)), (g,)))
    summed = Case(
        "weighted_channel_sum",
        label,
        lambda: ops.weighted_channel_sum(a, weights),
        lambda: (weights[:, :, None, None] * a).sum(1),
        (a,),
    )
    return [*cases, summed]


# ResNet-50's last layer: label, batch, dtype, memory layout.
BATCHES = {
    "cpu": [
        ("32x2048x7x7 float32", 32, torch.float32, torch.contiguous_format),
        ("128x2048x7x7 float32", 128, torch.float32, torch.contiguous_format),
        ("32x2048x7x7 float32 channels_last", 32, torch.float32, torch.channels_last),
        ("32x2048x7x7 bfloat16", 32, torch.bfloat16, torch.contiguous_format),
    ],
    "cuda": [
        ("GPU 512x2048x7x7 float32", 512, torch.float32, torch.contiguous_format),
        ("GPU 512x2048x7x7 float32 channels_last", 512, torch.float32, torch.channels_last),
        ("GPU 512x2048x7x7 bfloat16", 512, torch.bfloat16, torch.contiguous_format),
        ("GPU 512x2048x7x7 bfloat16 channels_last", 512, torch.bfloat16, torch.channels_last),
    ],
}


def cases(device: str = "cpu") -> list[Case]:
    """The channel reductions on this device's batches; maps and images of 224 x 224."""
    torch.manual_seed(0)
    with torch.device(device):
        return _cases(device)


def _cases(device: str) -> list[Case]:
    found = []
    for label, count, dtype, layout in BATCHES[device]:
        a = torch.rand(count, 2048, 7, 7).to(dtype).contiguous(memory_format=layout)
        g = (torch.randn(count, 2048, 7, 7) * 1e-3).to(dtype).contiguous(memory_format=layout)
        found += channel_cases(label, a, g)
    maps = torch.rand(32, 7, 7)
    images = torch.rand(4, 3, 224, 224)
    windows = torch.stack([torch.randint(0, 192, (8, 2)), torch.full((8, 2), 32)], 1)
    found.append(
        Case(
            "upsample_normalize",
            "32x7x7 to 224x224",
            lambda: ops.upsample_normalize(maps, (224, 224)),
            lambda: eager_upsample_normalize(maps, (224, 224)),
            (maps,),
        )
    )
    found.append(
        Case(
            "occlude",
            "4x3x224x224, 8 windows",
            lambda: ops.occlude(images, windows),
            lambda: eager_occlude(images, windows),
            (images,),
        )
    )
    return [*found, *mask_cases(), *gather_cases(), overlay_case()]


def mask_cases() -> list[Case]:
    """The inputs of Score-CAM: images under maps of a last layer, in both layouts."""
    maps, found = torch.rand(4, 8, 7, 7), []
    for label, layout in [("", torch.contiguous_format), (" channels_last", torch.channels_last)]:
        images = torch.rand(4, 3, 224, 224).contiguous(memory_format=layout)
        found.append(
            Case(
                "mask_images",
                f"4x3x224x224, 8 maps{label}",
                lambda images=images: ops.mask_images(images, maps),
                lambda images=images: eager_mask_images(images, maps),
                (images, maps),
            )
        )
    return found


def gather_cases() -> list[Case]:
    """What a 3x3 convolution of a first stage reads of 8x8 patches, in both layouts."""
    origins = torch.randint(0, 49, (64, 2))
    images, windows, size = torch.randint(0, 4, (64,)), origins - 2, (12, 12)
    found = []
    for label, layout in [("", torch.contiguous_format), (" channels_last", torch.channels_last)]:
        clean = torch.rand(4, 64, 56, 56).contiguous(memory_format=layout)
        patches = torch.rand(64, 64, 8, 8).contiguous(memory_format=layout)
        inputs = (clean, images, patches, origins, windows, size)
        found.append(
            Case(
                "gather_patches",
                f"64 of 12x12 from 4x64x56x56{label}",
                lambda inputs=inputs: ops.gather_patches(*inputs),
                lambda inputs=inputs: eager_gather_patches(*inputs),
                (patches,),
            )
        )
    return found


def overlay_case() -> Case:
    """Pictures of a batch."""
    images, maps = torch.randint(0, 256, (32, 224, 224, 3), dtype=torch.uint8), torch.rand(32, 224, 224)
    colors = torch.from_numpy(render.colors("jet")).to(images.device)
    return Case(
        "overlay",
        "32x224x224",
        lambda: ops.overlay(images, maps, colors, 0.5),
        lambda: eager_overlay(images, maps, colors, 0.5),
        (images, maps),
    )


def measure(case: Case) -> dict[str, Any]:
    """Agreement first, then op, eager and read in turn."""
    ours, theirs = case.call().double(), case.eager().double()
    scale = theirs.abs().max()
    # Eager bf16 rounds every intermediate; the op rounds none. A byte may be the next one.
    tolerance = 1e-4 if case.read[0].dtype == torch.float32 else 5e-2
    difference = ((ours - theirs).abs().max() / scale).item()
    if not difference <= tolerance:
        raise AssertionError(f"{case.op} on {case.label} differs from eager by {difference:.1e} of the range")
    contestants: Contestants = {"op": case.call, "eager": case.eager, "read": lambda: [t.sum() for t in case.read]}
    wait: Callable[[], Any] = torch.cuda.synchronize if case.device == "cuda" else lambda: None
    if case.device == "cuda":
        source = torch.empty(2**28, device="cuda")
        target = torch.empty_like(source)
        contestants["copy"] = lambda: target.copy_(source)
    timings = interleave(contestants, ROUNDS, SAMPLE, wait)
    op, eager, read, *copy = (timings[name].median for name in contestants)
    return {
        "op": case.op,
        "case": case.label,
        "megabytes": case.bytes / 1e6,
        "milliseconds": op * 1e3,
        "spread": timings["op"].spread * 1e3,
        "times_eager": eager / op,
        "times_read": op / read if case.reduces else None,
        "difference": difference,
        "copy_bandwidth_share": (case.bytes / op) / (2 * source.nbytes / copy[0]) if copy else None,
    }


def main() -> None:
    """Prints the table and keeps it as results/ops.json."""
    table = Table(
        "op", "case", "must move", "median", "x faster than eager", "x read", "share of GPU copy", title="Ops"
    )
    has_gpu = torch.cuda.is_available()
    rows = [measure(case) for device in ["cpu", *(["cuda"] if has_gpu else [])] for case in cases(device)]
    for row in rows:
        reads = "-" if row["times_read"] is None else f"{row['times_read']:.2f}"
        share = row["copy_bandwidth_share"]
        reached = f"{share:.0%}" if share else ("on the CPU" if has_gpu else "no GPU")
        time = f"{row['milliseconds']:.3f} ms"
        table.add_row(
            row["op"], row["case"], f"{row['megabytes']:.1f} MB", time, f"{row['times_eager']:.1f}", reads, reached
        )
    console = Console(width=140)
    console.print(table)
    console.print(f"written: {write('ops', rows)}")


if __name__ == "__main__":
    main()
