"""Memory of the methods that try copies: no more at once than was said, and less where it runs out, for all of them."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastcam.model.batching import Batches, Block
from fastcam.model.progress import ProgressReporter
from tests.support.conv_net import Call, conv_net, images_for
from tests.support.engine_cases import COPYING, Counting, explain
from tests.support.model_state import snapshot

pytestmark = pytest.mark.usefixtures("one_thread")

COUNTS = st.integers(1, 23)
OUT_OF_MEMORY = {
    "GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    "CPU": RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: 12"),
    "C++": RuntimeError("std::bad_alloc"),
    "oneDNN": RuntimeError("could not execute a primitive"),
    "Python": MemoryError(),
}


def batches(size) -> Batches:
    return Batches(size, torch.device("cpu"), ProgressReporter())


def pairs(block: Block) -> list[tuple[int, int]]:
    """(image, variant) of every copy in a block's flat order."""
    return [(image, variant) for image in block.images for variant in block.variants]


def check_cover(done: list[Block], images: int, variants: int) -> None:
    found = [pair for block in done for pair in pairs(block)]
    assert sorted(found) == [(image, variant) for image in range(images) for variant in range(variants)]
    for image in range(images):
        assert [v for i, v in found if i == image] == list(range(variants))


@settings(deadline=None, max_examples=200)
@given(images=COUNTS, variants=COUNTS, capacities=st.lists(st.integers(1, 40), min_size=1))
def test_every_copy_once_where_memory_comes_and_goes(images, variants, capacities):
    attempts = iter(capacities * 1000)

    def work(block):
        if len(block) > next(attempts):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return len(block)

    done = list(batches("auto").each(images, variants, work))
    check_cover([block for block, _ in done], images, variants)
    assert all(result == len(block) for block, result in done)


