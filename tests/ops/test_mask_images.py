"""Copies of images, each times one resampled map: x_c (u - min u) / (max u - min u), or x_c u."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from fastcam import ops
from fastcam.ops import numerics, reference
from tests.ops import formulas
from tests.ops.op_tester import (
    DTYPES,
    LAYOUTS,
    channels_last,
    close,
    contiguous,
    named,
    result_dtype,
    same_bits,
    threads,
)
from tests.support.tiers import thinned

# images (N, C, *S) and maps (N, K, *s): up, down, both at once, the same, one pixel, odd sizes, many channels
CASES = [
    ((2, 3, 224, 224), (2, 4, 7, 7)),
    ((2, 3, 31, 44), (2, 3, 7, 5)),
    ((1, 1, 17, 29), (1, 2, 5, 8)),
    ((3, 5, 7, 7), (3, 1, 7, 7)),
    ((2, 3, 13, 9), (2, 3, 56, 57)),
    ((2, 4, 6, 20), (2, 2, 9, 7)),
    ((2, 2, 9, 10), (2, 3, 5, 4)),
    ((1, 2, 1, 1), (1, 3, 5, 4)),
    ((2, 3, 5, 3), (2, 2, 1, 1)),
    ((1, 37, 4, 12), (1, 2, 1, 6)),
    ((2, 3, 37), (2, 3, 11)),
    ((2, 9, 4), (2, 2, 11)),
    ((2, 3, 7, 9, 6), (2, 2, 3, 4, 5)),
    ((1, 2, 3, 2, 5), (1, 3, 6, 4, 1)),
]
EMPTY = [
    ((0, 3, 6, 5), (0, 2, 3, 3)),
    ((2, 3, 6, 5), (2, 0, 3, 3)),
    ((2, 0, 6, 5), (2, 4, 3, 3)),
    ((2, 3, 0, 5), (2, 4, 3, 3)),
    ((2, 3, 5), (2, 0, 3)),
    ((0, 3, 5), (0, 2, 3)),
    ((2, 3, 0), (2, 1, 3)),
    ((2, 3, 2, 6, 5), (2, 0, 2, 3, 3)),
    ((0, 3, 2, 6, 5), (0, 2, 2, 3, 3)),
    ((2, 3, 2, 0, 5), (2, 1, 2, 3, 3)),
]


def random_images(shape, dtype=torch.float32, device="cpu"):
    return torch.randn(shape, generator=torch.Generator().manual_seed(5)).to(device, dtype)


def random_maps(shape, dtype=torch.float32, device="cpu"):
    return torch.randn(shape, generator=torch.Generator().manual_seed(6)).to(device, dtype)


def calls_for(images):
    """The op and, for two spatial axes, the reference."""
    return [ops.mask_images] + ([reference.mask_images] if images.dim() == 4 else [])


def check(images, maps):
    for mask_images in calls_for(images):
        for normalize in (True, False):
            close(mask_images(images, maps, normalize), formulas.masked(images, maps, normalize), images.dtype)


@pytest.mark.parametrize("layout", named([contiguous, channels_last]))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "map_shape"), CASES, ids=str)
def test_formula(shape, map_shape, dtype, layout, device):
    images = layout(random_images(shape, dtype, device), 1)
    check(images, random_maps(map_shape, dtype, device))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("shape", "map_shape"), CASES[1:], ids=str)
def test_maps_in_the_accumulation_dtype(shape, map_shape, dtype, device):
    """Half precision images under float32 maps, which are rounded nowhere."""
    check(random_images(shape, dtype, device), random_maps(map_shape, device=device))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(("layout", "map_layout"), thinned(LAYOUTS))
def test_layouts(layout, map_layout):
    for dtype in (torch.float32, torch.bfloat16):
        for shape, map_shape in [
            ((2, 5, 6, 9), (2, 3, 4, 5)),
            ((2, 3, 9), (2, 3, 11)),
            ((2, 3, 3, 4, 5), (2, 3, 2, 3, 3)),
        ]:
            check(layout(random_images(shape, dtype), 1), map_layout(random_maps(map_shape, dtype), 1))


@pytest.mark.usefixtures("kernels")
def test_expanded():
    """One image under many names, one map for all, and constants along any axis."""
    images, maps = random_images((2, 3, 6, 5)), random_maps((2, 4, 3, 3))
    for axis in range(4):
        check(images.narrow(axis, 0, 1).contiguous().expand_as(images), maps)
        check(images, maps.narrow(axis, 0, 1).contiguous().expand_as(maps))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", named([contiguous, channels_last]))
@pytest.mark.parametrize("shape", [(2, 3, 6, 5), (2, 3, 1, 1), (2, 1, 6, 5), (2, 3, 9), (2, 3, 3, 4, 5)], ids=str)
def test_memory_layout(shape, layout, dtype):
    """The copies lie in memory as the images do, ready for the network."""
    images = layout(random_images(shape, dtype), 1)
    maps = random_maps((2, 4, *[3] * (len(shape) - 2)), dtype)
    copies = ops.mask_images(images, maps)
    assert copies.dtype == dtype
    assert copies.stride() == reference.new_copies(images, 4).stride()
    assert copies.movedim(2, -1).is_contiguous() if numerics.is_channels_last(images) else copies.is_contiguous()
    assert copies.view(-1, *shape[1:]).shape[0] == 8  # (N K, C, *S) without a copy


@pytest.mark.parametrize("dtype", DTYPES)
def test_masks_are_not_rounded(dtype, device):
    """A mask near 0.3 beside images of 1000: the product has one rounding, that of its own dtype."""
    images = random_images((2, 3, 30, 31), dtype, device) + 1000
    maps = random_maps((2, 2, 5, 7), result_dtype(dtype), device)
    exact = formulas.masked(images, maps)
    error = ((ops.mask_images(images, maps).double() - exact).abs() / exact.abs().clamp(min=1e-2)).max()
    tolerance = {torch.float64: 1e-11, torch.float32: 1e-4, torch.float16: 2**-11, torch.bfloat16: 2**-8}[dtype]
    assert error <= 1.01 * tolerance


@pytest.mark.parametrize("layout", named([contiguous, channels_last]))
@pytest.mark.parametrize("dtype", DTYPES)
def test_constant_maps_mask_everything(dtype, layout, device):
    """Exactly, whatever the constant, and beside maps that are not constant."""
    for size in [(31, 30), (3, 3), (7, 7)]:
        images = layout(random_images((2, 3, *size), dtype, device), 1)
        maps = random_maps((2, 7, 7, 7), dtype, device)
        constants = torch.tensor([0.1, -0.3, 1 / 3, 0.0, 12345.678, 6e-5], device=device).to(dtype)
        maps[:, 1:] = constants[:, None, None]
        for mask_images in calls_for(images):
            copies = mask_images(images, maps)
            assert (copies[:, 1:] == 0).all()
            close(copies[:, :1], formulas.masked(images, maps[:, :1]), dtype)
            close(mask_images(images, maps, normalize=False), formulas.masked(images, maps, normalize=False), dtype)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("size", [(9, 8), (5, 4), (2, 2)], ids=str)
def test_non_finite_maps_make_their_copy_nan(size, value, dtype):
    """Wherever the value stands, also between the sampled positions; no other copy changes."""
    images = random_images((2, 3, *size), dtype)
    for mask_images in calls_for(images):
        clean = mask_images(images, random_maps((2, 3, 5, 4), dtype))
        for position in range(20):
            maps = random_maps((2, 3, 5, 4), dtype)
            maps[1, 2].view(-1)[position] = value
            copies = mask_images(images, maps)
            assert copies[1, 2].isnan().all()
            same_bits(copies[0], clean[0])
            same_bits(copies[1, :2], clean[1, :2])


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("layout", named([contiguous, channels_last]))
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_images_are_not_hidden(value, layout):
    """Not even under a mask of zeros; the rest of the image stays."""
    images, maps = random_images((2, 3, 6, 5)), random_maps((2, 2, 3, 3))
    maps[:, 1] = 0.5  # a constant map
    images[1, 2, 4, 3] = value
    images = layout(images, 1)
    for mask_images in calls_for(images):
        copies = mask_images(images, maps)
        finite = torch.ones_like(copies, dtype=torch.bool)
        finite[1, :, 2, 4, 3] = False
        assert torch.equal(copies.isfinite(), finite)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("layout", named([contiguous, channels_last]))
@pytest.mark.parametrize(("shape", "map_shape"), EMPTY, ids=str)
def test_empty(shape, map_shape, layout):
    images, maps = layout(random_images(shape), 1), random_maps(map_shape)
    for mask_images in calls_for(images):
        for normalize in (True, False):
            assert mask_images(images, maps, normalize).shape == (shape[0], map_shape[1], *shape[1:])


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", named(LAYOUTS))
def test_determinism(layout, dtype):
    """A copy has the same bits alone, in a batch, and with every number of threads."""
    images, maps = layout(random_images((3, 3, 120, 121), dtype), 1), random_maps((3, 4, 7, 9), dtype)
    with threads(2):
        batch = ops.mask_images(images, maps)
    with threads(1):
        same_bits(ops.mask_images(images, maps), batch)
        for n in range(3):
            for k in range(4):
                alone = ops.mask_images(images[n : n + 1], maps[n : n + 1, k : k + 1])
                same_bits(alone, batch[n : n + 1, k : k + 1])


def test_more_copies_than_blocks_along_an_axis(device):
    """A grid has at most 65,535 blocks along y: kernels loop over the rest."""
    maps = torch.arange(70001.0, device=device).reshape(1, -1, 1, 1)
    copies = ops.mask_images(torch.ones(1, 1, 1, 2, device=device), maps, normalize=False)
    same_bits(copies, maps[:, :, None].expand(-1, -1, -1, -1, 2).contiguous())


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    ("shape", "map_shape"),
    [
        ((2, 3, 5, 7), (2, 2, 3, 4)),
        ((1, 2, 3, 2), (1, 2, 5, 4)),
        ((2, 3, 7), (2, 2, 4)),
        ((1, 2, 3, 4, 2), (1, 2, 2, 2, 3)),
    ],
    ids=str,
)
def test_gradients(shape, map_shape, normalize):
    images = random_images(shape, torch.float64).requires_grad_()
    maps = random_maps(map_shape, torch.float64).requires_grad_()
    assert gradcheck(lambda x, m: ops.mask_images(x, m, normalize), (images, maps))
    assert gradgradcheck(lambda x, m: ops.mask_images(x, m, normalize), (images, maps), fast_mode=True)
    assert gradcheck(lambda x: ops.mask_images(x, maps.detach(), normalize), images)
    assert gradcheck(lambda m: ops.mask_images(images.detach(), m, normalize), maps)


@pytest.mark.parametrize("map_dtype", [None, torch.float32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_gradients_keep_dtype(dtype, map_dtype):
    """The gradients of half precision inputs, beside those of the same inputs in float64."""
    leaves = [random_images((2, 3, 5, 7), dtype).requires_grad_(), random_maps((2, 2, 3, 4), map_dtype or dtype)]
    leaves[1].requires_grad_()
    doubles = [each.detach().double().requires_grad_() for each in leaves]
    (ops.mask_images(*leaves) ** 2).sum().backward()
    (ops.mask_images(*doubles) ** 2).sum().backward()
    rounding = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    for leaf, double in zip(leaves, doubles, strict=True):
        assert leaf.grad.dtype == leaf.dtype
        torch.testing.assert_close(leaf.grad.double(), double.grad, rtol=0, atol=rounding * double.grad.abs().max())


def test_gradient_of_constant_maps():
    """A constant map gives none, and what it masks gets none."""
    images = random_images((2, 3, 6, 7), torch.float64).requires_grad_()
    maps = torch.full((2, 2, 3, 4), 0.25, dtype=torch.float64, requires_grad=True)
    ops.mask_images(images, maps).sum().backward()
    assert (maps.grad == 0).all()
    assert (images.grad == 0).all()


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_opcheck(dtype, normalize):
    images, maps = random_images((2, 3, 4, 5), dtype), random_maps((2, 2, 3, 3), dtype)
    for tensor in (images, maps):
        tensor.requires_grad_(dtype == torch.float64)
    op = torch.ops.fastcam.mask_images.default
    torch.library.opcheck(op, (images, maps, normalize))
    torch.library.opcheck(op, (channels_last(images.detach(), 1), maps.detach().mT, normalize))


def test_bad_input():
    x, m = random_images((2, 3, 6, 5)), random_maps((2, 4, 3, 3))
    shapes = r"`maps` must have shape \(2, K, ...\) with 2 spatial axes .* for images \(2, 3, 6, 5\), got "
    for arguments, error, message in [
        ((x.numpy(), m), TypeError, "`images` must be a torch.Tensor, got ndarray"),
        ((x.to(torch.uint8), m), TypeError, "`images` must be float32, .*, got torch.uint8"),
        ((x[0, 0], m), ValueError, r"`images` must have shape \(N, C, ...\) with 1 to 3 spatial axes, got \(6, 5\)"),
        ((x[None, None], m), ValueError, r"1 to 3 spatial axes, got \(1, 1, 2, 3, 6, 5\)"),
        ((x, None), TypeError, "`maps` must be a torch.Tensor, got NoneType"),
        ((x, m.int()), TypeError, "`maps` must be float32, .*, got torch.int32"),
        ((x, m[:, 0]), ValueError, shapes + r"\(2, 3, 3\)"),
        ((x, m[:1]), ValueError, shapes + r"\(1, 4, 3, 3\)"),
        ((x, m[..., :0]), ValueError, shapes + r"\(2, 4, 3, 0\)"),
        ((x, m[None]), ValueError, shapes + r"\(1, 2, 4, 3, 3\)"),
        ((x[..., 0], m), ValueError, r"with 1 spatial axes .* for images \(2, 3, 6\), got \(2, 4, 3, 3\)"),
        ((x, m.double()), TypeError, "`maps` must have the dtype of `images`, torch.float32, got torch.float64"),
        ((x, m.half()), TypeError, "`maps` must have the dtype of `images`, torch.float32, got torch.float16"),
        ((x.half(), m.bfloat16()), TypeError, "`maps` must have the dtype .*float16, got torch.bfloat16"),
        ((x.double(), m), TypeError, "`maps` must have the dtype .*float64, got torch.float32"),
        ((x, m.to("meta")), ValueError, "`maps` must be on the device of `images`, cpu, got meta"),
    ]:
        with pytest.raises(error, match=message):
            ops.mask_images(*arguments)


def test_bad_input_of_the_bare_op():
    x, m = random_images((2, 3, 6, 5)), random_maps((2, 4, 3, 3))
    shapes = r"`maps` must have shape \(2, K, h, w\) .* for images \(2, 3, 6, 5\), got "
    for arguments, message in [
        ((x[0], m), r"`images` must have shape \(N, C, H, W\), got \(3, 6, 5\)"),
        ((x[0, 0, 0, 0], m), r"`images` must have shape \(N, C, H, W\), got \(\)"),
        ((x[None], m), r"`images` must have shape \(N, C, H, W\), got \(1, 2, 3, 6, 5\)"),
        ((x, m[0]), shapes + r"\(4, 3, 3\)"),
        ((x, m[0, 0, 0, 0]), shapes + r"\(\)"),
        ((x, m[:1]), shapes + r"\(1, 4, 3, 3\)"),
        ((x, m[..., :0]), shapes + r"\(2, 4, 3, 0\)"),
        ((x, m.double()), "`maps` must have the dtype of `images` or its accumulation dtype"),
        ((x.half(), m.bfloat16()), "`maps` must have the dtype of `images` or its accumulation dtype"),
        ((x, m.long()), "`maps` must have the dtype of `images` or its accumulation dtype"),
        ((x.long(), m.long()), "fastcam.*Long"),
        ((x, "maps"), "fastcam::mask_images"),
    ]:
        with pytest.raises((RuntimeError, TypeError), match=message):
            torch.ops.fastcam.mask_images(*arguments)
