"""The mean of every channel: 1/Z sum_p A_cp."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from fastcam import ops
from fastcam.ops import reference
from tests.ops.op_tester import (
    DTYPES,
    LAYOUTS,
    SHAPES,
    close,
    contiguous,
    named,
    random_pair,
    result_dtype,
    same_bits,
    threads,
)
from tests.support.tiers import covering


def expected(activations):
    positions = activations[0, 0].numel() if activations.numel() else 1
    return activations.double().sum(tuple(range(2, activations.dim()))) / positions


@pytest.mark.parametrize(("shape", "dtype", "layout"), covering(SHAPES, DTYPES, LAYOUTS))
def test_formula(shape, dtype, layout, device):
    _, values = random_pair(shape, None, dtype, device)  # of both signs
    values = layout(values + 1, 1)
    close(ops.channel_mean(values), expected(values), result_dtype(dtype))


@pytest.mark.parametrize(("shape", "dtype"), covering(SHAPES, DTYPES))
def test_reference(shape, dtype):
    values = random_pair(shape, None, dtype)[1] + 1
    close(reference.channel_mean(values), expected(values), result_dtype(dtype))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("axis", range(4))
def test_expanded(axis):
    for shape in [(2, 9, 5, 3), (2, 1, 5, 3), (2, 9, 1, 1)]:
        values = random_pair(shape)[1].narrow(axis, 0, 1).expand(shape)
        close(ops.channel_mean(values), expected(values), torch.float32)


@pytest.mark.usefixtures("kernels")
def test_empty():
    assert ops.channel_mean(torch.empty(0, 3, 4, 4)).shape == (0, 3)
    assert ops.channel_mean(torch.empty(2, 0, 4, 4)).shape == (2, 0)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("layout", named(LAYOUTS))
def test_non_finite_is_not_hidden(layout, value):
    values = layout(random_pair((2, 6, 5, 3))[1], 1)
    clean = expected(values)
    values[1, 4, 2, 1] = value
    means = ops.channel_mean(values)
    assert not means[1, 4].isfinite()
    clean[1, 4] = means[1, 4]
    torch.testing.assert_close(means.double(), clean, equal_nan=True, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(("shape", "dtype", "layout"), covering([(7, 515, 7, 7), (7, 67, 17, 17)], DTYPES, LAYOUTS))
def test_determinism(shape, dtype, layout):
    values = layout(random_pair(shape, None, dtype)[1], 1)
    with threads(2):
        batch = ops.channel_mean(values)
    with threads(1):
        same_bits(ops.channel_mean(values), batch)
        same_bits(torch.cat([ops.channel_mean(values[i : i + 1]) for i in range(len(values))]), batch)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 4), (1, 2, 3, 2, 2)], ids=str)
def test_registration_and_gradients(shape):
    values = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(torch.ops.fastcam.channel_mean.default, (values,))
    torch.library.opcheck(torch.ops.fastcam.channel_mean.default, (values.detach().bfloat16(),))
    assert gradcheck(ops.channel_mean, values)
    assert gradgradcheck(ops.channel_mean, values, fast_mode=True)


def test_gradients_keep_dtype():
    values = torch.randn(2, 3, 4, 5).half().requires_grad_()
    (ops.channel_mean(values) * torch.tensor([[1.0, 2.0, -4.0]])).sum().backward()
    assert values.grad.dtype == torch.float16
    close(values.grad, torch.tensor([0.05, 0.1, -0.2])[:, None, None].expand(2, 3, 4, 5), torch.float16)


def test_bad_input():
    for values, error, message in [
        ([[1.0]], TypeError, "`activations` must be a torch.Tensor, got list"),
        (torch.ones(2, 3, 4, 4, dtype=torch.int32), TypeError, "`activations` must be float32, .*, got torch.int32"),
        (torch.ones(2, 3), ValueError, r"`activations` must have shape \(N, C, ...\).*, got \(2, 3\)"),
        (torch.ones(2, 3, 0, 4), ValueError, r"`activations` must have at least one position, got \(2, 3, 0, 4\)"),
    ]:
        with pytest.raises(error, match=message):
            ops.channel_mean(values)


def test_bad_input_of_the_bare_op():
    for values, message in [
        (torch.ones(2, 3), r"`activations` must have shape .*got \(2, 3\)"),
        (torch.tensor(1.0), r"`activations` must have shape .*got \(\)"),
        (torch.ones(2, 3, 0, 4), r"`activations` must have at least one position, got \(2, 3, 0, 4\)"),
        (torch.ones(2, 3, 4, 4, dtype=torch.int32), "fastcam.*Int"),
        (torch.ones(2, 3, 4, 4, dtype=torch.bool), "fastcam.*Bool"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            torch.ops.fastcam.channel_mean(values)
    for arguments in [(), (None,), ("activations",), (torch.ones(2, 3, 4, 4), 1)]:
        with pytest.raises((RuntimeError, TypeError, AttributeError), match=r"."):
            torch.ops.fastcam.channel_mean(*arguments)


@pytest.mark.usefixtures("kernels")
def test_inputs_are_left_alone():
    """The inputs are left as they were."""
    values = random_pair((2, 6, 5, 3))[1]
    before = contiguous(values, 1).clone()
    ops.channel_mean(values)
    same_bits(values, before)
