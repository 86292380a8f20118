"""What every op must do, whatever its formula: the same numbers for every dtype, memory layout, shape and device.

A test of one op subclasses `ReductionTester`, names the op and writes the paper's formula beside it, in float64 and
apart from `fastcam.ops.reference`, which is itself held to the formula.
"""

import itertools

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from fastcam import ops
from fastcam.ops import reference
from tests.support.tiers import covering, thinned

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]

# (N, C, *S). Odd sizes leave a tail to every loop that runs several elements, rows or channels at a time; the last
# ones have more positions or channels than one chunk of the kernels takes, in each of their sizes. Of seven images,
# each is summed by one block of the simulated device.
SHAPES = [
    (2, 16, 7, 7),
    (3, 10, 14, 14),
    (2, 7, 1, 1),
    (2, 1, 5, 3),
    (1, 1, 1, 1),
    (1, 7, 5, 3),
    (3, 3, 1, 6),
    (2, 5, 11),
    (2, 6, 3, 4, 5),
    (0, 4, 7, 7),
    (2, 9, 56, 56),
    (3, 301, 7, 7),
    (7, 301, 7, 7),
    (2, 67, 8, 8),
    (7, 130, 4, 4),
    (7, 67, 10, 9),
    (1, 70, 32, 32),
    (2, 515, 3, 5),
    (1, 35, 65, 64),
    (1, 130, 33, 40),
    (1, 3, 130, 127),
]


def close(actual, expected, dtype=None, scale=None):
    """Asserts dtype, shape and numbers: within 1e-5 of the range of `expected` in float32, 1e-12 in float64.

    A result in half precision may be off by its last rounding besides; bytes are exact.
    """
    dtype = dtype or actual.dtype
    assert actual.dtype == dtype
    assert actual.shape == expected.shape
    if expected.numel() == 0:
        return
    scale = expected.detach().abs().max() if scale is None else scale
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2**-11 + 1e-5, torch.bfloat16: 2**-8 + 1e-5}
    tolerance[torch.uint8] = 0
    torch.testing.assert_close(actual.double(), expected.double(), rtol=0, atol=float(scale) * tolerance[dtype])


def same_bits(actual, expected):
    """Asserts equality bit for bit, NaN included."""
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    assert torch.equal(actual.reshape(-1).view(torch.uint8), expected.reshape(-1).view(torch.uint8))


def random_pair(shape, targets=None, dtype=torch.float32, device="cpu", seed=0):
    """Activations (N, C, *S) as after a ReLU, half of them 0, and signed gradients (N, [K,] C, *S)."""
    generator = torch.Generator().manual_seed(seed)
    gradients_shape = shape if targets is None else (shape[0], targets, *shape[1:])
    activations = torch.randn(shape, generator=generator).relu().to(device, dtype)
    return activations, torch.randn(gradients_shape, generator=generator).to(device, dtype)


def result_dtype(dtype):
    """Maps are float64 for float64 and float32 for everything narrower."""
    return torch.float64 if dtype == torch.float64 else torch.float32


# The same values in another memory layout; `channel` is the channel axis. What lies between them is NaN.


def contiguous(x, channel):
    return x.contiguous()


def channels_last(x, channel):
    return x.movedim(channel, -1).contiguous().movedim(-1, channel)


def _sliced(x, axis, step=1):
    memory = x.new_full([size * step + 3 if i == axis else size for i, size in enumerate(x.shape)], float("nan"))
    view = memory.narrow(axis, 2, x.shape[axis] * step)[(slice(None),) * axis + (slice(None, None, step),)]
    return view.copy_(x)


def channel_slice(x, channel):
    return _sliced(x, channel)


def channels_last_slice(x, channel):
    return _sliced(x.movedim(channel, -1), x.dim() - 1).movedim(-1, channel)


def spatial_slice(x, channel):
    return _sliced(x, x.dim() - 1)


def spatial_steps(x, channel):
    return _sliced(x, x.dim() - 1, step=2)


def transposed(x, channel):
    return x.mT.contiguous().mT


def batch_strided(x, channel):
    return _sliced(x, 0, step=2)


LAYOUTS = [
    contiguous,
    channels_last,
    channel_slice,
    channels_last_slice,
    spatial_slice,
    spatial_steps,
    transposed,
    batch_strided,
]


def named(functions):
    """Functions as parameters, each with its name for an id."""
    return [pytest.param(function, id=function.__name__) for function in functions]


