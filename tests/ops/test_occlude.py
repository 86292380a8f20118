"""Copies of images with one window each replaced by the baseline: bit for bit."""

import subprocess
import sys

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from fastcam import ops
from fastcam.ops import reference
from tests.ops import formulas
from tests.ops.op_tester import DTYPES, LAYOUTS, channels_last, named, same_bits, threads
from tests.support.tiers import covering, thinned

FEWEST, MOST = -(2**63), 2**63 - 1

SHAPES = [(2, 3, 6, 5), (1, 1, 7, 3), (3, 5, 1, 1), (2, 4, 9), (2, 3, 3, 4, 5), (2, 3, 33, 40)]

# (start, size) along one axis, for any length: inside, over the borders, outside, empty, everything, overflowing
INTERVALS = [
    (0, 1),
    (1, 2),
    (-1, 3),
    (2, 100),
    (-5, 5),
    (-5, 6),
    (-7, 100),
    (100, 3),
    (0, 0),
    (1, -2),
    (1, MOST),
    (MOST, 1),
    (MOST, MOST),
    (-2, MOST),
    (2, FEWEST),
    (-3, 2),
]
EXTREME_INTERVALS = [(FEWEST, 1), (FEWEST, MOST), (FEWEST, FEWEST), (FEWEST + 3, MOST), (0, 2)]


def some_windows(axes, intervals=tuple(INTERVALS)):
    """(M, 2, axes): every interval along every axis, the other axes with intervals of their own."""
    count = len(intervals)
    rows = []
    for shift in range(axes + 1):
        for i in range(count):
            chosen = [intervals[(i + axis * shift * 5) % count] if axis else intervals[i] for axis in range(axes)]
            rows.append([[start for start, _ in chosen], [size for _, size in chosen]])
    return torch.tensor(rows, dtype=torch.int64)


def random_images(shape, dtype=torch.float32, device="cpu"):
    return torch.randn(shape, generator=torch.Generator().manual_seed(3)).to(device, dtype)


def baselines(shape, dtype=torch.float32, device="cpu"):
    """Of each shape that is allowed: (), (C,), (1,), (C, *S), (1, *S), (N, C, *S), (1, C, *S) and (N, 1, 1...)."""
    full = torch.rand(shape, generator=torch.Generator().manual_seed(4)).to(device, dtype)
    ones = [1] * len(shape[2:])
    return [
        full[(0,) * full.dim()],
        full[(0, slice(None), *[0] * len(ones))],
        full[(0, slice(0, 1), *[0] * len(ones))],
        full[0],
        full[0, :1],
        full,
        full[:1],
        full[(slice(None), slice(0, 1), *[slice(0, 1)] * len(ones))],
    ]


def check(images, windows, baseline):
    expected = formulas.occluded(images, windows, baseline)
    for occlude in (ops.occlude, reference.occlude):
        same_bits(occlude(images, windows, baseline), expected)


@pytest.mark.parametrize(("shape", "dtype", "layout"), covering(SHAPES, DTYPES, LAYOUTS))
def test_formula(shape, dtype, layout, device):
    images = layout(random_images(shape, dtype, device), 1)
    windows = some_windows(len(shape) - 2).to(device)
    for baseline in baselines(shape, dtype, device):
        check(images, windows, baseline)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("shape", [(2, 3, 6, 5), (2, 4, 9), (1, 2, 3, 4, 5)], ids=str)
@pytest.mark.parametrize("occlude", [ops.occlude, reference.occlude])
def test_extreme_windows(occlude, shape):
    """Starts at the very end of int64, where a distance to the image overflows."""
    images, windows = random_images(shape), some_windows(len(shape) - 2, EXTREME_INTERVALS)
    baseline = torch.tensor(7.0)
    same_bits(occlude(images, windows, baseline), formulas.occluded(images, windows, baseline))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(("layout", "baseline_layout"), thinned(LAYOUTS))
def test_layout_of_the_baseline(layout, baseline_layout):
    shape = (2, 3, 6, 5)
    windows = some_windows(2)
    check(layout(random_images(shape), 1), windows, baseline_layout(baselines(shape)[5], 1))
    check(layout(random_images(shape), 1), windows.mT.contiguous().mT, baseline_layout(baselines(shape)[3], 0))
    check(layout(random_images(shape), 1), windows.repeat_interleave(2, 0)[::2], torch.ones(1).expand(3))
    check(random_images((1, 3, 1, 5)).expand(shape), windows, torch.zeros(()))


