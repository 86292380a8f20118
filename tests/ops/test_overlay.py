"""Colours of maps blended over images: byte for byte the formula in fractions, and what the NumPy rendering gives."""

import numpy as np
import pytest
import torch

from fastcam import ops, render
from fastcam._extension import host
from fastcam.ops import reference
from tests.ops import formulas
from tests.ops.op_tester import DTYPES, named, same_bits, threads

ALPHAS = [0, 0.1, 0.3, 0.5, 0.7, 1 / 3, 1e-30, 1]
SHAPES = [(7, 5), (3, 7, 5), (2, 3, 4, 5), (1, 1), (9,), (2, 0, 5), (0, 7, 5)]
NAN, INF = float("nan"), float("inf")


def random_bytes(shape, seed=7, device="cpu"):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)).to(device)


def random_maps(shape, dtype=torch.float32, device="cpu"):
    """From a little below 0 to a little above 1, every ninth NaN, some infinite."""
    maps = torch.rand(shape, generator=torch.Generator().manual_seed(8)) * 1.2 - 0.1
    maps.view(-1)[::9], maps.view(-1)[4::31], maps.view(-1)[5::37] = NAN, INF, -INF
    return maps.to(device, dtype)


def arguments(shape, dtype=torch.float32, device="cpu"):
    return random_bytes((*shape, 3), 7, device), random_maps(shape, dtype, device), random_bytes((256, 3), 9, device)


def exact(images, maps, colors, alpha):
    values = maps.float().cpu().numpy()
    return torch.from_numpy(formulas.overlaid(images.cpu().numpy(), values, colors.cpu().numpy(), alpha))


def check(images, maps, colors, alpha):
    expected = exact(images, maps, colors, alpha)
    for overlay in (ops.overlay, reference.overlay):
        out = overlay(images, maps, colors, alpha)
        assert out.is_contiguous()
        same_bits(out.cpu(), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_formula(shape, dtype, device):
    for alpha in ALPHAS:
        check(*arguments(shape, dtype, device), alpha)


@pytest.mark.usefixtures("kernels")
def test_by_hand():
    """Halves round upwards; NaN shows the image, infinities and what lies outside the ends of the colours."""
    images = torch.tensor([[100, 200, 0]], dtype=torch.uint8).repeat(7, 1)
    colors = torch.zeros(256, 3, dtype=torch.uint8)
    colors[0], colors[255], colors[128] = torch.tensor([[1, 1, 1], [255, 255, 255], [50, 51, 52]]).byte()
    maps = torch.tensor([0.0, 1.0, NAN, INF, -INF, 0.5, 7.0])
    dark, bright, middle = [51, 101, 1], [178, 228, 128], [75, 126, 26]
    expected = [dark, bright, [100, 200, 0], bright, dark, middle, bright]
    for overlay in (ops.overlay, reference.overlay):
        assert overlay(images, maps, colors, 0.5).tolist() == expected


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("overlay", [ops.overlay, reference.overlay])
def test_every_pixel_under_every_colour(overlay):
    """All pairs of bytes; the products are exact in float64, whatever a compiler makes of them."""
    pixels, shades = torch.arange(256).byte()[:, None, None].expand(256, 256, 3), torch.arange(256) / 255
    colors = torch.arange(256).byte()[:, None].expand(256, 3)
    maps = shades.expand(256, 256)
    first, second = np.arange(256.0)[:, None, None], np.arange(256.0)[None, :, None]
    for alpha in ALPHAS:
        expected = np.floor(first + np.float64(np.float32(alpha)) * (second - first) + 0.5)
        assert np.array_equal(overlay(pixels, maps, colors, alpha).numpy(), np.broadcast_to(expected, (256, 256, 3)))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("overlay", [ops.overlay, reference.overlay])
def test_every_step_between_two_colours(overlay):
    """The floats around every boundary between two bytes."""
    ends = (torch.arange(255).double() + 0.5) / 255
    maps = ends.float()
    maps = torch.stack([maps.nextafter(torch.tensor(-INF)), maps, maps.nextafter(torch.tensor(INF))])
    colors = torch.arange(256).byte()[:, None].expand(256, 3)
    images = torch.zeros(3, 255, 3, dtype=torch.uint8)
    same_bits(overlay(images, maps, colors, 1.0), exact(images, maps, colors, 1.0))


@pytest.mark.usefixtures("kernels")
@pytest.mark.skipif(host() is None, reason="the compiled part is not built")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("shape", [*SHAPES, (2, 61, 47)], ids=str)
def test_is_the_numpy_rendering(shape, dtype):
    """`fastcam.render` draws on arrays what the op draws on tensors."""
    images, maps, _ = arguments(shape, dtype)
    colors = torch.from_numpy(render.colors("jet"))
    for alpha in ALPHAS:
        drawn = ops.overlay(images, maps, colors, alpha)
        same_bits(drawn, torch.from_numpy(host().overlay(images.numpy(), maps.numpy(), colors.numpy(), alpha)))
        same_bits(drawn, torch.from_numpy(render.overlay(images.numpy(), maps.numpy(), alpha=alpha)))


def contiguous(images, maps):
    return images, maps


def planes(images, maps):
    """As decoded images often are: (N, 3, H, W) in memory."""
    return images.movedim(-1, 1).contiguous().movedim(1, -1), maps


def steps(images, maps):
    return images.repeat_interleave(2, 2)[:, :, ::2], maps.repeat_interleave(3, 1)[:, ::3]


def transposed(images, maps):
    return images.transpose(1, 2).contiguous().transpose(1, 2), maps.mT.contiguous().mT


def expanded(images, maps):
    return images[:1].expand_as(images), maps[:, :1].expand_as(maps)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("layout", named([contiguous, planes, steps, transposed, expanded]))
def test_layouts(layout):
    images, maps, colors = arguments((2, 7, 5))
    images, maps = layout(images, maps)
    check(images, maps, colors, 0.3)
    check(images, maps, colors.mT.contiguous().mT, 0.3)


@pytest.mark.usefixtures("kernels")
def test_inputs_stay():
    inputs = arguments((2, 7, 5))
    before = [each.clone() for each in inputs]
    ops.overlay(*inputs, 0.5)
    for one, other in zip(inputs, before, strict=True):
        same_bits(one, other)


def test_default_alpha():
    inputs = arguments((2, 7, 5))
    same_bits(ops.overlay(*inputs), ops.overlay(*inputs, 0.5))


@pytest.mark.usefixtures("kernels")
def test_determinism():
    images, maps, colors = arguments((3, 150, 151))
    with threads(2):
        batch = ops.overlay(images, maps, colors, 0.3)
    with threads(1):
        same_bits(ops.overlay(images, maps, colors, 0.3), batch)
        for i in range(3):
            same_bits(ops.overlay(images[i], maps[i], colors, 0.3), batch[i])
    same_bits(batch, reference.overlay(images, maps, colors, 0.3))


def test_carries_no_gradient():
    images, maps, colors = arguments((2, 7, 5))
    out = ops.overlay(images, maps.requires_grad_(), colors, 0.5)
    assert not out.requires_grad
    same_bits(out, ops.overlay(images, maps.detach(), colors, 0.5))


@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype):
    images, maps, colors = arguments((2, 4, 3), dtype)
    torch.library.opcheck(torch.ops.fastcam.overlay.default, (images, maps, colors, 0.5))
    torch.library.opcheck(torch.ops.fastcam.overlay.default, (*planes(images, maps), colors, 1.0))


