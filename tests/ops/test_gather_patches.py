"""Windows of activations with changed patches pasted in: bit for bit, and what a convolution makes of them."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from fastcam import ops
from fastcam.ops import reference
from tests.ops import formulas
from tests.ops.op_tester import DTYPES, LAYOUTS, channels_last, contiguous, named, same_bits, threads
from tests.support.tiers import covering, thinned

FEWEST, MOST = -(2**63), 2**63 - 1
EXTREMES = [FEWEST, FEWEST + 1, FEWEST + 3, -(2**62), -1, 0, 2, 2**62, MOST - 3, MOST - 1, MOST]

# clean (N, C, H, W), patch (h, w), size of the windows
CASES = [
    ((2, 3, 6, 5), (2, 3), (4, 4)),
    ((3, 1, 7, 3), (1, 1), (3, 9)),
    ((2, 5, 1, 1), (3, 2), (2, 3)),
    ((1, 4, 5, 8), (9, 9), (1, 1)),
    ((2, 2, 4, 4), (4, 4), (4, 4)),
    ((2, 17, 9, 33), (3, 20), (5, 37)),
]


def random(shape, dtype=torch.float32, device="cpu", seed=3):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def places(shape, patch, size, count=40, device="cpu"):
    """Images, origins and windows of `count` patches: inside, over every border, outside, and far from each other."""
    generator = torch.Generator().manual_seed(5)

    def corner(extent):
        """From wholly before the map to wholly behind it, along both axes."""
        ends = zip(extent, shape[2:], strict=True)
        axes = [torch.randint(-length - 1, limit + 2, (count,), generator=generator) for length, limit in ends]
        return torch.stack(axes, 1).to(device)

    images = torch.randint(0, shape[0], (count,), generator=generator).to(device)
    return images, corner(patch), corner(size)


def arguments(shape, patch, size, dtype=torch.float32, device="cpu", count=40):
    """All arguments of one case, the fill left out."""
    images, origins, windows = places(shape, patch, size, count, device)
    clean, patches = random(shape, dtype, device), random((count, shape[1], *patch), dtype, device, seed=4)
    return clean, images, patches, origins, windows, size


def check(*arguments):
    expected = formulas.gathered(*arguments)
    for gather_patches in (ops.gather_patches, reference.gather_patches):
        same_bits(gather_patches(*arguments), expected)


@pytest.mark.parametrize("layout", named([contiguous, channels_last]))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "patch", "size"), CASES, ids=str)
def test_formula(shape, patch, size, dtype, layout, device):
    clean, images, patches, *rest = arguments(shape, patch, size, dtype, device)
    for fill in (0.0, 0.1, float("-inf")):
        check(layout(clean, 1), images, layout(patches, 1), *rest, fill)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(("first", "second", "dtype"), thinned(LAYOUTS, [torch.float32, torch.bfloat16]))
def test_layouts(first, second, dtype):
    clean, images, patches, *rest = arguments((2, 3, 6, 5), (2, 3), (4, 4), dtype, count=12)
    check(first(clean, 1), images, second(patches, 1), *rest)


@pytest.mark.usefixtures("kernels")
def test_expanded_and_strided():
    clean, images, patches, origins, windows, size = arguments((2, 3, 6, 5), (2, 3), (4, 4))
    check(clean[:1].expand(2, -1, -1, -1), images, patches[:1].expand(40, -1, -1, -1), origins, windows, size)
    check(clean[..., :1].expand(-1, -1, -1, 5), images[::2], patches[::2], origins[::2], windows[::2], size)
    check(clean, images, patches, origins.mT.contiguous().mT, windows[:1].expand(40, 2), size)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("axis", [0, 1])
def test_every_place_along_one_axis(axis):
    """All pairs of origin and window from before the map to behind it."""
    pairs = list(itertools.product(range(-4, 6), range(-5, 6)))
    origins, windows = torch.ones(len(pairs), 2).long(), torch.ones(len(pairs), 2).long()
    origins[:, axis], windows[:, axis] = torch.tensor(pairs).unbind(1)
    clean, patches = random((1, 2, 4, 4)), random((len(pairs), 2, 3, 3), seed=4)
    for layout in (contiguous, channels_last):
        check(layout(clean, 1), torch.zeros(len(pairs)).long(), patches, origins, windows, (4, 4))


@pytest.mark.usefixtures("kernels")
def test_extreme_places():
    """Origins and windows at the very ends of int64, where every difference overflows."""
    pairs = torch.tensor(list(itertools.product(EXTREMES, repeat=2)))
    images, ones = torch.ones(len(pairs)).long(), torch.ones(len(pairs), 2).long()
    clean, patches = random((2, 2, 6, 5)), random((len(pairs), 2, 2, 3), seed=4)
    for layout in (contiguous, channels_last):
        check(layout(clean, 1), images, patches, pairs, ones, (4, 4))
        check(layout(clean, 1), images, patches, ones, pairs, (4, 4))
        check(layout(clean, 1), images, patches, pairs, pairs.flip(0), (4, 4))
        check(layout(clean, 1), images, patches, pairs, pairs, (4, 4))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_bits_of_every_value(dtype):
    """NaN payloads, infinities, signed zeros and denormals pass through."""
    width = torch.empty(0, dtype=dtype).element_size()
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[width]
    top = torch.iinfo(integers)
    clean = torch.randint(top.min, top.max, (2, 3, 6, 5), dtype=integers)
    patches = torch.randint(top.min, top.max, (40, 3, 2, 3), dtype=integers)
    images, origins, windows = places((2, 3, 6, 5), (2, 3), (4, 4))
    expected = formulas.gathered(clean, images, patches, origins, windows, (4, 4), 0)
    for layout in (lambda x: x, lambda x: channels_last(x, 1)):
        for gather_patches in (ops.gather_patches, reference.gather_patches):
            out = gather_patches(layout(clean.view(dtype)), images, patches.view(dtype), origins, windows, (4, 4))
            assert torch.equal(out.contiguous().view(integers), expected)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("gather_patches", [ops.gather_patches, reference.gather_patches])
def test_memory_layout(gather_patches):
    """The windows lie in memory as the clean activations do, ready for the layer."""
    clean, images, patches, *rest = arguments((2, 3, 6, 5), (2, 3), (4, 4))
    for changed in (patches, channels_last(patches, 1)):
        assert gather_patches(clean, images, changed, *rest).is_contiguous()
        out = gather_patches(channels_last(clean, 1), images, changed, *rest)
        assert out.is_contiguous(memory_format=torch.channels_last)
        assert not out.is_contiguous()
        assert gather_patches(clean.mT.contiguous().mT, images, changed, *rest).is_contiguous()


@pytest.mark.usefixtures("kernels")
def test_inputs_stay():
    inputs = arguments((2, 3, 6, 5), (2, 3), (4, 4))
    before = [each.clone() for each in inputs[:5]]
    ops.gather_patches(*inputs)
    for one, other in zip(inputs, before, strict=False):
        same_bits(one, other)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("layout", named([contiguous, channels_last]))
def test_empty(layout):
    shape, patch, size = CASES[0]
    clean, images, patches, origins, windows, size = arguments(shape, patch, size)
    clean = layout(clean, 1)
    check(clean, images[:0], patches[:0], origins[:0], windows[:0], size)
    check(clean[:0], images[:0], patches[:0], origins[:0], windows[:0], size)
    check(clean[:, :0], images, patches[:, :0], origins, windows, size)
    check(clean, images, patches[..., :0, :], origins, windows, size)
    check(clean, images, patches[..., :0], origins, windows, size)
    check(clean[:, :, :0], images, patches, origins, windows, size, 3.0)
    check(clean[..., :0], images, patches, origins, windows, size, 3.0)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("layout", named([contiguous, channels_last]))
def test_determinism(layout):
    """The same bits with every number of threads, and for each patch alone."""
    clean, images, patches, origins, windows, size = arguments((3, 70, 20, 21), (5, 6), (9, 11))
    clean = layout(clean, 1)
    with threads(2):
        batch = ops.gather_patches(clean, images, patches, origins, windows, size)
    with threads(1):
        same_bits(ops.gather_patches(clean, images, patches, origins, windows, size), batch)
        for m in range(0, 40, 7):
            one = slice(m, m + 1)
            alone = ops.gather_patches(clean, images[one], patches[one], origins[one], windows[one], size)
            same_bits(alone, batch[one])
    same_bits(batch, formulas.gathered(clean, images, patches, origins, windows, size))


# what the windows are for


def pasted(clean, images, patches, origins):
    """The whole maps (M, C, H, W) of the changed images."""
    return formulas.gathered(clean, images, patches, origins, torch.zeros_like(origins), clean.shape[2:])


def whole_numbers(shape, seed):
    """Of few bits, in float64: sums of their products are exact in any order."""
    return torch.randint(-8, 9, shape, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "layout"),
    covering([1, (3, 2), 5], [1, (2, 3)], [0, (1, 2), 3], [1, (2, 1)], [contiguous, channels_last]),
)
def test_convolution(kernel, stride, padding, dilation, layout):
    """Of the whole changed map, cut out afterwards, it is that of the windows without padding."""
    convolution = torch.nn.Conv2d(3, 4, kernel, stride, padding, dilation).double()
    convolution.weight.data = whole_numbers(convolution.weight.shape, 1)
    convolution.bias.data = whole_numbers((4,), 2)
    count, generator = 24, torch.Generator().manual_seed(6)
    clean, patches = layout(whole_numbers((3, 3, 13, 12), 3), 1), whole_numbers((count, 3, 4, 3), 4)
    images, origins, _ = places(clean.shape, (4, 3), (1, 1), count)
    whole = convolution(pasted(clean, images, patches, origins))
    part = [min(2, whole.shape[2]), min(3, whole.shape[3])]  # height and width of what is wanted
    first = [torch.randint(0, whole.shape[2 + i] - part[i] + 1, (count,), generator=generator) for i in (0, 1)]
    windows = torch.stack([first[i] * convolution.stride[i] - convolution.padding[i] for i in (0, 1)], 1)
    reach = [convolution.dilation[i] * (convolution.kernel_size[i] - 1) + 1 for i in (0, 1)]
    size = [(part[i] - 1) * convolution.stride[i] + reach[i] for i in (0, 1)]
    inputs = ops.gather_patches(clean, images, patches, origins, windows, size)
    parts = F.conv2d(inputs, convolution.weight, convolution.bias, convolution.stride, 0, convolution.dilation)
    for m, (top, left) in enumerate(zip(*first, strict=True)):
        assert torch.equal(parts[m], whole[m, :, top : top + part[0], left : left + part[1]])


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("layout", named([contiguous, channels_last]))
def test_max_pooling(layout):
    clean, images, patches, origins, *_ = arguments((3, 4, 11, 12), (4, 3), (1, 1))
    whole = F.max_pool2d(pasted(clean, images, patches, origins), 3, stride=2, padding=1)
    for top, left in [(0, 0), (2, 3), (4, 4)]:
        windows = torch.tensor([[2 * top - 1, 2 * left - 1]]).expand(len(images), 2)
        inputs = ops.gather_patches(layout(clean, 1), images, patches, origins, windows, (5, 5), float("-inf"))
        assert torch.equal(F.max_pool2d(inputs, 3, stride=2), whole[:, :, top : top + 2, left : left + 2])


# registration and gradients


@pytest.mark.parametrize("layout", named([contiguous, channels_last]))
@pytest.mark.parametrize(("patch", "size"), [((2, 2), (3, 4)), ((5, 1), (2, 2)), ((0, 2), (3, 3))], ids=str)
def test_gradients(patch, size, layout):
    clean, images, patches, origins, windows, _ = arguments((2, 2, 4, 3), patch, size, torch.float64, count=7)
    clean, patches = layout(clean, 1).detach().requires_grad_(), patches.requires_grad_()

    def call(c, p):
        return ops.gather_patches(c, images, p, origins, windows, size, 0.5)

    assert gradcheck(call, (clean, patches))
    assert gradgradcheck(call, (clean, patches), fast_mode=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_of_many_windows(dtype):
    """Every element's gradient is how often it was read, also beyond what half precision can count by ones."""
    count = 3000
    clean, patches = torch.ones(1, 2, 4, 4, dtype=dtype), torch.ones(count, 2, 2, 2, dtype=dtype)
    origins, windows = torch.ones(count, 2).long(), torch.zeros(count, 2).long()
    leaves = clean.requires_grad_(), patches.requires_grad_()
    ops.gather_patches(clean, torch.zeros(count).long(), patches, origins, windows, (3, 4)).sum().backward()
    expected = torch.full((1, 2, 4, 4), float(count))
    expected[..., 1:3, 1:3] = 0
    expected[..., 3, :] = 0
    assert leaves[0].grad.dtype == leaves[1].grad.dtype == dtype
    assert torch.equal(leaves[0].grad, expected.to(dtype))
    assert torch.equal(leaves[1].grad, torch.ones_like(patches))


