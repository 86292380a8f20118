"""sum_c w_c A_c with weights per channel, (N, [K,] C), or per element, (N, [K,] C, *S)."""

import itertools

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from fastcam import ops
from fastcam.ops import reference
from tests.ops import formulas
from tests.ops.op_tester import (
    DTYPES,
    LAYOUTS,
    SHAPES,
    ReductionTester,
    channels_last,
    close,
    contiguous,
    named,
    random_pair,
    result_dtype,
    same_bits,
    spatial_slice,
    threads,
)
from tests.support.tiers import covering


class TestElementWeights(ReductionTester):
    op = "weighted_channel_sum"
    label = "weights"
    formula = staticmethod(formulas.element_weights)


def random_weights(shape, targets, dtype=torch.float32, device="cpu"):
    """(N, [K,] C), signed."""
    generator = torch.Generator().manual_seed(5)
    lead = shape[:1] if targets is None else (shape[0], targets)
    return torch.randn(*lead, shape[1], generator=generator).to(device, dtype)


def expected(activations, weights):
    """sum_c w_c A_c in float64."""
    maps = torch.einsum("n...c,ncp->n...p", weights.double(), activations.double().flatten(2))
    return maps.reshape(*weights.shape[:-1], *activations.shape[2:])


def check(activations, weights, weighted_sum=ops.weighted_channel_sum):
    signed = expected(activations, weights)
    scale = signed.abs().max() if signed.numel() else 0
    close(weighted_sum(activations, weights), signed, result_dtype(activations.dtype))
    close(weighted_sum(activations, weights, relu=True), signed.clamp(min=0), scale=scale)


@pytest.mark.parametrize(("shape", "dtype", "targets", "layout"), covering(SHAPES, DTYPES, [None, 1, 3], LAYOUTS))
def test_channel_weights(shape, dtype, targets, layout, device):
    activations = layout(random_pair(shape, None, dtype, device)[0], 1)
    weights = random_weights(shape, targets, dtype, device)
    check(activations, weights)
    check(activations, layout(weights, weights.dim() - 1))
    if dtype in (torch.float16, torch.bfloat16):  # weights that were not rounded
        check(activations, random_weights(shape, targets, torch.float32, device))


@pytest.mark.parametrize(("shape", "dtype", "targets"), covering(SHAPES, DTYPES, [None, 1, 3]))
def test_channel_weights_of_the_reference(shape, dtype, targets):
    activations = random_pair(shape, None, dtype)[0]
    for weights_dtype in {dtype, result_dtype(dtype)}:
        check(activations, random_weights(shape, targets, weights_dtype), reference.weighted_channel_sum)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("targets", [None, 3])
def test_expanded(targets):
    """The same weights for every image, every channel or every map; the same activations at every position."""
    shape = (2, 9, 5, 3)
    activations, weights = random_pair(shape)[0], random_weights(shape, targets)
    for axis in range(weights.dim()):
        check(activations, weights.narrow(axis, 0, 1).contiguous().expand_as(weights))
    for axis in range(4):
        check(activations.narrow(axis, 0, 1).contiguous().expand_as(activations), weights)


@pytest.mark.usefixtures("kernels")
def test_by_hand():
    activations = torch.tensor([[[1.0, 2.0], [3.0, -4.0]]])  # (1, 2, 2)
    assert ops.weighted_channel_sum(activations, torch.tensor([[2.0, 1.0]])).tolist() == [[5, 0]]
    assert ops.weighted_channel_sum(activations, torch.tensor([[[1.0, 1.0]]]), relu=True).tolist() == [[[4, 0]]]


@pytest.mark.usefixtures("kernels")
def test_one_spatial_axis():
    """For activations (N, C, L), weights of that very shape are one per element, and others (N, K, C)."""
    activations, weights = random_pair((2, 4, 4))
    close(ops.weighted_channel_sum(activations, weights), (activations * weights).double().sum(1))
    check(activations, random_weights((2, 4, 4), 3))
    check(random_pair((2, 4, 7))[0], random_weights((2, 4, 7), 4))


@pytest.mark.usefixtures("kernels")
def test_empty():
    for shape, targets in [((0, 4, 3, 3), None), ((2, 4, 0, 3), 2), ((2, 0, 3, 3), None), ((2, 0, 3, 3), 2)]:
        check(random_pair(shape)[0], random_weights(shape, targets))
    check(random_pair((2, 4, 3, 3))[0], random_weights((2, 4, 3, 3), 0))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("layout", named([contiguous, channels_last]))
@pytest.mark.parametrize("targets", [None, 2])
def test_non_finite_is_not_hidden(targets, layout, value):
    shape = (3, 6, 5, 3)
    for where, relu in itertools.product([0, 1], [False, True]):
        arguments = [layout(random_pair(shape)[0], 1), random_weights(shape, targets)]
        clean = expected(*arguments)
        arguments[where][(1, 2, 2, 1) if where == 0 else (1, ..., 2)] = value
        for weighted_sum in (ops.weighted_channel_sum, reference.weighted_channel_sum):
            maps = weighted_sum(*arguments, relu=relu)
            hit = maps[1, ..., 2, 1] if where == 0 else maps[1]
            assert not hit.isfinite().any()
            others = clean[[0, 2]].clamp(min=0) if relu else clean[[0, 2]]
            close(maps[[0, 2]], others, scale=clean.abs().max())


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(
    ("shape", "targets", "layout", "dtype"),
    covering(
        [(7, 301, 7, 7), (7, 67, 17, 17), (7, 2048, 1, 1)],
        [None, 1, 7],
        [contiguous, channels_last, spatial_slice],
        DTYPES,
    ),
)
def test_determinism(shape, targets, layout, dtype):
    """An image's map has the same bits alone, in a batch, and with every number of threads."""
    a, w = layout(random_pair(shape, None, dtype)[0], 1), random_weights(shape, targets, dtype)
    with threads(2):
        batch = ops.weighted_channel_sum(a, w)
    with threads(1):
        same_bits(ops.weighted_channel_sum(a, w), batch)
        same_bits(torch.cat([ops.weighted_channel_sum(a[i : i + 1], w[i : i + 1]) for i in range(len(a))]), batch)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("targets", [None, 2])
