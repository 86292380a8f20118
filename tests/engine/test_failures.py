"""Whatever raises, wherever and whenever: the error comes out as it is, the model stays as it was, nothing is kept."""

import contextlib
import gc
import weakref
from typing import ClassVar

import pytest
import rich.progress
import torch
from torch import Tensor, nn

from fastcam.model import progress
from tests.support.conv_net import Call, images_for, suited
from tests.support.engine_cases import COPYING, METHODS, explain, few_objects
from tests.support.model_state import snapshot

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:the model is in training mode"),
]

CLASSES_ONLY = ("cam", "gmp_cam")
FORWARD_ONLY = [name for name in COPYING if name not in ("integrated_gradients", "smooth_grad")] + [
    "eigen_cam",
    *CLASSES_ONLY,
]


class Failing(nn.Module):
    """Raises in its n-th call, if there is an n."""

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self.error, self.calls, self.last = error, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.last:
            raise self.error("here")
        return x


def failing_model(method: str, where: str, error: type[BaseException], training: bool) -> tuple[nn.Module, Failing]:
    model, failing = suited(method)[0], Failing(error)
    if where == "behind the layer":
        model.probe = failing
    else:
        model.stem.append(failing)
    return model.train(training), failing


@pytest.mark.parametrize(
    ("where", "training", "error"),
    [
        ("before the layer", False, KeyboardInterrupt),
        ("before the layer", True, torch.OutOfMemoryError),
        ("behind the layer", False, torch.OutOfMemoryError),
        ("behind the layer", True, ZeroDivisionError),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_every_call_of_the_model_may_fail(method, where, training, error):
    model, failing = failing_model(method, where, error, training)
    explain(method, None, 1, model, batch_size=7)
    calls = failing.calls
    for last in range(1, calls + 1):
        failing.calls, failing.last = 0, last
        before = snapshot(model)
        with pytest.raises(error, match="here"):
            explain(method, None, 1, model, batch_size=7)
        assert snapshot(model) == before
        assert failing.calls == last  # nothing is tried again


@pytest.mark.parametrize("error", [KeyboardInterrupt, torch.OutOfMemoryError])
@pytest.mark.parametrize("method", [name for name in METHODS if name not in CLASSES_ONLY])
def test_every_call_of_the_target_may_fail(method, error):
    calls, last = 0, 0

    def target(output: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == last:
            raise error("here")
        return output[:, 1].tanh()

    model, _ = suited(method)
    before = snapshot(model)
    explain(method, None, target, model, batch_size=7)
    total = calls
    for last in range(1, total + 1):
        calls = 0
        with pytest.raises(error, match="here"):
            explain(method, None, target, model, batch_size=7)
        assert snapshot(model) == before
        assert calls == last


class FailingBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 1

    @staticmethod
    def backward(ctx, gradient):
        raise ZeroDivisionError("backward")


@pytest.mark.parametrize("differentiable", [False, True])
@pytest.mark.parametrize("target", [1, [[0, 1], [2, 3]]], ids=["one", "several"])
@pytest.mark.parametrize("method", [name for name in METHODS if name not in FORWARD_ONLY])
def test_backward_may_fail(method, target, differentiable):
    model, _ = suited(method)
    model.probe = Call(FailingBackward.apply).eval()
    before = snapshot(model)
    with pytest.raises(ZeroDivisionError, match="backward"):
        explain(method, None, target, model, differentiable=differentiable)
    assert snapshot(model) == before


@pytest.mark.parametrize("method", [name for name in FORWARD_ONLY if name not in CLASSES_ONLY])
def test_nothing_goes_back_without_need(method):
    model, _ = suited(method)
    expected = explain(method, None, 1, model)
    model.probe = Call(FailingBackward.apply).eval()
    torch.testing.assert_close(explain(method, None, 1, model).native, expected.native, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_kept_after_an_error(method):
    model, failing = failing_model(method, "behind the layer", ZeroDivisionError, False)
    explain(method, None, 1, model)
    failing.last, failing.calls = failing.calls, 0
    with few_objects():
        images = images_for()
        kept = weakref.ref(images)
        with contextlib.suppress(ZeroDivisionError):
            explain(method, images, 1, model)
        del images
        gc.collect()
        assert kept() is None


# --- progress ---------------------------------------------------------------------------------------------------------


class Bar:
    """Stands for rich's."""

    made: ClassVar[list["Bar"]] = []

    def __init__(self, *arguments, **options):
        self.task_ids, self.running, self.seen = [], False, []
        Bar.made.append(self)

    def start(self):
        self.running = True

    def stop(self):
        self.running = False

    def add_task(self, description, total):
        self.task_ids.append(0)
        self.total = total

    def update(self, task, completed):
        self.seen.append(completed)


@pytest.fixture
def bars(monkeypatch):
    monkeypatch.setattr(rich.progress, "Progress", Bar)
    monkeypatch.setattr(progress, "SECONDS_BEFORE_BAR", 0.0)
    monkeypatch.setattr(Bar, "made", [])
    return Bar.made


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
@pytest.mark.parametrize("method", COPYING)
def test_the_bar_is_closed_by_errors(method, error, bars):
    model, failing = failing_model(method, "behind the layer", error, False)
    explain(method, None, 1, model, batch_size=3, progress=True)
    (bar,) = bars
    assert bar.seen[-1] == bar.total == max(bar.seen)
    assert not bar.running
    failing.last, failing.calls = failing.calls - 1, 0
    with pytest.raises(error):
        explain(method, None, 1, model, batch_size=3, progress=True)
    assert len(bars) == 2
    assert not bars[1].running


def test_errors_of_the_report_come_out():
    def report(done: int, total: int) -> None:
        raise ZeroDivisionError(f"{done} of {total}")

    model, _ = suited("rise")
    before = snapshot(model)
    with pytest.raises(ZeroDivisionError, match="4 of 24"):
        explain("rise", None, 1, model, batch_size=5, progress=report)
    assert snapshot(model) == before


@pytest.mark.parametrize("method", COPYING)
def test_progress_goes_up_to_the_total(method):
    calls: list[tuple[int, int]] = []
    explain(method, None, 1, progress=lambda *call: calls.append(call), batch_size=3)
    done, totals = zip(*calls, strict=True)
    assert list(done) == sorted(set(done))
    assert set(totals) == {done[-1]}
