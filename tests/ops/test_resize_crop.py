"""Photographs resized and cropped: the bytes of torch's resampling on the processor, and of the formula."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fastcam import ops
from fastcam.ops import _register, reference
from tests.ops.op_tester import same_bits

# (height, width) of photographs and what they are resized to: smaller, larger, one side alone, not at all, very much.
SIZES = [
    ((37, 53), (24, 34)),
    ((24, 30), (24, 30)),
    ((20, 31), (47, 73)),
    ((50, 40), (25, 40)),
    ((13, 400), (26, 30)),
    ((301, 29), (21, 29)),
    ((1, 1), (24, 24)),
    ((3, 700), (24, 24)),
    ((64, 64), (21, 63)),
    ((99, 101), (98, 100)),
    ((900, 700), (22, 23)),
]


def photograph(seed, height, width):
    """Noise, with areas of black and white, whose edges a cubic kernel overshoots."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
    pixels[:, : height // 3] = 255
    pixels[1, :, width // 2 :] = 0
    return pixels


def packed(sizes, size):
    """Photographs of these sizes in one tensor, their places, with crops all over, and themselves."""
    photographs = [photograph(seed, *before) for seed, (before, _) in enumerate(sizes)]
    places = []
    for seed, (before, after) in enumerate(sizes):
        margins = [after[axis] - size[axis] for axis in (0, 1)]
        places += [*before, *after, margins[0] * (seed % 3) // 2, margins[1] * (seed % 4) // 3]
    return torch.cat([each.flatten() for each in photographs]), places, photographs


def by_torch(photographs, places, size, cubic):
    """Each photograph by itself, as PyTorch resizes bytes."""
    crops = []
    for index, pixels in enumerate(photographs):
        lines, columns, top, left = places[6 * index + 2 : 6 * index + 6]
        mode = "bicubic" if cubic else "bilinear"
        whole = F.interpolate(pixels[None], (lines, columns), mode=mode, antialias=True)[0]
        crops.append(whole[:, top : top + size[0], left : left + size[1]].permute(1, 2, 0))
    return torch.stack(crops)


@pytest.mark.parametrize("cubic", [False, True], ids=["bilinear", "bicubic"])
def test_formula_of_torch(cubic, device):
    pixels, places, photographs = packed(SIZES, (20, 21))
    expected = by_torch(photographs, places, (20, 21), cubic)
    for resize_crop in (ops.resize_crop, reference.resize_crop):
        crops = resize_crop(pixels.to(device), places, (20, 21), cubic)
        assert crops.is_contiguous()
        same_bits(crops.cpu(), expected)


@pytest.mark.parametrize("cubic", [False, True], ids=["bilinear", "bicubic"])
def test_formula_in_the_middle(cubic, device):
    """Weights have as many bits as the largest of the whole photograph allows, which lies at its edge."""
    sizes = [((32, 36), (48, 54)), ((104, 130), (25, 31))]
    photographs = [photograph(5, *before) for before, _ in sizes]
    places = [number for before, after in sizes for number in (*before, *after, after[0] // 2 - 10, after[1] // 2 - 10)]
    pixels = torch.cat([each.flatten() for each in photographs])
    found = ops.resize_crop(pixels.to(device), places, (21, 21), cubic)
    same_bits(found.cpu(), by_torch(photographs, places, (21, 21), cubic))


@pytest.mark.parametrize("cubic", [False, True], ids=["bilinear", "bicubic"])
def test_any_scale(cubic, device):
    """Whole axes, of every size from 1 to 160 to every fourth from 1 to 40: where products are rounded matters."""
    sizes = [((1 + index, 160 - index), (1 + index % 40, 1 + (7 * index) % 40)) for index in range(160)]
    for size in ((1, 1), (3, 2)):
        some = [pair for pair in sizes if pair[1][0] >= size[0] and pair[1][1] >= size[1]]
        some = [pair for pair in some if pair[1] != (1, 1)]  # which PyTorch refuses
        pixels, places, photographs = packed(some, size)
        found = ops.resize_crop(pixels.to(device), places, size, cubic)
        same_bits(found.cpu(), by_torch(photographs, places, size, cubic))


def weights_of(source, resized, cubic):
    """(resized, source) weights by the definition, in float64, before they become whole numbers."""
    scale = source / resized
    distance = (np.arange(source) + 0.5 - scale * (np.arange(resized)[:, None] + 0.5)) / max(scale, 1)
    x = np.abs(distance)
    inner, outer = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    values = np.where(x < 1, inner, np.where(x < 2, outer, 0)) if cubic else np.maximum(1 - x, 0)
    return values / values.sum(1, keepdims=True)


@pytest.mark.parametrize("cubic", [False, True], ids=["bilinear", "bicubic"])
def test_formula(cubic, device):
    """Within a step of the fractions: lines are rounded before columns are summed."""
    for before, after in SIZES:
        pixels = photograph(5, *before)
        down, across = (weights_of(*pair, cubic) for pair in zip(before, after, strict=True))
        lines = np.clip(np.einsum("chw,xw->chx", pixels.numpy().astype(float), across), 0, 255)
        exact = np.clip(np.einsum("yh,chx->yxc", down, lines), 0, 255)
        found = ops.resize_crop(pixels.flatten().to(device), [*before, *after, 0, 0], after, cubic)[0].cpu().numpy()
        assert np.abs(found - exact).max() < (2.5 if cubic else 1.1), (before, after)


def test_layouts_in_groups(device):
    """More than a kernel is told of at once; the first and the last of a group are their own."""
    sizes = [((20 + index, 90 - index), (18, 19)) for index in range(70)]
    pixels, places, photographs = packed(sizes, (17, 18))
    same_bits(
        ops.resize_crop(pixels.to(device), places, (17, 18)).cpu(), by_torch(photographs, places, (17, 18), False)
    )
    assert ops.resize_crop(pixels[:0].to(device), [], (17, 18)).shape == (0, 17, 18, 3)


def test_layouts_in_memory(device):
    pixels, places, photographs = packed(SIZES[:3], (9, 8))
    apart = torch.stack([pixels, pixels], 1).to(device)[:, 0]
    same_bits(ops.resize_crop(apart, places, (9, 8)).cpu(), by_torch(photographs, places, (9, 8), False))
    at_one = torch.cat([pixels[:1], pixels]).to(device)[1:]
    same_bits(ops.resize_crop(at_one, places, (9, 8)).cpu(), by_torch(photographs, places, (9, 8), False))


PIXELS = torch.zeros(3 * 4 * 5, dtype=torch.uint8)
BAD = {
    "floats": (PIXELS.float(), [4, 5, 4, 5, 0, 0], (2, 2), TypeError, "`pixels` must be a uint8 tensor, got torch.f"),
    "a list": ([1], [4, 5, 4, 5, 0, 0], (2, 2), TypeError, "`pixels` must be a uint8 tensor, got list"),
    "five numbers": (PIXELS, [4, 5, 4, 5, 0], (2, 2), ValueError, "`places` must have 6 numbers of each photograph"),
    "no line": (PIXELS, [0, 5, 4, 5, 0, 0], (2, 2), ValueError, "photograph 0 must have pixels"),
    "no line after": (PIXELS, [4, 5, 0, 5, 0, 0], (2, 2), ValueError, "got 4 x 5 to 0 x 5"),
    "no crop": (PIXELS, [4, 5, 4, 5, 0, 0], (0, 2), ValueError, "`size` must be two positive numbers, got"),
    "a crop below": (PIXELS, [4, 5, 4, 5, 3, 0], (2, 2), ValueError, r"2 x 2 from \(3, 0\), reaches beyond its 4 x 5"),
    "a crop before": (PIXELS, [4, 5, 4, 5, 0, -1], (2, 2), ValueError, r"from \(0, -1\), reaches beyond"),
    "too few bytes": (PIXELS, [4, 6, 4, 5, 0, 0], (2, 2), ValueError, r"`pixels` must have shape \(72,\) for these"),
    "two axes": (PIXELS[None], [4, 5, 4, 5, 0, 0], (2, 2), ValueError, r"must have shape \(60,\) .* got \(1, 60\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    pixels, places, size, error, message = BAD[case]
    with pytest.raises(error, match=message):
        ops.resize_crop(pixels, places, size)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("places", [[4, 5, 4, 5, 3, 0], [4, 5, 4, 5, 0, 4], [0, 5, 4, 5, 0, 0], [9, 5, 4, 5, 0, 0]])
def test_the_op_itself_reads_nothing_beyond(places):
    """Called past the wrapper, as exported programs do."""
    with pytest.raises((RuntimeError, ValueError)):
        _register.namespace.resize_crop.default(PIXELS, places, [2, 2], False)
