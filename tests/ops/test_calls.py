"""Calls of which nothing is recorded go past autograd; all others through it, as torch's own dispatcher does."""

import pytest
import torch

from fastcam import ops
from fastcam._extension import has_extension
from fastcam.ops import _register

pytestmark = pytest.mark.skipif(not has_extension(), reason="the references have no dispatcher")


@pytest.fixture
def pair():
    torch.manual_seed(0)
    return torch.rand(2, 3, 4, 5, dtype=torch.float64), torch.randn(2, 3, 4, 5, dtype=torch.float64)


@pytest.fixture
def through(monkeypatch):
    """Of every call, whether it went through autograd."""
    answers, decide = [], _register._may_be_recorded

    def noted(arguments):
        answers.append(decide(arguments))
        return answers[-1]

    monkeypatch.setattr(_register, "_may_be_recorded", noted)
    return answers


def test_nothing_is_recorded_where_nothing_is_wanted(pair, through):
    expected = torch.ops.fastcam.grad_cam(*pair, True)
    assert torch.equal(ops.grad_cam(*pair), expected)
    pair[0].requires_grad_()
    with torch.no_grad():
        maps = ops.grad_cam(*pair)
    assert through == [False, False]
    assert torch.equal(maps, expected)
    assert not maps.requires_grad


def test_gradients_are_recorded(pair, through):
    pair[0].requires_grad_()
    ops.grad_cam(*pair).sum().backward()
    reference = pair[0].detach().requires_grad_()
    torch.ops.fastcam.grad_cam(reference, pair[1], True).sum().backward()
    assert through == [True]
    assert torch.equal(pair[0].grad, reference.grad)


def test_function_transforms_are_refused_as_by_torch(pair, through):
    """Not answered without the derivative."""
    a, g = pair
    with pytest.raises(RuntimeError) as theirs:
        torch.func.grad(lambda x: torch.ops.fastcam.grad_cam(x, g, True).sum())(a)
    with pytest.raises(theirs.type):
        torch.func.grad(lambda x: ops.grad_cam(x, g).sum())(a)
    assert through == [True]


def test_a_compiler_sees_the_op(pair):
    graphs = []

    def backend(module, inputs):
        graphs.append(module)
        return module

    torch.compile(lambda a, g: ops.grad_cam(a, g) * 2, backend=backend, fullgraph=True)(*pair)
    targets = [str(node.target) for graph in graphs for node in graph.graph.nodes]
    assert any("fastcam.grad_cam" in target for target in targets), targets
    assert _register._may_be_recorded(pair) is False