@pytest.mark.usefixtures("kernels")
def test_numbers_as_baseline():
    images, windows = random_images((2, 3, 6, 5)), some_windows(2)
    for number in (0, 0.5, -3):
        same_bits(ops.occlude(images, windows, number), formulas.occluded(images, windows, torch.tensor(float(number))))
    same_bits(ops.occlude(images, windows), ops.occlude(images, windows, torch.zeros(())))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_bits_of_every_value(dtype):
    """NaN payloads, infinities, signed zeros and denormals pass through image and baseline."""
    width = torch.empty(0, dtype=dtype).element_size()
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[width]
    top = torch.iinfo(integers)
    images = torch.randint(top.min, top.max, (2, 3, 6, 5), dtype=integers).view(dtype)
    baseline = torch.randint(top.min, top.max, (3, 6, 5), dtype=integers).view(dtype)
    for layout in (lambda x: x, lambda x: channels_last(x, 1)):
        expected = formulas.occluded(images.view(integers), some_windows(2), baseline.view(integers))
        assert torch.equal(ops.occlude(layout(images), some_windows(2), baseline).contiguous().view(integers), expected)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_memory_layout(shape):
    """The copies lie in memory as the images do, ready for the network."""
    windows = some_windows(len(shape) - 2)
    images = random_images(shape)
    assert ops.occlude(images, windows).is_contiguous()
    copies = ops.occlude(channels_last(images, 1), windows)
    assert copies.movedim(2, -1).is_contiguous()
    assert copies.view(-1, *shape[1:]).shape[0] == shape[0] * len(windows)  # (N M, C, *S) without a copy


@pytest.mark.usefixtures("kernels")
def test_empty():
    windows = some_windows(2)
    assert ops.occlude(random_images((0, 3, 6, 5)), windows).shape == (0, len(windows), 3, 6, 5)
    assert ops.occlude(random_images((2, 3, 6, 5)), windows[:0]).shape == (2, 0, 3, 6, 5)
    assert ops.occlude(random_images((2, 0, 6, 5)), windows).shape == (2, len(windows), 0, 6, 5)
    assert ops.occlude(random_images((2, 3, 0, 5)), windows).shape == (2, len(windows), 3, 0, 5)
    assert ops.occlude(random_images((0, 3, 6, 5)), windows, torch.zeros(0, 3, 6, 5)).shape[0] == 0


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("layout", named(LAYOUTS))
def test_determinism(layout):
    images, windows = layout(random_images((5, 3, 33, 40)), 1), some_windows(2)
    baseline = baselines((5, 3, 33, 40))[5]
    with threads(2):
        batch = ops.occlude(images, windows, baseline)
    with threads(1):
        same_bits(ops.occlude(images, windows, baseline), batch)
        for i in range(5):
            same_bits(ops.occlude(images[i : i + 1], windows, baseline[i : i + 1]), batch[i : i + 1])


@pytest.mark.parametrize("which", range(8))
@pytest.mark.parametrize("shape", [(2, 3, 4, 3), (2, 3, 5), (1, 2, 2, 3, 2)], ids=str)
def test_gradients(shape, which):
    images = random_images(shape, torch.float64).requires_grad_()
    baseline = baselines(shape, torch.float64)[which].clone().requires_grad_()
    windows = some_windows(len(shape) - 2)[::9]
    assert gradcheck(lambda x, b: ops.occlude(x, windows, b), (images, baseline))
    if len(shape) == 4:
        assert gradgradcheck(lambda x, b: ops.occlude(x, windows, b), (images, baseline), fast_mode=True)


@pytest.mark.parametrize("which", [0, 1, 5])
def test_opcheck(which):
    images = random_images((2, 3, 4, 3), torch.float64).requires_grad_()
    baseline = baselines((2, 3, 4, 3), torch.float64)[which].clone().requires_grad_()
    windows = some_windows(2)[::4]
    torch.library.opcheck(torch.ops.fastcam.occlude.default, (images, windows, baseline))
    last = channels_last(images.detach().bfloat16(), 1)
    torch.library.opcheck(torch.ops.fastcam.occlude.default, (last, windows, baseline.detach().bfloat16()))