@settings(deadline=None, max_examples=50)
@given(images=COUNTS, variants=COUNTS, capacity=st.integers(1, 40))
def test_no_more_is_tried_than_memory_held(images, variants, capacity):
    """Once memory ran out, no larger block is tried, and the blocks stay within a factor of two of what fits."""
    tried, failed = [], []

    def work(block):
        tried.append(len(block))
        if len(block) > capacity:
            failed.append(len(block))
            raise MemoryError

    list(batches("auto").each(images, variants, work))
    assert len(failed) <= 5  # 16, 8, 4, 2, 1
    assert len(tried) - len(failed) <= images * -(-variants // max(1, min(capacity, 16) // 2 // images))


# --- through the engine -----------------------------------------------------------------------------------------------

CASES = [(name, {}) for name in COPYING] + [("smooth_grad", {"inner": "integrated_gradients", "steps": 3})]
TARGETS = {"highest": None, "several": [[0, 1], [2, 3], [4, 0]]}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("method", "options"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_maps_do_not_depend_on_the_size(method, options, target):
    model = conv_net().double()
    images = images_for(count=3).double()

    def found(size):
        return explain(method, images, TARGETS[target], model, batch_size=size, **options)

    expected = found(1)
    assert expected.native.abs().max() > 1e-4
    for size in (2, 5, 32, "auto"):
        other = found(size)
        torch.testing.assert_close(other.native, expected.native, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(other.maps, expected.maps, rtol=0, atol=1e-6)


DIFFERENTIABLE = [(name, options) for name, options in CASES if name != "ablation_cam"]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("method", "options"), DIFFERENTIABLE, ids=lambda value: value if isinstance(value, str) else ""
)
def test_gradients_of_maps_do_not_depend_on_the_size(method, options, target):
    model = conv_net(torch.nn.Softplus(), inplace=False).double()
    weights = [model.stem[0].weight, model.classifier.weight]

    def found(size):
        images = images_for(count=3).double().requires_grad_()
        settings = {"batch_size": size, "differentiable": True, "relu": False} | options
        native = explain(method, images, TARGETS[target], model, **settings).native
        return torch.autograd.grad(native.square().sum(), [*weights, images])

    expected = found(32)
    assert all(each.abs().max() > 0 for each in expected)
    for size in (1, 2, 5):
        for one, other in zip(found(size), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("size", [1, 2, 5, 32])
@pytest.mark.parametrize(("method", "options"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_the_model_never_sees_more(method, options, size):
    """More than the images themselves, which go through the model together."""
    seen = Counting()
    model = conv_net(seen)
    explain(method, images_for(count=3), None, model, batch_size=size, **options)
    assert max(seen.sizes) <= max(3, size)
    assert sum(seen.sizes) > 3


def limited(capacity, error):
    """A network that has memory for so many images."""

    def check(x):
        if len(x) > capacity:
            raise error
        return x

    seen = Counting()
    return conv_net(Call(check), seen), seen


@pytest.mark.parametrize("error", OUT_OF_MEMORY.values(), ids=list(OUT_OF_MEMORY))
@pytest.mark.parametrize("method", COPYING)
def test_auto_takes_fewer_where_memory_runs_out(method, error):
    model, seen = limited(5, error)
    before = snapshot(model)
    found = explain(method, None, 1, model)
    assert max(seen.sizes) <= 5
    total = sum(seen.sizes)
    assert snapshot(model) == before
    unlimited, seen = limited(1000, error)
    expected = explain(method, None, 1, unlimited)
    assert max(seen.sizes) > 5
    assert total == sum(seen.sizes)  # what was done is not done again
    torch.testing.assert_close(found.native, expected.native, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("error", OUT_OF_MEMORY.values(), ids=list(OUT_OF_MEMORY))
@pytest.mark.parametrize("method", COPYING)
def test_a_number_is_kept_to(method, error):
    with pytest.raises(type(error)) as caught:
        explain(method, None, 1, limited(5, error)[0], batch_size=8)
    assert caught.value is error


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), ValueError("memory"), KeyboardInterrupt()])
@pytest.mark.parametrize("method", COPYING)
def test_other_errors_are_raised_at_once(method, error):
    model, seen = limited(2, error)
    with pytest.raises(type(error)) as caught:
        explain(method, None, 1, model)
    assert caught.value is error
    assert len(seen.sizes) <= 2  # the images, and the model run again up to the layer


def test_where_not_even_one_copy_fits_the_error_comes_out():
    calls = []

    def work(block):
        calls.append(len(block))
        raise MemoryError

    with pytest.raises(MemoryError):
        list(batches("auto").each(3, 7, work))
    assert calls == [15, 6, 3, 2, 1]


# --- memory that really runs out --------------------------------------------------------------------------------------

REAL = """
    import ctypes, resource, sys, torch, fastcam
    from torch import nn
    from tests.support.engine_cases import Counting

    torch.set_num_threads(1)
    if torch.__version__ < "2.11":  # oneDNN's convolution there writes through a pointer to memory that it did not get
        torch.backends.mkldnn.set_flags(False)
    torch.manual_seed(0)
    begun, finished = Counting(), Counting()
    model = nn.Sequential(begun, nn.Conv2d(3, 48, 3, padding=1), nn.ReLU(), nn.Conv2d(48, 48, 3, stride=2), nn.ReLU(),
                          nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 5), finished).eval()
    images = torch.randn(1, 3, 96, 96)

    def run(method, layer, size, **options):
        begun.sizes.clear(), finished.sizes.clear(), done.clear()
        progress = lambda *each: done.append(each)
        return fastcam.explain(model, images, method, 1, layer, batch_size=size, progress=progress, **options).native

    done, no_limit = [], (resource.RLIM_INFINITY,) * 2
    cases = [("occlusion", None, 48, {"window": 24, "stride": 12, "engine": "dense"}),
             ("occlusion", None, 24, {"window": 48, "stride": 8, "engine": "incremental"}),
             ("ablation_cam", "1", 40, {}), ("integrated_gradients", None, 64, {"steps": 40})]
    for method, layer, spare, options in cases:
        expected, copies = run(method, layer, 1, **options), sum(finished.sizes)
        ctypes.CDLL(None).malloc_trim(0)
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + spare * 2**20, no_limit[1]))
        try:
            found = run(method, layer, "auto", **options)
            sizes, tried, reports = list(finished.sizes), sum(begun.sizes), list(done)
            error = None
            try:
                run(method, layer, 32, **options)
            except (RuntimeError, MemoryError) as raised:
                error = str(raised)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, no_limit)
        print(method, sizes, reports, error, file=sys.stderr)
        assert error, "memory did not run out for 32 copies"
        if options.get("engine") == "dense":  # of the others no forward pass, or not it alone, ran out
            assert tried > copies and sum(sizes) == copies
        steps = [b - a for (a, _), (b, _) in zip([(0, 0), *reports], reports)]
        assert min(steps) > 0 and 1 < max(steps) < 16, steps
        assert sum(steps) == reports[-1][1], "something was done twice, or not at all"
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    print("all")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the memory of a process")
def test_real_memory():
    script = textwrap.dedent(REAL)
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed goes back to the system at once
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment)
    assert done.stdout == "all\n", done.stderr
