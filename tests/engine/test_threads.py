"""One model, many threads: every map is the one that a single thread gets, and nothing stays behind."""

import random
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import fastcam
from tests.support.conv_net import conv_net, images_for
from tests.support.model_state import hooks_of, snapshot
from tests.support.tiers import slow

pytestmark = pytest.mark.usefixtures("one_thread")

THREADS = 16
ROUNDS = [20, *slow(50)]


@pytest.fixture(autouse=True)
def _switch_often():
    """Threads take turns every 10 microseconds instead of every 5 milliseconds."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def jobs():
    """Different images, targets, methods and layers; behind "features" and "stem" an in-place ReLU follows."""
    chosen = random.Random(0)
    targets = [None, 1, [2, 0], [[0, 1, 2], [3, 4, 0]], "all", lambda output: output[:, 3]]
    methods = ["grad_cam", "layer_cam", "hires_cam", "grad_cam_pp", "xgrad_cam", "eigen_cam", ["grad_cam", "layer_cam"]]
    layers = ["features", "stem.1", "stem.0", "relu", None, ["stem.1", "features"]]
    return [(images_for(seed=i), *map(chosen.choice, (methods, targets, layers))) for i in range(THREADS)]


def maps_of(model, job):
    found = fastcam.explain(model, *job)
    explanations = found.values() if isinstance(found, dict) else [found]
    return [tensor for each in explanations for tensor in (each.native, each.maps, each.scores)]


def in_threads(work):
    """Runs ``work(i)`` in THREADS threads that start together; raises what any of them raised."""
    start = threading.Barrier(THREADS)

    def run(i):
        start.wait()
        work(i)

    with ThreadPoolExecutor(THREADS) as pool:
        for future in [pool.submit(run, i) for i in range(THREADS)]:
            future.result()


def check(found, expected):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trained"])
def test_threads_explain_one_model(frozen, rounds):
    model = conv_net().requires_grad_(not frozen)
    work = jobs()
    expected = [maps_of(conv_net(), job) for job in work]
    before = snapshot(model)

    def explain(i):
        for turn in range(rounds):
            which = (i + turn) % THREADS
            check(maps_of(model, work[which]), expected[which])

    in_threads(explain)
    assert snapshot(model) == before


@pytest.mark.parametrize("rounds", ROUNDS)
def test_plain_calls_at_the_same_time(rounds):
    model = conv_net()
    work = jobs()
    expected = [maps_of(conv_net(), job) for job in work]
    outputs = [model(job[0]).detach() for job in work]
    wrong_modes = []

    def mixed(i):
        for turn in range(2 * rounds):
            if i % 2:
                check(maps_of(model, work[i]), expected[i])
            elif turn % 2:
                with torch.no_grad():
                    output = model(work[i][0])
                wrong_modes.append(output.requires_grad)
                assert torch.equal(output, outputs[i])
            else:
                output = model(work[i][0])
                wrong_modes.append(not output.requires_grad)
                check([output.detach()], [outputs[i]])

    in_threads(mixed)
    assert not any(wrong_modes)
    assert not hooks_of(model)


@pytest.mark.parametrize("rounds", ROUNDS)
def test_training_steps_of_other_models_at_the_same_time(rounds):
    """Gradients of a training thread are its own: explaining adds nothing to them."""
    model = conv_net()
    expected = [conv_net() for _ in range(2)]
    for each in expected:
        each(images_for()).square().sum().backward()

    def mixed(i):
        for _ in range(rounds):
            if i == 0:
                model.zero_grad()
                model(images_for()).square().sum().backward()
            else:
                fastcam.explain(model, images_for(seed=i), "layer_cam", "all", "features")

    in_threads(mixed)
    for parameter, other in zip(model.parameters(), expected[0].parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad)


@pytest.mark.filterwarnings("ignore:the model is in training mode")
def test_training_mode_in_threads():
    model = conv_net(dropout=0.5).train()
    work = jobs()
    expected = [maps_of(model, job) for job in work[:4]]
    before = snapshot(model)

    def explain(i):
        for _ in range(5):
            check(maps_of(model, work[i % 4]), expected[i % 4])

    in_threads(explain)
    assert snapshot(model) == before


def test_automatic_layers_of_new_models_in_threads():
    models = [nn.Sequential(conv_net(), nn.Identity()).eval() for _ in range(8)]
    found = []

    def explain(i):
        for model in models:
            found.append(fastcam.explain(model, images_for(), "eigen_cam").layer)

    in_threads(explain)
    assert set(found) == {"0.relu"}
    assert not any(map(hooks_of, models))