def test_registration_and_gradients(targets, relu):
    activations, _ = TestElementWeights.away_from_kinks((2, 3, 4, 5), None)
    weights = random_weights((2, 3), targets, torch.float64).requires_grad_()
    op = torch.ops.fastcam.weighted_channel_sum.default
    torch.library.opcheck(op, (activations, weights, relu))
    torch.library.opcheck(op, (activations.detach().half(), weights.detach().half(), relu))
    torch.library.opcheck(op, (channels_last(activations.detach().half(), 1), weights.detach().float(), relu))

    def call(a, w):
        return ops.weighted_channel_sum(a, w, relu=relu)

    assert len(ops.weighted_channel_sum(activations, weights).sign().unique()) == 2
    assert gradcheck(call, (activations, weights))
    assert gradgradcheck(call, (activations, weights), fast_mode=True)


@pytest.mark.parametrize("targets", [None, 2])
def test_gradients_keep_dtype(targets):
    """Half activations with float32 weights: each gradient in the dtype of its tensor."""
    activations = random_pair((2, 3, 4, 5))[0].half().requires_grad_()
    weights = random_weights((2, 3), targets).requires_grad_()
    ops.weighted_channel_sum(activations, weights).sum().backward()
    per_channel = weights.detach() if targets is None else weights.detach().sum(1)
    close(activations.grad, per_channel[..., None, None].expand(2, 3, 4, 5), torch.float16)
    sums = activations.detach().double().sum((2, 3))
    close(weights.grad, sums if targets is None else sums[:, None].expand(2, 2, 3), torch.float32)


def test_bad_input():
    a, w = random_pair((2, 3, 4, 5))[0], random_weights((2, 3), None)
    shapes = r"`weights` must have shape \(N, C\) = \(2, 3\), \(N, K, C\), .*\(2, 3, 4, 5\), or .*, got "
    for arguments, error, message in [
        ((a, [1.0, 2.0]), TypeError, "`weights` must be a torch.Tensor, got list"),
        ((a, w.int()), TypeError, "`weights` must be float32, .*, got torch.int32"),
        (
            (a, w.double()),
            TypeError,
            "`weights` must have the dtype of `activations`, torch.float32, got torch.float64",
        ),
        ((a, w.half()), TypeError, "`weights` must have the dtype of `activations`, torch.float32, got torch.float16"),
        ((a.half(), w.double()), TypeError, "`weights` must have the dtype .*float16, got torch.float64"),
        ((a, w[0]), ValueError, shapes + r"\(3,\)"),
        ((a, w.mT), ValueError, shapes + r"\(3, 2\)"),
        ((a, w[:, :2]), ValueError, shapes + r"\(2, 2\)"),
        ((a, w[:, :, None]), ValueError, shapes + r"\(2, 3, 1\)"),
        ((a, w[:1, None]), ValueError, shapes + r"\(1, 1, 3\)"),
        ((a[..., 0], w[:, :, None].expand(2, 3, 5)), ValueError, r"`weights` must have shape .*, got \(2, 3, 5\)"),
        ((a, w.to("meta")), ValueError, "`weights` must be on the device of `activations`, cpu, got meta"),
    ]:
        with pytest.raises(error, match=message):
            ops.weighted_channel_sum(*arguments)


def test_bad_input_of_the_bare_op():
    a, w = random_pair((2, 3, 4, 5))[0], random_weights((2, 3), None)
    shapes = r"`weights` must have shape \(N, C\), \(N, K, C\), .*\(2, 3, 4, 5\), or .*, got "
    for arguments, message in [
        ((a, w[0]), shapes + r"\(3\)"),
        ((a, w[0, 0]), shapes + r"\(\)"),
        ((a, w.mT), shapes + r"\(3, 2\)"),
        ((a, w[:, :, None]), shapes + r"\(2, 3, 1\)"),
        ((a, w[:1, None]), shapes + r"\(1, 1, 3\)"),
        ((a, w[:, :0]), shapes + r"\(2, 0\)"),
        ((a, w.double()), "`weights` must have the dtype of `activations` or its accumulation dtype"),
        ((a, w.long()), "`weights` must have the dtype of `activations` or its accumulation dtype"),
        ((a[0, 0], w), r"`activations` must have shape .*, got \(4, 5\)"),
        ((a.long(), w), "fastcam.*Long"),
        ((a.long(), w.long()), "fastcam.*Long"),
        ((a.long(), w[:, None]), "fastcam.*Long"),
        ((a.bool(), w[:, None].bool()), "fastcam.*Bool"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            torch.ops.fastcam.weighted_channel_sum(*arguments)
