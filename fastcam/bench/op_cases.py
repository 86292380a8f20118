"""All ops on tensors of realistic sizes: last-layer activations for reductions, maps and images of 224 x 224."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from fastcam import ops, render
from fastcam.bench import eager


@dataclass(frozen=True)
class OpCase:
    """One op on one set of tensors.

    Attributes:
        op: name of the op.
        label: description of the tensors.
        call: runs the op.
        eager: runs the same formula in eager PyTorch.
        read: the tensors that the op must read.
    """

    op: str
    label: str
    call: Callable[[], Tensor]
    eager: Callable[[], Tensor]
    read: tuple[Tensor, ...]

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self.read[0].device

    @property
    def reduces(self) -> bool:
        """Whether the output is small, so that reading the input is the lower bound."""
        return 8 * self.call().nbytes < sum(tensor.nbytes for tensor in self.read)

    @property
    def bytes(self) -> int:
        """The bytes that must be moved: every input read once, the output written once."""
        return sum(tensor.nbytes for tensor in (*self.read, self.call()))


@dataclass(frozen=True)
class Batch:
    """Random activations and gradients of one shape, by default that of ResNet-50's last layer."""

    count: int
    dtype: torch.dtype = torch.float32
    layout: torch.memory_format = torch.contiguous_format
    plane: tuple[int, int, int] = (2048, 7, 7)

    @property
    def label(self) -> str:
        """The shape, the dtype and the layout."""
        shape, dtype = "x".join(map(str, (self.count, *self.plane))), str(self.dtype).removeprefix("torch.")
        return f"{shape} {dtype}{' channels_last' if self.layout is _LAST else ''}"

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Return activations and gradients, on the default device."""
        shape = (self.count, *self.plane)
        a = torch.rand(shape).to(self.dtype).contiguous(memory_format=self.layout)
        return a, (torch.randn(shape) * 1e-3).to(self.dtype).contiguous(memory_format=self.layout)


_LAST, _HALF = torch.channels_last, torch.bfloat16
# The first batch of each device is larger than the caches, so that reading it reads memory. On a GPU: the last layer of
# a ResNet, the layer before it, its first stage, and a small batch.
BATCHES = {
    "cpu": (Batch(128), Batch(32), Batch(32, layout=_LAST), Batch(32, _HALF)),
    "cuda": tuple(
        Batch(count, dtype, layout, plane)
        for count, plane in ((512, (2048, 7, 7)), (256, (1024, 14, 14)), (64, (256, 56, 56)), (16, (2048, 7, 7)))
        for dtype in (torch.float32, _HALF)
        for layout in (torch.contiguous_format, _LAST)
    ),
}
_LAYOUTS = {"": torch.contiguous_format, " channels_last": torch.channels_last}


def op_cases(device: torch.device | str = "cpu", batches: int | None = None, only: Sequence[str] = ()) -> list[OpCase]:
    """Return the cases on a device.

    Args:
        device: of the tensors.
        batches: number of ``BATCHES`` for the channel reductions; None for all.
        only: names of ops; empty for all.

    The other ops get eight times as much to do on a GPU, which less would not fill.
    """
    torch.manual_seed(0)
    cases: list[OpCase] = []
    with torch.device(device):
        if not only or set(only) & set(_REDUCTIONS):
            for batch in BATCHES["cuda" if torch.device(device).type == "cuda" else "cpu"][:batches]:
                cases += _reductions(batch)
        fill = 8 if torch.device(device).type == "cuda" else 1
        cases += [
            _upsampling(32 * fill),
            _occlusion(4 * fill, 8 if fill == 1 else 169),
            *_masks(4 * fill),
            *_gathers(64 * fill),
            _imputation(8 * fill),
            _overlay(32 * fill),
            _photographs(32 * fill),
        ]
    return [case for case in cases if not only or case.op in only]


_REDUCTIONS = (
    *("grad_cam", "grad_cam_pp", "xgrad_cam", "layer_cam"),
    *("channel_mean", "plane_moments", "weighted_channel_sum"),
)


def _reductions(batch: Batch) -> list[OpCase]:
    (a, g), label = batch.tensors(), batch.label
    weights = torch.randn(a.shape[:2], dtype=a.dtype)
    pairs = [(name, getattr(ops, name), getattr(eager, name)) for name in _REDUCTIONS[:4]]
    cases = [OpCase(name, label, partial(op, a, g), partial(formula, a, g), (a, g)) for name, op, formula in pairs]
    summed = OpCase(
        "weighted_channel_sum",
        label,
        partial(ops.weighted_channel_sum, a, weights),
        lambda: (weights[:, :, None, None] * a).sum(1),
        (a,),
    )
    return [
        *cases,
        OpCase("channel_mean", label, partial(ops.channel_mean, g), partial(torch.mean, g, (2, 3)), (g,)),
        OpCase("plane_moments", label, partial(ops.plane_moments, a), partial(eager.plane_moments, a), (a,)),
        summed,
    ]


def _upsampling(count: int) -> OpCase:
    maps, size = torch.rand(count, 7, 7), (224, 224)
    return OpCase(
        "upsample_normalize",
        f"{count}x7x7 to 224x224",
        partial(ops.upsample_normalize, maps, size),
        partial(eager.upsample_normalize, maps, size),
        (maps,),
    )


def _occlusion(images_count: int, count: int) -> OpCase:
    images = torch.rand(images_count, 3, 224, 224)
    windows = torch.stack([torch.randint(0, 192, (count, 2)), torch.full((count, 2), 32)], 1)
    return OpCase(
        "occlude",
        f"{images_count}x3x224x224, {count} windows",
        partial(ops.occlude, images, windows),
        partial(eager.occlude, images, windows),
        (images,),
    )


def _masks(count: int) -> list[OpCase]:
    """The inputs of Score-CAM: images under maps of a last layer, in both layouts."""
    maps, cases = torch.rand(count, 8, 7, 7), []
    for label, layout in _LAYOUTS.items():
        images = torch.rand(count, 3, 224, 224).contiguous(memory_format=layout)
        cases.append(
            OpCase(
                "mask_images",
                f"{count}x3x224x224, 8 maps{label}",
                partial(ops.mask_images, images, maps),
                partial(eager.mask_images, images, maps),
                (images, maps),
            )
        )
    return cases


def _gathers(count: int) -> list[OpCase]:
    """Windows that a 3x3 convolution of a first stage reads for 8x8 patches, in both layouts."""
    origins = torch.randint(0, 49, (count, 2))
    images, windows, size = torch.randint(0, 4, (count,)), origins - 2, (12, 12)
    cases = []
    for label, layout in _LAYOUTS.items():
        clean = torch.rand(4, 64, 56, 56).contiguous(memory_format=layout)
        patches = torch.rand(count, 64, 8, 8).contiguous(memory_format=layout)
        inputs = (clean, images, patches, origins, windows, size)
        cases.append(
            OpCase(
                "gather_patches",
                f"{count} of 12x12 from 4x64x56x56{label}",
                partial(ops.gather_patches, *inputs),
                partial(eager.gather_patches, *inputs),
                (patches,),
            )
        )
    return cases


def _imputation(count: int) -> OpCase:
    """Half of every image under a map of 7x7 positions."""
    images, maps = torch.rand(count, 3, 224, 224), torch.rand(count, 7, 7)
    missing = ops.upsample_normalize(maps, (224, 224)) > 0.5
    inputs = (images, missing)
    return OpCase(
        "impute_neighbours",
        f"{count}x3x224x224",
        partial(ops.impute_neighbours, *inputs),
        partial(eager.impute_neighbours, *inputs),
        inputs,
    )


def _photographs(count: int) -> OpCase:
    """Photographs of several sizes, as ImageNet has them, to the inputs of a classifier."""
    sides = [(375, 500), (500, 333), (400, 500), (480, 640)]
    sizes = [sides[index % len(sides)] for index in range(count)]
    places = []
    for height, width in sizes:
        resized = [256 * height // min(height, width), 256 * width // min(height, width)]
        places += [height, width, *resized, (resized[0] - 224) // 2, (resized[1] - 224) // 2]
    pixels = torch.randint(0, 256, (3 * sum(height * width for height, width in sizes),), dtype=torch.uint8)
    return OpCase(
        "resize_crop",
        f"{count} of some 375x500",
        partial(ops.resize_crop, pixels, places, (224, 224)),
        partial(eager.resize_crop, pixels, places, (224, 224)),
        (pixels,),
    )


def _overlay(count: int) -> OpCase:
    """Overlays for a batch of images."""
    images, maps = torch.randint(0, 256, (count, 224, 224, 3), dtype=torch.uint8), torch.rand(count, 224, 224)
    colors = torch.from_numpy(render.colors("jet")).to(images.device)
    return OpCase(
        "overlay",
        f"{count}x224x224",
        partial(ops.overlay, images, maps, colors, 0.5),
        partial(eager.overlay, images, maps, colors, 0.5),
        (images, maps),
    )
