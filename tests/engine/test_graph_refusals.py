"""When a recording ends, is refused or given up, and what is never recorded; with a tape in place of CUDA graphs."""

import gc

import numpy as np
import pytest
import torch
from torch import nn

import fastcam
from fastcam import targets
from tests.engine.test_graphs import assert_same, images_for, recorded
from tests.support.conv_net import Call, conv_net

# Changes of the model between calls, and whether a graph goes on to hold.
CHANGES = {
    "a parameter changed in place": (lambda model: model.features[0].weight.data.mul_(-1), True),
    "a buffer changed in place": (lambda model: model.stem[1].running_mean.add_(1), True),
    "a new parameter": (
        lambda model: setattr(model.classifier, "weight", nn.Parameter(-model.classifier.weight.detach())), False
    ),
    "new data of a parameter": (
        lambda model: setattr(model.classifier.weight, "data", -model.classifier.weight.data), False
    ),
    "another module": (lambda model: setattr(model, "probe", nn.Tanh().eval()), False),
    "a module around it": (lambda model: setattr(model, "stem", nn.Sequential(model.stem, nn.Tanh()).eval()), False),
    "a number that a module reads": (lambda model: setattr(model.features[0], "padding", (0, 0)), False),
    "a forward of its own": (lambda model: setattr(model.stem, "forward", lambda x: model.stem[0](x).tanh()), False),
    "a tensor that is no buffer": (lambda model: setattr(model, "kept", torch.ones(2)), False),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_changed_models(change):
    model = conv_net()
    explainer, made = recorded(model)
    for seed in range(3):
        explainer(images_for(seed), 1)
    function, holds = CHANGES[change]
    function(model)
    for seed in range(3, 6):
        assert_same(explainer(images_for(seed), 1), fastcam.explain(model, images_for(seed), target=1))
    assert len(made) == (1 if holds else 2)
    if not holds:  # an array in its place is another, too
        model.kept = torch.zeros(3)
        assert_same(explainer(images_for(7), 1), fastcam.explain(model, images_for(7), target=1))
        assert explainer.graphs[0].state == "seen"


def drop(model):
    model.probe = Call(lambda x: nn.functional.dropout(x, 0.5, True)).eval()


def count(model):
    model.register_buffer("calls", torch.zeros(()))
    model.probe = Call(lambda x: x + 0 * model.calls.add_(1)).eval()


def read(model):
    model.probe = Call(lambda x: x if x.sum().item() > -1e9 else -x).eval()


# What cannot be recorded, and what is said.
REFUSALS = {
    "random numbers": (drop, "draws random numbers or changes its buffers"),
    "buffers that change": (count, "draws random numbers or changes its buffers"),
    "values that are read": (read, "operation not permitted when stream is capturing"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_recorded_is_said_once(case):
    model = conv_net()
    change, text = REFUSALS[case]
    change(model)
    explainer, made = recorded(model)
    explainer(images_for(0), 1)
    with pytest.warns(UserWarning, match=text):
        explainer(images_for(1), 1)
    before = len(made)
    for seed in range(2, 5):
        torch.manual_seed(seed)
        found = explainer(images_for(seed), 1)
        torch.manual_seed(seed)
        assert_same(found, fastcam.explain(model, images_for(seed), target=1))
    assert len(made) == before
    assert text in explainer.graphs[0].state


def test_a_recording_that_differs_is_not_used():
    """The model reads state of Python, which no graph sees."""
    model, turn = conv_net(), [0]

    def alternate(x):
        turn[0] += 1
        return x if turn[0] % 2 else -x.flip(-1)

    model.probe = Call(alternate).eval()
    explainer, _ = recorded(model, target_layer="features")
    explainer(images_for(0), 1)
    with pytest.warns(UserWarning, match="differs from the one before it"):
        explainer(images_for(0), 1)


def test_work_outside_of_a_recording_shows_when_it_is_checked():
    """Replays would go on with what was computed for the images of the recording."""
    model = conv_net()
    model.probe = Call(lambda x: x + torch.from_numpy(np.sin(9 * x.detach().numpy()))).eval()
    explainer, _ = recorded(model, target_layer="features")
    for images in (images_for(1), torch.zeros(2, 3, 12, 10)):  # what is tried first is the same when it is mirrored
        explainer(images, 1)
        with pytest.warns(UserWarning, match="differs from the one before it"):
            explainer(images, 1)


@pytest.mark.parametrize("error", [AttributeError("no such thing"), AssertionError(), ZeroDivisionError("by 0")])
def test_whatever_fails_in_recording_the_explanation_is_there(error, recwarn):
    model, turn = conv_net(), [0]

    def work(x):
        turn[0] += 1
        if turn[0] == 3:
            raise error
        return x

    model.probe = Call(work).eval()
    explainer, made = recorded(model, target_layer="features", warns=False)
    for seed in range(4):
        expected = fastcam.explain(conv_net(), images_for(seed), target=1, target_layer="features")
        assert_same(explainer(images_for(seed), 1), expected)
    assert made == []
    assert explainer.graphs[0].state == (str(error) or "AssertionError")
    assert not recwarn.list


def test_graphs_keep_no_more_memory_than_they_may():
    model = conv_net()
    explainer, made = recorded(model)
    for seed in range(3):
        explainer(images_for(seed, 2), 1)
    (small,) = explainer.graphs
    assert small.bytes == made[0].bytes + images_for(0, 2).nbytes
    del explainer
    gc.collect()
    explainer, made = recorded(model, limit=2 * small.bytes)
    for count in (2, 8):
        for seed in range(2):
            if (count, seed) == (8, 1):
                with pytest.warns(
                    UserWarning, match="no recorded graph .* shape \\(8, 3, 12, 10\\): with it all .* GiB"
                ):
                    explainer(images_for(seed, count), 1)
            else:
                explainer(images_for(seed, count), 1)
    assert [entry.state[:16] for entry in explainer.graphs] == ["seen", "with it all grap"]
    for count in (2, 8):  # what fits is recorded again, what does not stays as it was
        for seed in range(2):
            found = explainer(images_for(seed, count), 1)
            assert_same(found, fastcam.explain(model, images_for(seed, count), target=1))
    assert sorted(entry.state[:16] for entry in explainer.graphs) == ["recorded", "with it all grap"]
    assert len(made) == 3


def test_graphs_give_way_when_memory_runs_out():
    model = conv_net()
    explainer, _ = recorded(model, target_layer="features")

    def work(x):
        if len(x) == 5 and any(entry.bytes for entry in explainer.graphs):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x

    model.probe = Call(work).eval()
    for seed in range(3):
        explainer(images_for(seed), 1)
    assert explainer.graphs[0].bytes > 0
    with pytest.warns(UserWarning, match="memory ran out"):
        found = explainer(images_for(3, 5), 1)
    assert_same(found, fastcam.explain(conv_net(), images_for(3, 5), target=1, target_layer="features"))
    assert [(entry.state, entry.bytes) for entry in explainer.graphs] == [("memory ran out", 0)] * 2

    def fail(x):
        raise torch.OutOfMemoryError("CUDA out of memory")

    model.probe = Call(fail).eval()
    with pytest.raises(torch.OutOfMemoryError):  # without graphs there is nothing to give
        explainer(images_for(3), 1)


def test_graphs_give_way_before_blocks_of_copies_are_smaller():
    model = conv_net()
    first, _ = recorded(model, target_layer="features")
    for seed in range(3):
        first(images_for(seed), 1)
    sizes = []

    def work(x):
        sizes.append(len(x))
        if len(x) > 8 and any(entry.bytes for entry in first.graphs):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x

    copies = conv_net()
    copies.probe = Call(work).eval()
    with pytest.warns(UserWarning, match="memory ran out"):
        found = fastcam.explain(copies, images_for(3), "integrated_gradients", 1, steps=20)
    assert_same(found, fastcam.explain(conv_net(), images_for(3), "integrated_gradients", 1, steps=20))
    assert sizes == [3, *5 * [15], 3]  # the second one again
    assert [entry.state for entry in first.graphs] == ["memory ran out"]


def test_graphs_of_other_explainers_give_way_too():
    model, other = conv_net(), conv_net()
    explainer, _ = recorded(model)
    for seed in range(3):
        explainer(images_for(seed), 1)

    def work(x):
        if any(entry.bytes for entry in explainer.graphs):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x

    other.probe = Call(work).eval()
    second, _ = recorded(other, target_layer="features")
    with pytest.warns(UserWarning, match="memory ran out"):
        found = second(images_for(3), 1)
    assert_same(found, fastcam.explain(conv_net(), images_for(3), target=1, target_layer="features"))
    assert explainer.graphs[0].state == "memory ran out"


def test_automatic_graphs_are_recorded_without_a_word_of_what_is_not(recwarn):
    model = conv_net()
    read(model)
    explainer, _ = recorded(model, warns=False)
    for seed in range(3):
        explainer(images_for(seed), 1)
    assert "operation not permitted" in explainer.graphs[0].state
    assert not recwarn.list
    assert fastcam.Explainer(model)._graphs is not None
    assert fastcam.Explainer(model, graph=False)._graphs is None
    with pytest.raises(ValueError, match="`graph` must be \"auto\", True or False, got 'always'"):
        fastcam.Explainer(model, graph="always")


HOOKS = {
    "a hook": lambda model: model.stem.register_forward_hook(lambda *_: None),
    "a hook before": lambda model: model.stem.register_forward_pre_hook(lambda *_: None),
    "a hook of all modules": lambda model: nn.modules.module.register_module_forward_hook(lambda *_: None),
}


@pytest.mark.parametrize("hook", HOOKS)
def test_hooks_are_called_in_every_explanation(hook):
    model = conv_net()
    explainer, made = recorded(model)
    for seed in range(3):
        explainer(images_for(seed), 1)
    handle = HOOKS[hook](model)
    try:
        replays = made[0].replays
        explainer(images_for(3), 1)
        assert made[0].replays == replays
    finally:
        handle.remove()
    explainer(images_for(3), 1)
    assert made[0].replays == replays + 1


class Tempered(targets.Logit):
    """A score of a user's own, which may depend on more than its classes."""

    def scale(self, logits):
        return logits / 3


@pytest.mark.parametrize(
    ("options", "target"),
    [
        ({"method": "integrated_gradients", "steps": 6}, lambda output: output[:, 1]),
        ({"method": "score_cam", "differentiable": True}, 1),
        ({"differentiable": True}, 1),
        ({}, lambda output: output[:, 1]),
        ({}, targets.Difference(1, 2)),
        ({}, Tempered(1)),
        ({}, [lambda output: output[0]] * 3),
    ],
)
def test_what_is_never_recorded(options, target):
    explainer, made = recorded(conv_net(), **options)
    for seed in range(4):
        explainer(images_for(seed), target)
    assert made == []


def test_training_mode_is_never_recorded():
    model = conv_net()
    explainer, made = recorded(model)
    for seed in range(3):
        explainer(images_for(seed), 1)
    model.train()
    replays = made[0].replays
    with pytest.warns(UserWarning, match="training mode"):
        explainer(images_for(3), 1)
    assert made[0].replays == replays