@pytest.mark.parametrize("fill", [0.0, float("-inf")])
def test_opcheck(fill):
    clean, images, patches, *rest = arguments((2, 3, 4, 3), (2, 2), (3, 4), torch.float64, count=6)
    op = torch.ops.fastcam.gather_patches.default
    last = channels_last(clean.bfloat16(), 1)
    torch.library.opcheck(op, (clean.requires_grad_(), images, patches.requires_grad_(), *rest, fill))
    torch.library.opcheck(op, (last, images, patches.detach().bfloat16(), *rest, fill))


@pytest.mark.usefixtures("kernels")
def test_default_fill():
    inputs = arguments(*CASES[0])
    same_bits(ops.gather_patches(*inputs), ops.gather_patches(*inputs, 0.0))
    same_bits(torch.ops.fastcam.gather_patches(*inputs), ops.gather_patches(*inputs, fill=0))


# bad input


def test_bad_input():
    c, i, p, o, w, size = arguments((2, 3, 6, 5), (2, 3), (4, 4))
    patches = r"`patches` must have shape \(M, 3, h, w\), got "
    sizes = r"`size` must be two positive whole numbers \(height, width\), got "
    for values, error, message in [
        ((c.tolist(), i, p, o, w, size), TypeError, "`clean` must be a torch.Tensor, got list"),
        ((c.long(), i, p, o, w, size), TypeError, "`clean` must be float32, .*, got torch.int64"),
        ((c[0], i, p, o, w, size), ValueError, r"`clean` must have shape \(N, C, H, W\), got \(3, 6, 5\)"),
        ((c, i, None, o, w, size), TypeError, "`patches` must be a torch.Tensor, got NoneType"),
        ((c, i, p[0], o, w, size), ValueError, patches + r"\(3, 2, 3\)"),
        ((c, i, p[:, :2], o, w, size), ValueError, patches + r"\(40, 2, 2, 3\)"),
        ((c, i, p.double(), o, w, size), TypeError, "`patches` must have the dtype .*float32, got torch.float64"),
        ((c, i, p.to("meta"), o, w, size), ValueError, "`patches` must be on the device .*cpu, got meta"),
        ((c, i.int(), p, o, w, size), TypeError, "`images` must be an int64 tensor, got torch.int32"),
        ((c, 1, p, o, w, size), TypeError, "`images` must be an int64 tensor, got int"),
        ((c, i[:3], p, o, w, size), ValueError, r"`images` must have shape \(40,\) for 40 patches, got \(3,\)"),
        ((c, i[:, None], p, o, w, size), ValueError, r"`images` must have shape \(40,\) .*, got \(40, 1\)"),
        ((c, i.to("meta"), p, o, w, size), ValueError, "`images` must be on the device of `clean`, cpu, got meta"),
        ((c, i, p, o.float(), w, size), TypeError, "`origins` must be an int64 tensor, got torch.float32"),
        ((c, i, p, o[:, :1], w, size), ValueError, r"`origins` must have shape \(40, 2\) .*, got \(40, 1\)"),
        ((c, i, p, o, w[1:], size), ValueError, r"`windows` must have shape \(40, 2\) .*, got \(39, 2\)"),
        ((c, i, p, o, w.to("meta"), size), ValueError, "`windows` must be on the device of `clean`, cpu, got meta"),
        ((c, i, p, o, w, 4), ValueError, sizes + "4"),
        ((c, i, p, o, w, (4,)), ValueError, sizes + r"\(4,\)"),
        ((c, i, p, o, w, (4, 0)), ValueError, sizes + r"\(4, 0\)"),
        ((c, i, p, o, w, (4, 4.0)), ValueError, sizes + r"\(4, 4.0\)"),
        ((c, i, p, o, w, size, None), TypeError, "`fill` must be a number, got NoneType"),
        ((c, i, p, o, w, size, 1e39), ValueError, "`fill` must be infinite or within .* torch.float32, got 1e[+]39"),
        ((c.half(), i, p.half(), o, w, size, -1e5), ValueError, "within the range of torch.float16, got -100000.0"),
    ]:
        with pytest.raises(error, match=message):
            ops.gather_patches(*values)