class ReductionTester:
    """An op of activations (N, C, *S) and gradients or weights (N, [K,] C, *S) that returns maps (N, [K,] *S)."""

    op = ""  # its name

    @staticmethod
    def formula(a, g, **options):
        """The paper's map before its ReLU: a (N, 1, C, P) and g (N, K, C, P), float64, to (N, K, P)."""
        raise NotImplementedError

    def expected(self, activations, gradients, **options):
        """The formula on the inputs as they are, in float64, without the ReLU."""
        has_targets = gradients.dim() > activations.dim()
        a = activations.double().flatten(2).unsqueeze(1)
        g = gradients.double().flatten(2 + has_targets)
        maps = self.formula(a, g if has_targets else g.unsqueeze(1), **options)
        return maps.reshape(*gradients.shape[: 1 + has_targets], *activations.shape[2:])

    def call(self, activations, gradients, relu=False, **options):
        return getattr(ops, self.op)(activations, gradients, relu=relu, **options)

    def call_reference(self, activations, gradients, relu=False, **options):
        return getattr(reference, self.op)(activations, gradients, relu=relu, **options)

    def direct(self, activations, gradients, *arguments):
        return getattr(torch.ops.fastcam, self.op)(activations, gradients, *arguments)

    def check(self, activations, gradients, call=None, **options):
        """The op, or another call, against the formula, signed and with the ReLU."""
        signed = self.expected(activations, gradients, **options)
        scale = signed.abs().max() if signed.numel() else 0
        dtype = result_dtype(activations.dtype)
        call = call or self.call
        close(call(activations, gradients, **options), signed, dtype)
        close(call(activations, gradients, relu=True, **options), signed.clamp(min=0), dtype, scale)

    # numbers

    @pytest.mark.parametrize(
        ("shape", "dtype", "targets", "layout"), covering(SHAPES, DTYPES, [None, 3], [contiguous, channels_last])
    )
    def test_formula(self, shape, dtype, targets, layout, device):
        activations, gradients = random_pair(shape, targets, dtype, device)
        self.check(layout(activations, 1), layout(gradients, gradients.dim() - len(shape) + 1))

    @pytest.mark.parametrize(("shape", "dtype", "targets"), covering(SHAPES, DTYPES, [None, 3]))
    def test_reference(self, shape, dtype, targets):
        """PyTorch's own functions take care of layouts and devices."""
        self.check(*random_pair(shape, targets, dtype), self.call_reference)

    @pytest.mark.parametrize(("first", "second", "targets"), thinned(LAYOUTS, [None, 2]))
    def test_layouts(self, first, second, targets, device):
        for shape, dtype in [((2, 9, 5, 3), torch.float32), ((3, 6, 7), torch.bfloat16)]:
            activations, gradients = random_pair(shape, targets, dtype, device)
            self.check(first(activations, 1), second(gradients, 1 if targets is None else 2))

    @pytest.mark.parametrize("layout", named([contiguous, channels_last, channel_slice, spatial_slice]))
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("targets", [None, 3])
    def test_expanded(self, targets, dtype, layout, device):
        """Stride 0: over the positions, as in the gradients behind a mean pooling, and over every other axis."""
        for shape in [(2, 9, 5, 3), (2, 1, 5, 3), (2, 9, 1, 1), (2, 133, 4, 4)]:
            activations, gradients = random_pair(shape, targets, dtype, device)
            a = layout(activations, 1)
            for axis in range(gradients.dim()):
                self.check(a, gradients.narrow(axis, 0, 1).contiguous().expand_as(gradients))
            for pooled in (gradients[..., :1, :1], gradients[..., :1, :1].contiguous()):
                self.check(a, pooled.expand_as(gradients))
            self.check(activations[..., :1, :1].expand_as(activations), layout(gradients, gradients.dim() - 3))

    def test_empty(self, device):
        for shape, targets in [((0, 4, 3, 3), 2), ((2, 4, 0, 3), None), ((2, 4, 3, 3), 0), ((2, 0, 3, 3), None)]:
            activations, gradients = random_pair(shape, targets, device=device)
            expected = torch.zeros(*gradients.shape[: -1 - len(shape[2:])], *shape[2:])
            for call in (self.call, self.call_reference):
                assert call(activations, gradients).shape == expected.shape
                assert call(activations, gradients, relu=True).numel() == expected.numel()
        no_channels = random_pair((2, 0, 3, 3), device=device)
        assert torch.equal(self.call(*no_channels).cpu(), torch.zeros(2, 3, 3))

    @pytest.mark.parametrize(
        ("value", "where", "layout", "dtype"),
        covering(
            [float("nan"), float("inf"), float("-inf")],
            ["activations", "gradients"],
            [contiguous, channels_last],
            [torch.float32, torch.float64, torch.float16],
        ),
    )
    def test_non_finite_is_not_hidden(self, value, where, layout, dtype, device):
        activations, gradients = random_pair((3, 6, 5, 3), None, dtype, device, seed=3)
        clean = self.expected(activations, gradients)
        for channel in range(6):
            a, g = layout(activations.clone(), 1), layout(gradients.clone(), 1)
            (a if where == "activations" else g)[1, channel, 2, 1] = value
            for relu, call in itertools.product([False, True], [self.call, self.call_reference]):
                maps = call(a, g, relu=relu)
                assert not maps[1].isfinite().all()
                others = clean[[0, 2]].clamp(min=0) if relu else clean[[0, 2]]
                close(maps[[0, 2]], others, scale=clean.abs().max())

    # the same bits

    @pytest.mark.parametrize(
        ("shape", "dtype", "layout"),
        covering(
            [(5, 301, 7, 7), (5, 67, 17, 17), (5, 37, 1, 1), (5, 515, 3, 5), (5, 35, 35, 32)],
            DTYPES,
            [contiguous, channels_last, spatial_slice],
        ),
    )
    def test_determinism(self, shape, dtype, layout, device):
        """An image's map has the same bits alone, in a batch, and with every number of threads."""
        for targets in (None, 3):
            activations, gradients = random_pair(shape, targets, dtype, device)
            a, g = layout(activations, 1), layout(gradients, gradients.dim() - 3)
            with threads(2):
                batch = self.call(a, g)
                again = self.call(a, g)
            with threads(1):
                single = self.call(a, g)
                alone = torch.cat([self.call(a[i : i + 1], g[i : i + 1]) for i in range(len(a))])
            for other in (again, single, alone):
                same_bits(other, batch)

    # registration and gradients

    @pytest.mark.parametrize("targets", [None, 2])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
    def test_opcheck(self, dtype, targets):
        activations, gradients = random_pair((2, 3, 4, 5), targets, dtype)
        op = getattr(torch.ops.fastcam, self.op).default
        if dtype == torch.float64:
            activations.requires_grad_(), gradients.requires_grad_()
        torch.library.opcheck(op, (activations, gradients), {"relu": True})
        torch.library.opcheck(op, (channels_last(activations, 1).detach(), gradients), {"relu": False})

    @pytest.mark.parametrize("relu", [False, True])
    @pytest.mark.parametrize("targets", [None, 2])
    @pytest.mark.parametrize("shape", [(2, 5, 3, 2), (2, 3, 4), (2, 4, 2, 1, 2)], ids=str)
    def test_gradients(self, shape, targets, relu):
        activations, gradients = self.away_from_kinks(shape, targets)

        def call(a, g):
            return self.call(a, g, relu=relu)

        if relu:  # both sides of the kink
            assert {-1, 1} <= set(self.call(activations, gradients).sign().flatten().tolist())
        assert gradcheck(call, (activations, gradients))
        assert gradgradcheck(call, (activations, gradients), fast_mode=True)

    @staticmethod
    def away_from_kinks(shape, targets):
        """Float64 leaves: activations of both signs, gradients none of which is nearly 0."""
        generator = torch.Generator().manual_seed(1)
        activations = torch.randn(shape, generator=generator, dtype=torch.float64)
        gradients = torch.randn(shape if targets is None else (shape[0], targets, *shape[1:]), generator=generator)
        gradients = (gradients + 0.1 * gradients.sign()).double()
        return activations.requires_grad_(), gradients.requires_grad_()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("targets", [None, 2])
    def test_gradients_keep_dtype(self, targets, dtype):
        """The gradients of half precision inputs, beside those of the same inputs in float64."""
        leaves = [each.detach().to(dtype).requires_grad_() for each in self.away_from_kinks((2, 5, 3, 2), targets)]
        doubles = [each.detach().double().requires_grad_() for each in leaves]
        self.call(*leaves).sum().backward()
        self.call(*doubles).sum().backward()
        for leaf, double in zip(leaves, doubles, strict=True):
            assert leaf.grad.dtype == dtype
            rounding = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]
            torch.testing.assert_close(leaf.grad.double(), double.grad, rtol=rounding, atol=1e-5)

    # bad input

    label = "gradients"

    def bad_inputs(self):
        """Arguments, the error of the wrapper, and what its message says: the expectation and what came."""
        a, g = random_pair((2, 3, 4, 5))
        shapes = rf"`{self.label}` must have .*shape.*\(2, 3, 4, 5\).*, got "
        return [
            ((a.numpy(), g), TypeError, "`activations` must be a torch.Tensor, got ndarray"),
            ((a, None), TypeError, f"`{self.label}` must be a torch.Tensor, got NoneType"),
            ((a.long(), g), TypeError, "`activations` must be float32, float64, float16 or bfloat16, got torch.int64"),
            ((a, g.to(torch.complex64)), TypeError, f"`{self.label}` must be float32, .*, got torch.complex64"),
            ((a.half(), g.bfloat16()), TypeError, f"`{self.label}` must have the dtype .*float16, got torch.bfloat16"),
            ((a, g.double()), TypeError, f"`{self.label}` must have the dtype .*float32, got torch.float64"),
            ((a[0, 0], g), ValueError, r"`activations` must have shape \(N, C, ...\).*, got \(4, 5\)"),
            ((a, g.mT), ValueError, shapes + r"\(2, 3, 5, 4\)"),
            ((a, g[:1]), ValueError, shapes + r"\(1, 3, 4, 5\)"),
            ((a, g[:, :2]), ValueError, shapes + r"\(2, 2, 4, 5\)"),
            ((a, g[:, :, None, None]), ValueError, shapes + r"\(2, 3, 1, 1, 4, 5\)"),
            ((a, g.expand(3, 2, 3, 4, 5)), ValueError, shapes + r"\(3, 2, 3, 4, 5\)"),
            ((a, g[None, None]), ValueError, shapes + r"\(1, 1, 2, 3, 4, 5\)"),
            ((a, g.to("meta")), ValueError, f"`{self.label}` must be on the device of `activations`, cpu, got meta"),
            ((a.to("meta"), g), ValueError, f"`{self.label}` must be on the device of `activations`, meta, got cpu"),
        ]

    def test_bad_input(self):
        for arguments, error, message in self.bad_inputs():
            with pytest.raises(error, match=message):
                self.call(*arguments)

    def test_bad_input_of_the_bare_op(self):
        """Without the wrapper's checks: an error with a message, whatever comes, and never a crash."""
        a, g = random_pair((2, 3, 4, 5))
        shapes = rf"`{self.label}` must have .*shape.*\(2, 3, 4, 5\).*, got "
        bad = [
            (a, g.mT, shapes + r"\(2, 3, 5, 4\)"),
            (a, g[:1], shapes + r"\(1, 3, 4, 5\)"),
            (a, g[:, :2], shapes + r"\(2, 2, 4, 5\)"),
            (a, g[0, 0, 0], shapes + r"\(5,\)|\(5\)"),
            (a, g[0, 0, 0, 0], shapes + r"\(\)"),
            (a, g.expand(3, 2, 3, 4, 5), shapes + r"\(3, 2, 3, 4, 5\)"),
            (a, g[None, None], shapes + r"\(1, 1, 2, 3, 4, 5\)"),
            (a, g[..., :0], shapes + r"\(2, 3, 4, 0\)"),
            (a[0, 0], g[0, 0], r"`activations` must have shape \(N, C, ...\).*got \(4, 5\)"),
            (a[0, 0, 0, 0], g[0, 0, 0, 0], r"`activations` must have shape \(N, C, ...\).*got \(\)"),
            (a, g.double(), f"`{self.label}` must have the dtype of `activations`"),
            (a.half(), g.bfloat16(), f"`{self.label}` must have the dtype of `activations`"),
            (a.long(), g.long(), "fastcam.*Long"),
            (a.bool(), g.bool(), "fastcam.*Bool"),
            (a.to(torch.complex64), g.to(torch.complex64), "fastcam.*ComplexFloat"),
        ]
        for activations, gradients, message in bad:
            with pytest.raises(RuntimeError, match=message):
                self.direct(activations, gradients)
        for arguments in [(), (a,), (a, None), (a, "gradients"), (a, g, True, True, True)]:
            with pytest.raises((RuntimeError, TypeError, AttributeError), match=r"."):
                getattr(torch.ops.fastcam, self.op)(*arguments)


class threads:
    """Runs a block with this many threads."""

    def __init__(self, count):
        self.count = count

    def __enter__(self):
        self.before = torch.get_num_threads()
        torch.set_num_threads(self.count)

    def __exit__(self, *_):
        torch.set_num_threads(self.before)
