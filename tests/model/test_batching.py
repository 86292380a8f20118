"""Work in pieces: each copy once, whatever the batch size, and smaller pieces where memory runs out."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import fastcam
from fastcam.model.batching import Batches, Block
from fastcam.model.progress import ProgressReporter
from tests.support.conv_net import conv_net, images_for
from tests.support.engine_cases import METHODS
from tests.support.tiers import slow

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
SCORED = [name for name in METHODS if {"scorer", "ablated_scores"} & set(fastcam.get_method(name).needs)]
OPTIONS = {"rise": {"masks": 11}, "integrated_gradients": {"steps": 7}, "smooth_grad": {"samples": 6}}


def places(block: Block) -> list[tuple[int, int]]:
    return [(image, variant) for image in block.images for variant in block.variants]


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 40), st.integers(1, 50))
def test_each_copy_once_and_the_variants_of_an_image_in_order(images, variants, limit):
    seen = []
    for block, result in Batches(limit, CPU, ProgressReporter()).each(images, variants, places):
        assert 1 <= len(block) == len(result) <= limit
        assert [row for row, _ in result] == block.rows.tolist()
        seen += result
    assert sorted(seen) == [(image, variant) for image in range(images) for variant in range(variants)]
    for image in range(images):
        assert [variant for row, variant in seen if row == image] == list(range(variants))


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 40), st.integers(1, 17))
def test_memory_for_so_many_copies(images, variants, memory):
    """Fails like a full GPU above a size that the caller does not know: goes on with what was not done."""
    done, failures = [], []

    def work(block: Block) -> int:
        if len(block) > memory:
            failures.append(len(block))
            raise torch.OutOfMemoryError("CUDA out of memory")
        done.extend(places(block))
        return len(block)

    list(Batches("auto", CPU, ProgressReporter()).each(images, variants, work))
    assert len(done) == len(set(done)) == images * variants
    assert len(failures) <= 5  # 16, 8, 4, 2, 1


@pytest.mark.parametrize("error", [ValueError("no"), RuntimeError("shape mismatch"), KeyboardInterrupt()])
def test_other_errors_pass(error):
    def work(block: Block) -> None:
        raise error

    with pytest.raises(type(error)):
        list(Batches("auto", CPU, ProgressReporter()).each(2, 3, work))


@pytest.mark.parametrize("batch_size", [4, "auto"])
def test_memory_for_not_even_one_copy(batch_size):
    def work(block: Block) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        list(Batches(batch_size, CPU, ProgressReporter()).each(2, 3, work))


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, True, "all", None])
def test_bad_batch_sizes(batch_size):
    with pytest.raises(ValueError, match='`batch_size` must be "auto" or a positive whole number, got '):
        fastcam.Explainer(conv_net(), "occlusion", batch_size=batch_size)


@pytest.mark.parametrize("method", SCORED)
@pytest.mark.parametrize("batch_size", [1, 2, 5, "auto"])
def test_maps_do_not_depend_on_the_batch_size(method, batch_size):
    model, images, layer = conv_net(torch.nn.Conv2d(8, 8, 3)), images_for(count=3), "relu"
    options = OPTIONS.get(method, {})
    whole = fastcam.explain(model, images, method, None, layer, batch_size=1000, **options)
    pieces = fastcam.explain(model, images, method, None, layer, batch_size=batch_size, **options)
    torch.testing.assert_close(pieces.native, whole.native, rtol=1e-4, atol=1e-6)


REAL = """
import resource, sys
import torch, fastcam
from torch import nn

torch.set_num_threads(1)

class Hungry(nn.Module):
    '''Needs 48 MB for a copy.'''
    rows = 0
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)
    def forward(self, x):
        wide = torch.ones(len(x), 12, 1024, 1024)
        Hungry.rows += len(x)
        return self.conv(x).amax((2, 3)) + wide[:, :2, 0, 0]

torch.manual_seed(0)
model, image = Hungry().eval(), torch.randn(1, 3, 32, 32)
options = dict(window=8, stride=4, engine="dense")
expected = fastcam.explain(model, image, "occlusion", 0, batch_size=1, **options).raw
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 400 * 2**20, -1))
Hungry.rows = 0
found = fastcam.explain(model, image, "occlusion", 0, **options).raw
assert torch.allclose(found, expected, atol=1e-6), (found - expected).abs().max()
assert Hungry.rows == 1 + 49, Hungry.rows
try:
    fastcam.explain(model, image, "occlusion", 0, batch_size=16, **options)
except RuntimeError as error:
    print("raised", str(error)[:60])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits its own memory")
def test_real_lack_of_memory():
    """The allocator itself refuses; every copy is scored once, and a batch size that was asked for is not changed."""
    done = subprocess.run([sys.executable, "-c", REAL], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("raised")


# --- progress ---------------------------------------------------------------------------------------------------------


def test_progress_is_told_of_every_piece():
    calls: list[tuple[int, int]] = []
    fastcam.explain(
        conv_net(), images_for(), "rise", 1, masks=10, batch_size=6, progress=lambda *call: calls.append(call)
    )
    assert calls == [(6, 20), (12, 20), (18, 20), (20, 20)]


def test_work_inside_the_work_is_not_told():
    calls: list[tuple[int, int]] = []
    options = {"inner": "integrated_gradients", "samples": 3, "steps": 4}
    fastcam.explain(
        conv_net(), images_for(), "smooth_grad", 1, **options, batch_size=2, progress=lambda *call: calls.append(call)
    )
    assert calls == [(2, 6), (4, 6), (6, 6)]


@pytest.mark.parametrize("progress", ["yes", 1, None])
def test_bad_progress(progress):
    with pytest.raises(TypeError, match=r"`progress` must be True, False or a function of \(done, total\), got "):
        fastcam.Explainer(conv_net(), progress=progress)


SLOW = """
import sys, time
import torch, fastcam
class Slow(torch.nn.Module):
    def forward(self, x):
        time.sleep(float(sys.argv[1]))
        return x.mean((2, 3))
fastcam.explain(Slow().eval(), torch.rand(1, 3, 8, 8), "rise", 0, masks=8, batch_size=1, progress=sys.argv[2] == "show")
"""


@pytest.mark.parametrize(
    ("seconds", "show", "terminal", "drawn"),
    [
        (0.3, "show", True, True),
        (0.3, "show", False, False),
        *slow((0.0, "show", True, False), (0.3, "hide", True, False)),
    ],
    ids=["drawn", "no terminal", "quick", "not asked for"],
)
def test_a_bar_after_two_seconds(seconds, show, terminal, drawn):
    command = [sys.executable, "-c", SLOW, str(seconds), show]
    forced = {"FORCE_COLOR": "1"} if terminal else {}  # rich then takes a pipe for a terminal
    plain = {name: value for name, value in os.environ.items() if name != "FORCE_COLOR"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=plain | forced)
    assert ("explaining" in done.stderr) == drawn
    assert done.stdout == ""
    assert drawn or done.stderr == ""


def test_the_model_may_fail_in_the_middle():
    def target(output: Tensor) -> Tensor:
        if len(output) == 6:
            raise RuntimeError("in the middle")
        return output[:, 1]

    with pytest.raises(RuntimeError, match="in the middle"):
        fastcam.explain(conv_net(), images_for(), "rise", target, masks=10, batch_size=6, progress=True)