@pytest.mark.parametrize("wrong", [-1, 2, FEWEST, MOST])
def test_images_that_are_not_there(wrong):
    clean, images, *rest = arguments((2, 3, 6, 5), (2, 3), (4, 4))
    images[17] = wrong
    with pytest.raises(RuntimeError, match=f"`images` must be at least 0 and below the 2 images .*, got {wrong}"):
        ops.gather_patches(clean, images, *rest)
    with pytest.raises(IndexError):
        reference.gather_patches(clean, images, *rest)
    with pytest.raises(RuntimeError, match="below the 0 images in `clean`, got 1"):
        torch.ops.fastcam.gather_patches(clean[:0], images.clamp(1, 1), *rest)


def test_bad_input_of_the_bare_op():
    c, i, p, o, w, size = arguments((2, 3, 6, 5), (2, 3), (4, 4))
    patches = r"`patches` must have shape \(M, 3, h, w\), got "
    for values, message in [
        ((c[0], i, p, o, w, size), r"`clean` must have shape \(N, C, H, W\), got \(3, 6, 5\)"),
        ((c[0, 0, 0, 0], i, p, o, w, size), r"`clean` must have shape .*, got \(\)"),
        ((c.long(), i, p.long(), o, w, size), "fastcam.*Long"),
        ((c, i, p[0], o, w, size), patches + r"\(3, 2, 3\)"),
        ((c, i, p[:, :2], o, w, size), patches + r"\(40, 2, 2, 3\)"),
        ((c, i, p[0, 0, 0, 0], o, w, size), patches + r"\(\)"),
        ((c, i, p.double(), o, w, size), "`patches` must have the dtype and device of `clean`"),
        ((c, i.int(), p, o, w, size), r"`images` must be int64 of shape \(40,\) .*, got shape \(40\)"),
        ((c, i[:3], p, o, w, size), r"`images` must be int64 of shape \(40,\) .*, got shape \(3\)"),
        ((c, o, p, o, w, size), r"`images` must be int64 of shape \(40,\) .*, got shape \(40, 2\)"),
        ((c, i, p, i, w, size), r"`origins` must be int64 of shape \(40, 2\) .*, got shape \(40\)"),
        ((c, i, p, o.double(), w, size), r"`origins` must be int64"),
        ((c, i, p, o, w[:, :1], size), r"`windows` must be int64 of shape \(40, 2\) .*, got shape \(40, 1\)"),
        ((c, i, p, o, w[:7], size), r"`windows` must be int64 of shape \(40, 2\) .*, got shape \(7, 2\)"),
        ((c, i, p, o, w, [4, 0]), r"`size` must be two positive numbers \(height, width\)"),
        ((c, i, p, o, w, [-4, 4]), r"`size` must be two positive numbers"),
        ((c, i, p, o, w, [4, 4, 4]), r"`size` must be two positive numbers|[Ee]xpected"),
        ((c.half(), i, p.half(), o, w, size, 1e5), "overflow|fill"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            torch.ops.fastcam.gather_patches(*values)
