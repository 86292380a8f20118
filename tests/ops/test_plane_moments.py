"""Mean, squared deviations, zeros, maximum and its place of every plane."""

import pytest
import torch

from fastcam import ops
from fastcam.ops import reference
from tests.ops import formulas
from tests.ops.op_tester import DTYPES, LAYOUTS, SHAPES, close, named, random_pair, result_dtype, same_bits, threads
from tests.support.tiers import covering

INFINITE = float("inf")


def activations_of(shape, dtype, device="cpu"):
    """Of both signs around 1, many of them zero."""
    _, values = random_pair(shape, None, dtype, device)
    return values.where(values > -0.5, 0) + (values > 0.5).to(values)


def check(found, values):
    """The first three as sums are, the maximum and its place exactly."""
    expected = formulas.plane_moments(values)
    assert found.dtype == result_dtype(values.dtype)
    for part in (0, 1):
        close(found[part], expected[part], found.dtype)
    torch.testing.assert_close(found[2:].double().cpu(), expected[2:].cpu(), rtol=0, atol=0)


@pytest.mark.parametrize(("shape", "dtype", "layout"), covering(SHAPES, DTYPES, LAYOUTS))
def test_formula(shape, dtype, layout, device):
    values = layout(activations_of(shape, dtype, device), 1)
    check(ops.plane_moments(values), values)


@pytest.mark.parametrize(("shape", "dtype"), covering(SHAPES, DTYPES))
def test_reference(shape, dtype):
    values = activations_of(shape, dtype)
    check(reference.plane_moments(values), values)


@pytest.mark.parametrize("layout", named(LAYOUTS))
def test_small_deviations_of_large_values(layout, device):
    """Sums of squares would leave nothing of the deviations."""
    values = layout(1000 + random_pair((2, 35, 9, 8), None, torch.float32, device)[1], 1)
    found, expected = ops.plane_moments(values), formulas.plane_moments(values)
    torch.testing.assert_close(found[1].double().cpu(), expected[1].cpu(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("layout", named(LAYOUTS))
def test_the_first_of_equal_maxima(layout, device):
    values = layout(torch.zeros(2, 3, 7, 40, device=device), 1)
    found = ops.plane_moments(values)
    assert found[2].eq(280).all()
    assert found[[0, 1, 3, 4]].eq(0).all()
    values[1, 2, 3, 5] = values[1, 2, 6, 39] = 2.0
    values[0, 1] = -1.0
    values[0, 1, 6, 39] = -0.5
    found = ops.plane_moments(values)
    assert found[3:, 1, 2].tolist() == [2, 125]
    assert found[3:, 0, 1].tolist() == [-0.5, 279]


@pytest.mark.parametrize("layout", named(LAYOUTS))
def test_what_is_not_finite(layout, device):
    """NaN shows in the moments, not in the maximum; infinities show in both."""
    values = layout(random_pair((2, 4, 5, 3), None, torch.float32, device)[1], 1)
    values[1, 0, 2, 1] = values[1, 0, 0, 0] = torch.nan
    values[1, 1, 0, 0] = INFINITE
    values[1, 2, 4, 2] = -INFINITE
    values[1, 3] = torch.nan
    found, expected = ops.plane_moments(values), formulas.plane_moments(values)
    torch.testing.assert_close(found[3:].double().cpu(), expected[3:].cpu(), rtol=0, atol=0)
    assert found[:2, 1, [0, 3]].isnan().all()
    assert found[0, 1, 1:3].tolist() == [INFINITE, -INFINITE]
    assert not found[1, 1, 1:3].isfinite().any()
    assert found[3:, 1, 3].tolist() == [-INFINITE, 0]
    check(found[:, :1], values[:1])


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("axis", range(4))
def test_expanded(axis):
    for shape in [(2, 9, 5, 3), (2, 1, 5, 3), (2, 9, 1, 1)]:
        values = random_pair(shape)[1].narrow(axis, 0, 1).expand(shape)
        check(ops.plane_moments(values), values)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(("shape", "dtype", "layout"), covering([(7, 131, 7, 7), (7, 67, 17, 17)], DTYPES, LAYOUTS))
def test_determinism(shape, dtype, layout):
    values = layout(activations_of(shape, dtype), 1)
    with threads(2):
        batch = ops.plane_moments(values)
    with threads(1):
        same_bits(ops.plane_moments(values), batch)
        same_bits(torch.cat([ops.plane_moments(values[i : i + 1]) for i in range(len(values))], 1), batch)


@pytest.mark.usefixtures("kernels")
def test_empty():
    assert ops.plane_moments(torch.empty(0, 3, 4, 4)).shape == (5, 0, 3)
    assert ops.plane_moments(torch.empty(2, 0, 4, 4)).shape == (5, 2, 0)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 4), (1, 2, 3, 2, 2)], ids=str)
def test_registration(shape):
    values = torch.randn(shape, dtype=torch.float64)
    torch.library.opcheck(torch.ops.fastcam.plane_moments.default, (values,))
    torch.library.opcheck(torch.ops.fastcam.plane_moments.default, (values.bfloat16(),))
    assert not ops.plane_moments(values.requires_grad_()).requires_grad


def test_bad_input():
    for values, error, message in [
        ([[1.0]], TypeError, r"`activations` must be a torch.Tensor, got list"),
        (torch.ones(2, 3, 4, 4, dtype=torch.int32), TypeError, r"`activations` must be float32, .*, got torch.int32"),
        (torch.ones(2, 3), ValueError, r"`activations` must have shape \(N, C, ...\).*, got \(2, 3\)"),
        (torch.ones(2, 3, 0, 4), ValueError, r"`activations` must have 1 to 2\^24 positions, got \(2, 3, 0, 4\)"),
        (torch.ones(1).expand(1, 1, 2**13, 2**12), ValueError, r"1 to 2\^24 positions, got \(1, 1, 8192, 4096\)"),
    ]:
        with pytest.raises(error, match=message):
            ops.plane_moments(values)
    with pytest.raises(RuntimeError, match=r"a plane must have at most 2\^24 positions, got 33554432"):
        torch.ops.fastcam.plane_moments(torch.ones(1).expand(1, 1, 2**13, 2**12))
