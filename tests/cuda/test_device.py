"""The CUDA kernels on a GPU; these run by themselves where there is one (``make test-cuda``).

The op tests run there as well, with the same numbers: here is what only a device can show.
"""

import gc

import pytest
import torch

from fastcam import ops
from fastcam.ops import reference
from tests.ops import calls
from tests.ops.op_tester import channels_last, close, contiguous

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]


def on_device(arguments, device="cuda"):
    return tuple(each.to(device) for each in arguments)


def large_pair(count=64, dtype=torch.float32, device="cuda"):
    generator = torch.Generator(device).manual_seed(0)
    shape = (count, 512, 14, 14)
    activations = torch.rand(shape, generator=generator, device=device).to(dtype)
    return activations, torch.randn(shape, generator=generator, device=device).to(dtype)


@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", calls.THROUGH_WRAPPER)
def test_the_papers_formulas(name, dtype, layout):
    arguments = calls.inputs(dtype, layout=layout)
    result = calls.THROUGH_WRAPPER[name](*on_device(arguments))
    assert result.is_cuda
    calls.check(name, result.cpu(), arguments)


@pytest.mark.parametrize("op", ["grad_cam", "grad_cam_pp", "xgrad_cam", "layer_cam"])
def test_the_reference_on_the_device(op):
    pair = large_pair()
    close(getattr(ops, op)(*pair).cpu(), getattr(reference, op)(*(each.double() for each in pair)).cpu(), torch.float32)


def test_current_stream():
    """The kernel waits for what its own stream has to do first, and for nothing else."""
    a, g = large_pair(8)
    expected = ops.grad_cam(a, g)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        late = torch.zeros_like(a)
        torch.cuda._sleep(200_000_000)
        late.copy_(a)
        maps = ops.grad_cam(late, g)
        assert not stream.query(), "the op waited for the device"
    stream.synchronize()
    assert torch.equal(maps, expected)


def test_graph():
    a, g = large_pair(4)
    arguments = on_device(calls.inputs())
    for function in calls.THROUGH_WRAPPER.values():
        function(*arguments)  # allocations and libraries first
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = {name: function(*arguments) for name, function in calls.THROUGH_WRAPPER.items()}
        maps = ops.grad_cam_pp(a, g)
    for changed in (arguments[0], a):
        changed.mul_(2)
    graph.replay()
    torch.cuda.synchronize()
    for name, result in captured.items():
        calls.check(name, result.cpu(), tuple(each.cpu() for each in arguments))
    assert torch.equal(maps, ops.grad_cam_pp(a, g))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU only")
def test_second_device():
    """Tensors of a device that is not the current one, and never two devices at once."""
    arguments = calls.inputs()
    for name, function in calls.THROUGH_WRAPPER.items():
        result = function(*on_device(arguments, "cuda:1"))
        assert result.device == torch.device("cuda:1")
        calls.check(name, result.cpu(), arguments)
    assert torch.cuda.current_device() == 0
    a, g = large_pair(1)
    with pytest.raises(ValueError, match="must be on the device of"):
        ops.grad_cam(a, g.to("cuda:1"))


def test_memory_does_not_grow():
    a, g = large_pair(16)
    arguments = on_device(calls.inputs())

    def everything():
        ops.grad_cam(a, g), ops.grad_cam_pp(a, g)
        for function in calls.THROUGH_WRAPPER.values():
            function(*arguments)

    everything()
    torch.cuda.synchronize()
    gc.collect()
    before = torch.cuda.memory_allocated()
    for _ in range(20):
        everything()
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before


def test_an_image_that_is_not_there():
    """Nothing is read out of bounds; the window is NaN."""
    clean, patches = torch.ones(2, 3, 8, 8, device="cuda"), torch.ones(2, 3, 2, 2, device="cuda")
    places = torch.ones(2, 2, dtype=torch.int64, device="cuda")
    windows = ops.gather_patches(clean, torch.tensor([1, 2], device="cuda"), patches, places, places, (3, 3))
    assert windows[0].isfinite().all()
    assert windows[1].isnan().all()
