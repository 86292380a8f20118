"""The ops as PyTorch's compilers call them, each with its numbers."""

import io
import warnings

import pytest
import torch

from fastcam import ops
from tests.ops.calls import BARE, DIFFERENTIABLE_IN, THROUGH_WRAPPER, EveryOp, check, check_every_op, expected, inputs
from tests.ops.op_tester import channels_last, close, contiguous, named
from tests.support.tiers import slow

NAMES = list(THROUGH_WRAPPER)
NOT_DIFFERENTIABLE = [name for name, places in DIFFERENTIABLE_IN.items() if not places]


@pytest.fixture(autouse=True)
def _quietly():
    """TorchScript is deprecated, and still what some callers have."""
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        yield


def leaves(name, dtype=torch.float64):
    """Inputs of one function, those it is differentiable in as leaves, and these."""
    arguments = list(inputs(dtype))
    places = DIFFERENTIABLE_IN.get(name, [0, 2] if "targets" in name or name in ("xgrad_cam", "layer_cam") else [0, 1])
    for i in places:
        arguments[i].requires_grad_()
    return arguments, [arguments[i] for i in places]


@pytest.mark.parametrize("layout", named([contiguous, channels_last]))
@pytest.mark.parametrize("name", NAMES)
def test_eager(name, layout):
    arguments = inputs(layout=layout)
    check(name, THROUGH_WRAPPER[name](*arguments), arguments)
    check(name, BARE[name](*arguments), arguments)


# One by one in the slow tier: in one graph they are traced, with their backward passes, in a fifth of the time.
TOGETHER = pytest.param(THROUGH_WRAPPER, id="together")


@pytest.mark.parametrize("dynamic", [True, *slow(False)])
@pytest.mark.parametrize("table", [TOGETHER, *slow(*({name: THROUGH_WRAPPER[name]} for name in NAMES))])
def test_compile(table, dynamic):
    """Forward and backward in one graph each, for more than one batch size."""

    def run(*arguments):
        return {name: function(*arguments) for name, function in table.items()}

    compiled = torch.compile(run, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for count in (3, 2):
        for name, result in compiled(*inputs(count=count)).items():
            check(name, result, inputs(count=count))
    differentiable = [name for name in table if name not in NOT_DIFFERENTIABLE]
    if not differentiable:
        return
    arguments = [x.double().requires_grad_() for x in inputs()[:3]] + [inputs()[3]]
    results = compiled(*arguments)
    for name in differentiable:
        check(name, results[name], arguments)
    directions = [torch.randn_like(results[name]) for name in differentiable]
    actual, eager = (
        torch.autograd.grad([values[name] for name in differentiable], arguments[:3], directions, allow_unused=True)
        for values in (results, run(*arguments))
    )
    assert any(gradient is not None for gradient in eager)
    for one, other in zip(actual, eager, strict=True):
        if other is None:
            assert one is None or not one.any()
        else:
            close(one, other)


# A map, weights per channel, a resize and copies of images: every kind of result that generated code goes on with.
SOME = {name: THROUGH_WRAPPER[name] for name in ("grad_cam", "channel_weights", "upsample_normalize", "mask_images")}


@pytest.mark.parametrize("table", [SOME, *slow(THROUGH_WRAPPER)], ids=["some", "all"])
def test_inductor(table):
    """Ops in one graph, with generated code around them."""
    compiled = torch.compile(EveryOp(table), fullgraph=True)
    check_every_op(compiled(*inputs()), *inputs())


def test_inductor_backward():
    """The backward of a map as a network in training would have it, in generated code."""

    def loss(a, g):
        return (ops.upsample_normalize(ops.grad_cam(2 * a, g), (11, 8)) ** 2).sum()

    a, g = (x.double().requires_grad_() for x in inputs()[:2])
    actual = torch.autograd.grad(torch.compile(loss, fullgraph=True)(a, g), (a, g))
    for one, other in zip(actual, torch.autograd.grad(loss(a, g), (a, g)), strict=True):
        close(one, other)


def batches():
    """The batch as a dimension that may change."""
    batch = torch.export.Dim("batch", min=1, max=64)
    return {"a": {0: batch}, "g": {0: batch}, "k": {0: batch}, "windows": None}


@pytest.mark.parametrize("table", [THROUGH_WRAPPER, BARE], ids=["wrapper", "bare"])
def test_export(table):
    program = torch.export.export(EveryOp(table), inputs(), dynamic_shapes=batches())
    called = [str(node.target) for node in program.graph.nodes if "fastcam" in str(node.target)]
    assert len(called) >= len(table)  # kept as the ops they are
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    loaded = torch.export.load(buffer).module()
    for count in (3, 5):
        check_every_op(loaded(*inputs(count=count)), *inputs(count=count))


@pytest.mark.parametrize(
    "table", [{"grad_cam": THROUGH_WRAPPER["grad_cam"]}, *slow(THROUGH_WRAPPER)], ids=["one", "all"]
)
def test_aot_inductor(table, tmp_path):
    """Compiled to a library ahead of time, and loaded without the Python around it."""
    program = torch.export.export(EveryOp(table), inputs(), dynamic_shapes=batches())
    package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "ops.pt2"))
    loaded = torch._inductor.aoti_load_package(package)
    for count in (3, 5):
        check_every_op(loaded(*inputs(count=count)), *inputs(count=count))


@pytest.mark.parametrize("name", NAMES)
def test_script(name):
    """Compiled, saved and loaded; its gradients too."""
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(BARE[name]), buffer)
    buffer.seek(0)
    scripted = torch.jit.load(buffer)
    for count in (3, 2):
        check(name, scripted(*inputs(count=count)), inputs(count=count))
    if name in NOT_DIFFERENTIABLE:
        return
    arguments, wanted = leaves(name)
    actual = torch.autograd.grad(scripted(*arguments).sum(), wanted)
    eager = torch.autograd.grad(BARE[name](*arguments).sum(), wanted)
    for one, other in zip(actual, eager, strict=True):
        close(one, other)


@pytest.mark.parametrize("name", NAMES)
def test_trace(name):
    traced = torch.jit.trace(THROUGH_WRAPPER[name], inputs())
    for count in (3, 2):
        check(name, traced(*inputs(count=count)), inputs(count=count))


@pytest.mark.parametrize("name", NAMES)
def test_fake(name):
    """The fake predicts shape, dtype and strides of every dtype and layout."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        for layout in (contiguous, channels_last):
            arguments = inputs(dtype, layout=layout)
            real = BARE[name](*arguments)
            with FakeTensorMode() as mode:
                fake = BARE[name](*map(mode.from_tensor, arguments))
            assert fake.shape == real.shape == expected(name, *arguments).shape
            assert fake.dtype == real.dtype
            assert fake.stride() == real.stride()