def test_bad_input():
    images, maps, colors = arguments((2, 7, 5))
    shape = r"`images` must have shape \(2, 7, 5, 3\) for maps \(2, 7, 5\), got "
    for values, error, message in [
        ((images, maps.numpy(), colors), TypeError, "`maps` must be a torch.Tensor, got ndarray"),
        ((images, images, colors), TypeError, "`maps` must be float32, .*, got torch.uint8"),
        ((images.numpy(), maps, colors), TypeError, "`images` must be a uint8 tensor, got "),
        ((images.float(), maps, colors), TypeError, "`images` must be a uint8 tensor, got torch.float32"),
        ((images, maps, None), TypeError, "`colors` must be a uint8 tensor, got NoneType"),
        ((images, maps, colors.int()), TypeError, "`colors` must be a uint8 tensor, got torch.int32"),
        ((images[:1], maps, colors), ValueError, shape + r"\(1, 7, 5, 3\)"),
        ((images[..., :2], maps, colors), ValueError, shape + r"\(2, 7, 5, 2\)"),
        ((images[..., 0], maps, colors), ValueError, shape + r"\(2, 7, 5\)"),
        ((images.movedim(-1, 1), maps, colors), ValueError, shape + r"\(2, 3, 7, 5\)"),
        ((images, maps, colors[:255]), ValueError, r"`colors` must have shape \(256, 3\), got \(255, 3\)"),
        ((images, maps, colors.mT), ValueError, r"`colors` must have shape \(256, 3\), got \(3, 256\)"),
        ((images, maps.to("meta"), colors), ValueError, "`images` must be on the device of `maps`, meta, got cpu"),
        ((images, maps, colors.to("meta")), ValueError, "`colors` must be on the device of `maps`, cpu, got meta"),
        ((images, maps, colors, 1.1), ValueError, r"`alpha` must lie in \[0, 1\], got 1.1"),
        ((images, maps, colors, -0.1), ValueError, r"`alpha` must lie in \[0, 1\], got -0.1"),
        ((images, maps, colors, NAN), ValueError, r"`alpha` must lie in \[0, 1\], got nan"),
        ((images, maps, colors, "half"), TypeError, "`alpha` must be a number, got str"),
    ]:
        with pytest.raises(error, match=message):
            ops.overlay(*values)


def test_bad_input_of_the_bare_op():
    images, maps, colors = arguments((2, 7, 5))
    shape = r"`images` must have shape \(..., H, W, 3\) for maps \(..., H, W\), got "
    table = r"`colors` must be uint8 of shape \(256, 3\) .*, got shape "
    for values, message in [
        ((images, images, colors, 0.5), "fastcam.*`maps` must be float32, .*, got Byte"),
        ((images.float(), maps, colors, 0.5), "`images` must be uint8"),
        ((images[:1], maps, colors, 0.5), shape + r"\(1, 7, 5, 3\) and \(2, 7, 5\)"),
        ((images[..., :2], maps, colors, 0.5), shape + r"\(2, 7, 5, 2\)"),
        ((images[0], maps, colors, 0.5), shape + r"\(7, 5, 3\)"),
        ((images[0, 0, 0, 0], maps, colors, 0.5), shape + r"\(\)"),
        ((images, maps, colors.float(), 0.5), table),
        ((images, maps, colors[:255], 0.5), table + r"\(255, 3\)"),
        ((images, maps, colors[0, 0], 0.5), table + r"\(\)"),
        ((images, maps, colors, 1.1), r"`alpha` must lie in \[0, 1\], got 1.1"),
        ((images, maps, colors, NAN), r"`alpha` must lie in \[0, 1\], got"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            torch.ops.fastcam.overlay(*values)