def test_bad_input():
    x, w = random_images((2, 3, 6, 5)), some_windows(2)
    windows = r"`windows` must have shape \(M, 2, 2\), .*, got "
    baseline = r"`baseline` must be a number or have shape \(C,\), .* for images \(2, 3, 6, 5\), got "
    for arguments, error, message in [
        ((x.tolist(), w), TypeError, "`images` must be a torch.Tensor, got list"),
        ((x.to(torch.uint8), w), TypeError, "`images` must be float32, .*, got torch.uint8"),
        ((x[0, 0], w), ValueError, r"`images` must have shape \(N, C, ...\) with 1 to 3 spatial axes, got \(6, 5\)"),
        ((x[None, None], w), ValueError, r"1 to 3 spatial axes, got \(1, 1, 2, 3, 6, 5\)"),
        ((x, [[0, 0], [1, 1]]), TypeError, "`windows` must be an int64 tensor, got list"),
        ((x, w.int()), TypeError, "`windows` must be an int64 tensor, got torch.int32"),
        ((x, w.float()), TypeError, "`windows` must be an int64 tensor, got torch.float32"),
        ((x, w[0]), ValueError, windows + r"\(2, 2\)"),
        ((x, w[..., :1]), ValueError, windows + r"\(48, 2, 1\)"),
        ((x, w.reshape(-1, 4, 1)), ValueError, windows + r"\(48, 4, 1\)"),
        ((x, some_windows(3)), ValueError, windows + r"\(64, 2, 3\)"),
        ((x, w.to("meta")), ValueError, "`windows` must be on the device of `images`, cpu, got meta"),
        ((x, w, torch.zeros(2)), ValueError, baseline + r"\(2,\)"),
        ((x, w, torch.zeros(6, 5)), ValueError, baseline + r"\(6, 5\)"),
        ((x, w, torch.zeros(3, 5, 6)), ValueError, baseline + r"\(3, 5, 6\)"),
        ((x, w, torch.zeros(3, 3, 6, 5)), ValueError, baseline + r"\(3, 3, 6, 5\)"),
        ((x, w, torch.zeros(1, 2, 3, 6, 5)), ValueError, baseline + r"\(1, 2, 3, 6, 5\)"),
        ((x, w, torch.zeros(3).double()), TypeError, "`baseline` must have the dtype .*float32, got torch.float64"),
        ((x, w, torch.zeros(3, device="meta")), ValueError, "`baseline` must be on the device .*cpu, got meta"),
    ]:
        with pytest.raises(error, match=message):
            ops.occlude(*arguments)


@pytest.mark.parametrize("baseline", [None, "grey", [[1.0], [2.0, 3.0]], 1j], ids=str)
def test_bad_baseline(baseline):
    """What is neither a number nor a tensor."""
    with pytest.raises((TypeError, ValueError), match="`baseline` must be"):
        ops.occlude(random_images((2, 3, 6, 5)), some_windows(2), baseline)


def test_bad_input_of_the_bare_op():
    x, w, b = random_images((2, 3, 6, 5)), some_windows(2), torch.zeros(())
    windows = r"`windows` must be int64 of shape \(M, 2, 2\) .*, got shape "
    for arguments, message in [
        ((x[0, 0], w, b), r"`images` must have shape .*, got \(6, 5\)"),
        ((x[0, 0, 0, 0], w, b), r"`images` must have shape .*, got \(\)"),
        ((x[None, None], w, b), r"`images` must have shape .*, got \(1, 1, 2, 3, 6, 5\)"),
        ((x, w[0], b), windows + r"\(2, 2\)"),
        ((x, w[..., :1], b), windows + r"\(48, 2, 1\)"),
        ((x, w[:, :1], b), windows + r"\(48, 1, 2\)"),
        ((x, w[0, 0, 0], b), windows + r"\(\)"),
        ((x, w.int(), b), windows),
        ((x, w.double(), b), windows),
        ((x, w, b.double()), "`baseline` must have the dtype and device of `images`"),
        ((x, w, b.long()), "`baseline` must have the dtype and device of `images`"),
        ((x, w, torch.zeros(2)), r"`baseline` must be .*, got \(2\)"),
        ((x, w, torch.zeros(6, 5)), r"`baseline` must be .*, got \(6, 5\)"),
        ((x, w, torch.zeros(0)), r"`baseline` must be .*, got \(0\)"),
        ((x, w, torch.zeros(3, 3, 6, 5)), r"`baseline` must be .*, got \(3, 3, 6, 5\)"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            torch.ops.fastcam.occlude(*arguments)


def test_baseline_with_too_many_axes():
    """In a process of its own: what writes beyond an array of axes may end the process only later."""
    call = "torch.ops.fastcam.occlude(torch.zeros(2, 3, 6, 5), torch.ones(1, 2, 2).long(), torch.zeros([1] * 9))"
    command = [sys.executable, "-c", f"import torch, fastcam.ops; {call}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "`baseline` must be a number" in done.stderr
