"""Linear resampling (align_corners=False), then (u - min u) / (max u - min u) of each map."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from fastcam import ops
from fastcam.ops import reference
from tests.ops import formulas
from tests.ops.op_tester import DTYPES, LAYOUTS, close, named, same_bits, threads

# maps (N, [K,] *s) and the new size: up, down, both at once, the same, one pixel, and odd factors
CASES = [
    ((2, 7, 7), (224, 224)),
    ((2, 7, 5), (31, 44)),
    ((2, 3, 5, 8), (17, 29)),
    ((2, 3, 7, 7), (7, 7)),
    ((1, 14, 14), (300, 299)),
    ((2, 56, 56), (13, 9)),
    ((2, 40, 33), (50, 47)),
    ((2, 6, 20), (19, 7)),
    ((2, 12, 8), (6, 4)),
    ((2, 1, 1), (5, 3)),
    ((2, 1, 6), (4, 12)),
    ((2, 5, 4), (1, 1)),
    ((2, 5, 4), (1, 9)),
    ((3, 2, 2), (3, 3)),
    ((0, 7, 7), (14, 14)),
    ((2, 0, 7, 7), (14, 14)),
    ((3, 11), (37,)),
    ((3, 2, 11), (4,)),
    ((2, 1), (6,)),
    ((2, 3, 4, 5), (7, 9, 6)),
    ((2, 3, 6, 4, 5), (3, 8, 5)),
    ((1, 2, 1, 1), (5, 4, 3)),
]


def random_maps(shape, dtype=torch.float32, device="cpu"):
    return torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(device, dtype)


def check(maps, size):
    """Op and, for two spatial axes, reference against the formula."""
    exact = formulas.resampled(maps, size)
    calls = [ops.upsample_normalize] + ([reference.upsample_normalize] if len(size) == 2 else [])
    for upsample_normalize in calls:
        close(upsample_normalize(maps, size, normalize=False), exact, maps.dtype)
        scaled = upsample_normalize(maps, size)
        close(scaled, formulas.min_max(exact, len(size)), maps.dtype, scale=0.5)
        assert ((scaled >= 0) & (scaled <= 1)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "size"), CASES, ids=str)
def test_formula(shape, size, dtype, device):
    check(random_maps(shape, dtype, device), size)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("layout", named(LAYOUTS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layouts(dtype, layout):
    for shape, size in [((2, 3, 5, 8), (17, 6)), ((3, 4, 11), (9, 30)), ((3, 11), (20,)), ((2, 3, 4, 5), (7, 2, 6))]:
        check(layout(random_maps(shape, dtype), 1), size)
    check(random_maps((1, 3, 1, 8), dtype).expand(2, 3, 5, 8), (10, 10))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "size"), [((1, 5, 8), (17, 29)), ((1, 9), (20,)), ((1, 4, 3, 5), (7, 6, 9))], ids=str
)
def test_narrow_range(shape, size, dtype):
    """Far from 0 beside its range a map keeps what its dtype holds: nothing between is rounded to half."""
    maps = random_maps(shape).sign().to(dtype) * 2 + 512
    exact = formulas.min_max(formulas.resampled(maps, size), len(size))
    error = (ops.upsample_normalize(maps, size).double() - exact).abs().max()
    assert error <= {torch.float64: 1e-12, torch.float32: 1e-4, torch.float16: 1e-3, torch.bfloat16: 5e-3}[dtype]


@pytest.mark.usefixtures("kernels")
def test_each_map_for_itself():
    """Maps of very different ranges beside each other, over batch and targets."""
    maps = random_maps((2, 3, 7, 7)) * torch.tensor([1e-20, 1.0, 1e20])[:, None, None]
    expected = formulas.min_max(formulas.resampled(maps, (20, 30)), 2)
    close(ops.upsample_normalize(maps, (20, 30)), expected, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_constant_maps_are_zero(dtype, device):
    """Exactly, whatever the constant, and beside maps that are not constant."""
    for size in [(224, 224), (13, 9), (3, 3), (7, 7)]:
        maps = random_maps((7, 7, 7), dtype, device)
        constants = torch.tensor([0.1, -0.3, 1 / 3, 0.0, 12345.678, 6e-5], device=device).to(dtype)
        maps[1:] = constants[:, None, None]
        for upsample_normalize in (ops.upsample_normalize, reference.upsample_normalize):
            scaled = upsample_normalize(maps, size)
            assert (scaled[1:] == 0).all()
            assert scaled[0].max() > 0.99
    for shape, size in [((2, 5), (9,)), ((2, 3, 4, 5), (5, 7, 9))]:
        assert (ops.upsample_normalize(torch.full(shape, 0.1, dtype=dtype), size) == 0).all()


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    ("shape", "size"), [((3, 5, 4), (23, 17)), ((3, 5, 4), (5, 4)), ((3, 4), (7,)), ((3, 2, 3, 4), (5, 6, 7))], ids=str
)
def test_non_finite_maps_are_nan(shape, size, value, dtype):
    """Wherever the value stands, its whole map is NaN, and no other."""
    clean = ops.upsample_normalize(random_maps(shape, dtype), size)
    for position in range(random_maps(shape)[0].numel()):
        maps = random_maps(shape, dtype)
        maps[1].view(-1)[position] = value
        scaled = ops.upsample_normalize(maps, size)
        assert scaled[1].isnan().all()
        same_bits(scaled[[0, 2]], clean[[0, 2]])
        if len(size) == 2:
            assert reference.upsample_normalize(maps, size)[1].isnan().all()
        assert not ops.upsample_normalize(maps, size, normalize=False)[1].isfinite().all()


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("upsample_normalize", [ops.upsample_normalize, reference.upsample_normalize])
def test_non_finite_maps_are_nan_when_shrunk(upsample_normalize, value):
    """Also a value between the sampled positions is not hidden."""
    for position in range(64):
        maps = random_maps((3, 8, 8))
        maps[1].view(-1)[position] = value
        scaled = upsample_normalize(maps, (2, 2))
        assert scaled[1].isnan().all()
        assert scaled[[0, 2]].isfinite().all()


@pytest.mark.usefixtures("kernels")
def test_large_values():
    """Finite maps stay finite: their range may be larger than float32 holds, their values not."""
    maps = random_maps((2, 5, 4)).clamp(-1, 1) * 1e38
    close(ops.upsample_normalize(maps, (9, 9)), formulas.min_max(formulas.resampled(maps, (9, 9)), 2), scale=1)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "size"), [((5, 7, 7), (224, 224)), ((5, 4, 9), (33, 31)), ((5, 9), (20,))], ids=str)
def test_determinism(shape, size, dtype):
    maps = random_maps(shape, dtype)
    with threads(2):
        batch = ops.upsample_normalize(maps, size)
    with threads(1):
        same_bits(ops.upsample_normalize(maps, size), batch)
        same_bits(torch.cat([ops.upsample_normalize(maps[i : i + 1], size) for i in range(5)]), batch)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    ("shape", "size"),
    [((2, 3, 4), (7, 9)), ((2, 2, 4, 5), (6, 3)), ((2, 5), (11,)), ((1, 2, 3, 2), (3, 5, 4)), ((2, 5, 5), (2, 3))],
    ids=str,
)
def test_gradients(shape, size, normalize):
    """Where minimum and maximum stand alone; away from there they are not differentiable."""
    maps = random_maps(shape, torch.float64).requires_grad_()

    def call(maps):
        return ops.upsample_normalize(maps, size, normalize)

    if normalize:  # keep the extremes inside one output pixel each
        scaled = call(maps).flatten(maps.dim() - len(size))
        assert ((scaled > 1 - 1e-6).sum(-1) >= 1).all()
    assert gradcheck(call, maps)
    assert gradgradcheck(call, maps, fast_mode=True)


def test_gradient_of_constant_maps():
    maps = torch.full((2, 3, 4), 0.25, dtype=torch.float64, requires_grad=True)
    ops.upsample_normalize(maps, (6, 7)).sum().backward()
    assert (maps.grad == 0).all()


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_opcheck(dtype, normalize):
    maps = random_maps((2, 3, 4, 5), dtype)
    maps.requires_grad_(dtype == torch.float64)
    torch.library.opcheck(torch.ops.fastcam.upsample_normalize.default, (maps, [7, 9], normalize))
    torch.library.opcheck(torch.ops.fastcam.upsample_normalize.default, (maps.detach()[0].mT, [3, 2], normalize))


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("shape", "size"),
    [((2, 3, 4), (7, 9)), ((2, 2, 4, 5), (6, 3)), ((2, 5), (11,)), ((1, 2, 3, 2), (3, 5, 4)), ((0, 3, 4), (7, 9))],
    ids=str,
)
def test_out(shape, size, dtype, normalize):
    maps = random_maps(shape, dtype)
    expected = ops.upsample_normalize(maps, size, normalize)
    larger = torch.full((3 + len(expected), *expected.shape[1:]), 7, dtype=dtype)
    out = larger[2:-1]
    assert ops.upsample_normalize(maps, size, normalize, out) is out
    same_bits(out, expected)
    assert (larger[:2] == 7).all()
    assert (larger[-1:] == 7).all()


def test_opcheck_of_out():
    maps, out = random_maps((2, 3, 4, 5)), torch.empty(2, 3, 7, 9)
    torch.library.opcheck(torch.ops.fastcam.upsample_normalize_into.default, (maps, True, out))


def test_out_that_does_not_fit():
    maps = random_maps((2, 4, 5))
    shape = r"`out` must be contiguous and have shape \(2, 8, 9\), got "
    for out, error, message in [
        (torch.empty(2, 8, 8), ValueError, shape + r"\(2, 8, 8\)"),
        (torch.empty(2, 9, 8).mT, ValueError, shape + r"\(2, 8, 9\), not contiguous"),
        (torch.empty(2, 8, 9).double(), TypeError, "`out` must have the dtype of `maps`, torch.float32"),
        (torch.empty(2, 8, 9, device="meta"), ValueError, "`out` must be on the device of `maps`"),
        (torch.empty(2, 8, 9, requires_grad=True), ValueError, "gradients do not flow through `out`"),
        ("x", TypeError, "`out` must be a torch.Tensor, got str"),
    ]:
        with pytest.raises(error, match=message):
            ops.upsample_normalize(maps, (8, 9), out=out)
    with pytest.raises(ValueError, match="gradients do not flow through `out`"):
        ops.upsample_normalize(maps.clone().requires_grad_(), (8, 9), out=torch.empty(2, 8, 9))
    for bad in (torch.empty(2, 8), torch.empty(3, 8, 9), torch.empty(2, 9, 8).mT, torch.empty(2, 8, 9).half()):
        with pytest.raises(RuntimeError, match="`out` must"):
            torch.ops.fastcam.upsample_normalize_into(maps, True, bad)


def test_bad_input():
    maps = random_maps((2, 3, 4, 5))
    axes = r"`maps` must have shape \(N, ...\) or \(N, K, ...\) with 2 spatial axes .* for size \(8, 9\), got "
    sizes = r"`size` must be 1 to 3 positive .*numbers, got "
    for arguments, error, message in [
        ((maps.numpy(), (8, 9)), TypeError, "`maps` must be a torch.Tensor, got ndarray"),
        ((maps.int(), (8, 9)), TypeError, "`maps` must be float32, .*, got torch.int32"),
        ((maps, ()), ValueError, sizes + r"\(\)"),
        ((maps, (8, 9, 10, 11)), ValueError, sizes + r"\(8, 9, 10, 11\)"),
        ((maps, (8, 0)), ValueError, sizes + r"\(8, 0\)"),
        ((maps, (-8, 9)), ValueError, sizes + r"\(-8, 9\)"),
        ((maps[0, 0], (8, 9)), ValueError, axes + r"\(4, 5\)"),
        ((maps[None], (8, 9)), ValueError, axes + r"\(1, 2, 3, 4, 5\)"),
        ((maps[..., :0], (8, 9)), ValueError, axes + r"\(2, 3, 4, 0\)"),
        ((maps, (8,)), ValueError, r"with 1 spatial axes .*, got \(2, 3, 4, 5\)"),
        ((maps[0], (8, 9, 10)), ValueError, r"with 3 spatial axes .*, got \(3, 4, 5\)"),
    ]:
        with pytest.raises(error, match=message):
            ops.upsample_normalize(*arguments)


@pytest.mark.parametrize("size", [8, 8.5, None, (8.5, 9), (8, "9"), "89"], ids=str)
def test_bad_size(size):
    """What is not a sequence of whole numbers."""
    with pytest.raises((TypeError, ValueError), match=r"`size` must be"):
        ops.upsample_normalize(random_maps((2, 4, 5)), size)


def test_bad_input_of_the_bare_op():
    maps = random_maps((2, 3, 4, 5))
    for arguments, message in [
        ((maps[0, 0], [8, 9]), r"`maps` must have shape .*, got \(4, 5\)"),
        ((maps[0, 0, 0, 0], [8, 9]), r"`maps` must have shape .*, got \(\)"),
        ((maps[..., :0], [8, 9]), r"`maps` must have at least one position, got \(2, 3, 4, 0\)"),
        ((maps, [8]), r"`size` must be two positive numbers"),
        ((maps, [8, 9, 10]), r"`size` must be two positive numbers"),
        ((maps, [8, 0]), r"`size` must be two positive numbers"),
        ((maps, [-1, 9]), r"`size` must be two positive numbers"),
        ((maps.long(), [8, 9]), "fastcam.*Long"),
        ((maps, [8.5, 9]), "fastcam::upsample_normalize"),
        ((maps, "size"), "fastcam::upsample_normalize"),
    ]:
        with pytest.raises((RuntimeError, TypeError), match=message):
            torch.ops.fastcam.upsample_normalize(*arguments)
