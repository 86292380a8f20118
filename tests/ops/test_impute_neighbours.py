"""The imputation of ROAD: what solving all equations gives, whatever the hole, layout and batch."""

import pytest
import torch

from fastcam import ops
from fastcam.ops import reference, reference_imputation
from tests.ops import formulas
from tests.ops.op_tester import DTYPES, LAYOUTS, channels_last, contiguous, named, same_bits, threads

SIZES = [(24, 20), (17, 31), (7, 6), (3, 3), (2, 9), (1, 8), (6, 1)]
# Of the values: in float64 the equations are solved to 1e-11, else by default to 3e-4.
BOUNDS = {torch.float64: 1e-8, torch.float32: 1e-2, torch.float16: 2e-2, torch.bfloat16: 5e-2}


def tolerance_of(dtype):
    return 1e-11 if dtype == torch.float64 else 3e-4


def holes(height, width):
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    yield torch.rand(height, width, generator=generator) < 0.5
    yield torch.rand(height, width, generator=generator) < 0.98
    yield (y - height / 2) ** 2 + (x - width / 3) ** 2 < (height / 3) ** 2
    yield (y < 3) | (x >= width - 2)
    yield (y == height // 2) & (x == width // 2)
    yield (y != height - 1) | (x != 0)
    yield y % 3 > 0
    yield torch.zeros(height, width, dtype=torch.bool)
    yield torch.ones(height, width, dtype=torch.bool)


def problem(size, dtype=torch.float32, device="cpu", channels=2):
    missing = torch.stack(list(holes(*size)))
    shape = (len(missing), channels, *size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device, dtype)
    return images, missing.to(device)


def check(images, missing, found):
    assert found.dtype == images.dtype
    expected = formulas.imputed(images.cpu(), missing.cpu()).to(found.device)
    hole = missing.unsqueeze(1).expand_as(found)
    assert (found.double() - expected)[hole].abs().max() < BOUNDS[images.dtype]
    assert torch.equal(found[~hole], images[~hole])


@pytest.mark.parametrize("layout", named([contiguous, channels_last]))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_formula(size, dtype, layout, device):
    images, missing = problem(size, dtype, device)
    check(images, missing, ops.impute_neighbours(layout(images, 1), missing, tolerance_of(dtype)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_reference_is_the_formula(size, dtype):
    images, missing = problem(size, dtype)
    check(images, missing, reference.impute_neighbours(images, missing, tolerance_of(dtype)))


@pytest.mark.usefixtures("kernels")
def test_the_kernel_takes_the_steps_of_the_reference():
    """Stopped early, both are equally far from the solution."""
    images, missing = problem((24, 20), torch.float64)
    for tolerance in (0.5, 0.1, 1e-2, 1e-3):
        found, expected = (
            op(images, missing, tolerance) for op in (ops.impute_neighbours, reference.impute_neighbours)
        )
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    assert not torch.allclose(expected, formulas.imputed(images, missing), rtol=0, atol=1e-6)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_have_the_same_bits(layout):
    images, missing = problem((9, 12), channels=3)
    before = images.clone()
    found = ops.impute_neighbours(layout(images, 1), missing)
    same_bits(found.contiguous(), ops.impute_neighbours(images, missing))
    assert torch.equal(images, before)


@pytest.mark.usefixtures("kernels")
def test_memory_layout():
    images, missing = problem((9, 12), channels=3)
    assert ops.impute_neighbours(images, missing).is_contiguous()
    last = ops.impute_neighbours(channels_last(images, 1), missing)
    assert last.is_contiguous(memory_format=torch.channels_last)
    mask = missing.transpose(1, 2).contiguous().transpose(1, 2)
    same_bits(ops.impute_neighbours(images, mask), ops.impute_neighbours(images, missing))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("count", [1, 2, 3])
def test_determinism(count):
    """The same bits in any batch, with any number of threads."""
    images, missing = problem((17, 31), channels=3)
    with threads(count):
        together = ops.impute_neighbours(images, missing)
    for n in range(len(images)):
        same_bits(together[n : n + 1], ops.impute_neighbours(images[n : n + 1], missing[n : n + 1]))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("impute", [ops.impute_neighbours, lambda *given: reference.impute_neighbours(*given, 3e-4)])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e30])
def test_values_that_are_not_finite_stay_in_their_plane(impute, value):
    """Of that plane nothing is told, of the others all; a number whose square is too large is as infinity."""
    images, missing = problem((9, 8))
    missing[0, 0, :2] = torch.tensor([False, True])
    clean = impute(images, missing)
    images[0, 1, 0, 0] = value
    found = impute(images, missing)
    torch.testing.assert_close(found[0, 1, 0, 0], images[0, 1, 0, 0], equal_nan=True)
    assert found[0, 1][missing[0]].isnan().all()
    assert torch.equal(found[0, 1][~missing[0]].nan_to_num(), images[0, 1][~missing[0]].nan_to_num())
    same_bits(found[0, 0], clean[0, 0])
    same_bits(found[1:], clean[1:])


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("shape", [(0, 3, 5, 4), (2, 0, 5, 4), (2, 3, 0, 4), (2, 3, 5, 0)], ids=str)
def test_empty(shape):
    images = torch.randn(shape)
    assert ops.impute_neighbours(images, torch.ones(shape[0], *shape[2:], dtype=torch.bool)).shape == shape


def test_steps_do_not_grow_with_the_hole(monkeypatch):
    """Plain conjugate gradients need as many more as the hole is wider."""
    taken, correct = {}, reference_imputation._Grid.correct
    for size in (64, 256):
        steps = []

        def counted(self, residual, size=size, steps=steps):
            steps += [1] * (residual.shape[-1] == size)
            return correct(self, residual)

        monkeypatch.setattr(reference_imputation._Grid, "correct", counted)
        missing = torch.zeros(1, size, size, dtype=torch.bool)
        missing[:, size // 8 : -size // 8, size // 8 : -size // 8] = True
        images = torch.randn(1, 1, size, size, generator=torch.Generator().manual_seed(0))
        found = reference.impute_neighbours(images, missing, 3e-4)
        torch.testing.assert_close(ops.impute_neighbours(images, missing), found, rtol=0, atol=2e-3)
        taken[size] = len(steps)
    assert taken[256] <= taken[64] + 2 < 10  # four times as wide


def test_no_gradients():
    images, missing = problem((7, 6))
    assert not ops.impute_neighbours(images.requires_grad_(), missing).requires_grad


def test_opcheck():
    images, missing = problem((7, 6))
    torch.library.opcheck(torch.ops.fastcam.impute_neighbours.default, (images, missing, 3e-4))
    torch.library.opcheck(torch.ops.fastcam.impute_neighbours.default, (channels_last(images, 1), missing, 3e-4))


@pytest.mark.usefixtures("kernels")
def test_bad_input():
    images, missing = problem((7, 6))
    for arguments, error, text in [
        ((images[0], missing), ValueError, r"`images` must have shape \(N, C, H, W\), got \(2, 7, 6\)"),
        ((images.int(), missing), TypeError, "`images` must be float32"),
        ((images, missing.float()), TypeError, "`missing` must be a tensor of bool, got torch.float32"),
        ((images, [[True]]), TypeError, "`missing` must be a tensor of bool, got list"),
        ((images, missing[:1]), ValueError, r"`missing` must have shape \(N, H, W\) .* got \(1, 7, 6\)"),
        ((images, missing, 0.0), ValueError, "`tolerance` must be above 0, got 0.0"),
        ((images, missing, float("nan")), ValueError, "`tolerance` must be above 0, got nan"),
    ]:
        with pytest.raises(error, match=text):
            ops.impute_neighbours(*arguments)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("bad", ["shape", "mask", "dtype", "tolerance"])
def test_bad_input_of_the_bare_op(bad):
    from fastcam.ops import _register

    images, missing = problem((7, 6))
    arguments = {
        "shape": (images[0], missing, 3e-4),
        "mask": (images, missing[:, 1:], 3e-4),
        "dtype": (images, missing.float(), 3e-4),
        "tolerance": (images, missing, 0.0),
    }[bad]
    with pytest.raises(RuntimeError, match="must"):
        _register.namespace.impute_neighbours(*arguments)
