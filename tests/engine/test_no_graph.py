"""What an explanation holds is free of graphs and modes, whatever the caller's, and is its image's alone."""

import contextlib
import gc
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import fastcam
from tests.support.conv_net import Call, images_for, suited
from tests.support.engine_cases import METHODS, cheap, explain, layer_of
from tests.support.model_state import snapshot

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:the model is in training mode"),
]

SEVERAL = [[0, 1], [2, 3]]


def tensors_of(explanation: fastcam.Explanation) -> list[Tensor]:
    held = [vars(explanation), dict(explanation.details), explanation.raw, explanation.maps]
    return [each for each in tree_leaves(held) if isinstance(each, Tensor)]


def check_same(found: fastcam.Explanation, expected: fastcam.Explanation) -> None:
    assert set(found.details) == set(expected.details)
    for one, other in zip(tensors_of(found), tensors_of(expected), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("target", [None, SEVERAL], ids=["one", "several"])
@pytest.mark.parametrize("method", METHODS)
def test_nothing_holds_a_graph(method, target):
    images = images_for().requires_grad_()
    found = explain(method, images, target)
    for each in tensors_of(found):
        assert each.grad_fn is None
        assert not each.requires_grad
        assert not each.is_inference()
    assert images.grad is None


@pytest.mark.parametrize("method", METHODS)
def test_what_a_call_used_is_freed_with_its_explanation(method):
    """No cycle, no cache: without the garbage collector."""
    model, _ = suited(method)
    born: list[weakref.ref[Tensor]] = []

    def note(output: Tensor) -> Tensor:
        born.append(weakref.ref(output))
        return output[:, 1] * 2

    gc.disable()
    try:
        for differentiable in (False, True):
            with contextlib.suppress(ValueError):  # not every method has differentiable maps
                explain(method, None, note, model, differentiable=differentiable)
            assert born
            assert all(each() is None for each in born)
            born.clear()
    finally:
        gc.enable()


MODES = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "enable_grad": torch.enable_grad,
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", METHODS)
def test_modes_of_the_caller(method, mode):
    expected = explain(method, None, SEVERAL)
    model, _ = suited(method)
    with MODES[mode]():
        before = snapshot(model)
        found = explain(method, images_for(), SEVERAL, model)
        assert snapshot(model) == before
    check_same(found, expected)


@pytest.mark.parametrize("method", METHODS)
def test_images_and_targets_of_inference_mode(method):
    with torch.inference_mode():
        images, target = images_for(), torch.tensor(SEVERAL)
    check_same(explain(method, images, target), explain(method, None, SEVERAL))
    assert images.is_inference()


@pytest.mark.parametrize("method", METHODS)
def test_frozen_parameters(method):
    model, _ = suited(method)
    model.requires_grad_(False)
    before = snapshot(model)
    check_same(explain(method, None, SEVERAL, model), explain(method, None, SEVERAL))
    assert snapshot(model) == before


@pytest.mark.parametrize("target", [None, SEVERAL, "all"], ids=["one", "several", "all"])
@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_its_images_one_by_one(method, target):
    """In float64: Ablation-CAM divides small differences."""
    model, _ = suited(method)
    model.double()
    images = images_for(count=3).double()
    rows = target if not isinstance(target, list) else [*target, [4, 4]]
    found = explain(method, images, rows, model)
    for row in range(3):
        which = [rows[row]] if isinstance(rows, list) else rows
        alone = explain(method, images[row : row + 1], which, model)
        torch.testing.assert_close(found.native[row], alone.native[0], rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(found.scores[row], alone.scores[0], rtol=1e-10, atol=1e-12)
        for one, other in zip(tree_leaves(found.details), tree_leaves(alone.details), strict=True):
            torch.testing.assert_close(one[row], other[0], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("method", METHODS)
def test_training_mode(method):
    """Dropout and batch norm of the batch: the model's state and the random state stay; twice the same maps."""
    model, _ = suited(method)
    model.train()
    model.stem[3].p = 0.5
    before = snapshot(model)
    first = explain(method, None, 1, model)
    assert snapshot(model) == before
    check_same(explain(method, None, 1, model), first)
    assert first.native.isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_images_stay_as_they_are_before_a_model_that_works_in_place(method):
    model, layer = suited(method)
    model.double()
    images = images_for().double()
    in_place = nn.Sequential(Call(lambda x: x.mul_(2).sub_(1)), model).eval()
    plain = nn.Sequential(Call(lambda x: x * 2 - 1), model).eval()
    options = {"target_layer": layer_of(method, f"1.{layer}")} | cheap(method)
    found = fastcam.explain(in_place, images, method, SEVERAL, **options)
    assert images.equal(images_for().double())
    assert found.images.equal(images)
    check_same(found, fastcam.explain(plain, images, method, SEVERAL, **options))
