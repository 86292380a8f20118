"""Recorded explanations, with a tape of operators in place of CUDA graphs: all but the calls into torch.cuda."""

import gc
import threading

import numpy as np
import pytest
import torch
from torch import nn

import fastcam
from fastcam import targets
from fastcam.engine.graphs import MAX_GRAPHS, Graphs
from fastcam.methods.registry import get_method
from tests.support import tape
from tests.support.conv_net import Call, conv_net
from tests.support.tiers import slow

ONE_PASS = [method.name for method in map(get_method, fastcam.list_methods()) if method.is_one_pass]
METHODS = [name for name in ONE_PASS if name != "gmp_cam"]


def images_for(seed, count=3, size=(12, 10)):
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(seed))


def recorded(model, method="grad_cam", *, limit=1 << 40, warns=True, **options):
    """An explainer whose graphs are tapes, and the recordings that it makes."""
    explainer, made = fastcam.Explainer(model, method, graph=True, **options), []
    if explainer._graphs is not None:
        explainer._graphs = Graphs(lambda device: tape.Recorder(made, limit), warns=warns)
    return explainer, made


def assert_same(found, expected):
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, single in expected.items():
            assert_same(found[name], single)
        return
    for name in ("maps", "native", "scores", "raw", "output", "images"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), msg=name)
    assert (found.targets is None) == (expected.targets is None)
    if expected.targets is not None:
        assert found.targets.tolist() == expected.targets.tolist()
    if expected.attributions is not None:
        torch.testing.assert_close(found.attributions, expected.attributions)
    assert found.status == expected.status
    assert found.causes == expected.causes
    assert found.notes == expected.notes
    assert (found.method, found.layer) == (expected.method, expected.layer)


TARGETS = {
    "highest": [None, None, None],
    "one": [1, 3, 0],
    "indices": [[0, 1, 2], [4, 4, 4], np.array([1, 2, 3])],
    "several": [[[0, 1], [2, 3], [4, 0]], torch.tensor([[1, 1], [2, 2], [3, 3]]), [[4, 3], [2, 1], [0, 0]]],
    "all": ["all"] * 3,
    "probability": [targets.Probability(2), targets.Probability([0, 3, 4]), targets.Probability(1)],
    "highest probability": [targets.LogProbability()] * 3,
}


PAIRS = [(method, target) for method in METHODS for target in TARGETS]
DAILY = [pair for pair in PAIRS if pair[0] in ("cam", "grad_cam", "saliency") or pair[1] == "several"]


@pytest.mark.parametrize(("method", "target"), [*DAILY, *slow(*(pair for pair in PAIRS if pair not in DAILY))])
def test_replays_are_explanations(method, target):
    """Seen, recorded, and replayed for other images and classes."""
    model = conv_net()
    explainer, made = recorded(model, method)
    for seed, chosen in enumerate([*TARGETS[target], TARGETS[target][0]]):
        images = images_for(seed)
        assert_same(explainer(images, chosen), fastcam.explain(model, images, method, chosen))
    assert [recording.replays for recording in made] == [3]  # one of them to compare
    assert [entry.state for entry in explainer.graphs] == ["recorded"]


def test_results_of_a_replay_stay():
    model = conv_net()
    explainer, _ = recorded(model)
    for seed in range(2):
        explainer(images_for(seed), 1)
    kept = explainer(images_for(2), 1)
    explainer(images_for(3), 4)
    assert_same(kept, fastcam.explain(model, images_for(2), "grad_cam", 1))


@pytest.mark.parametrize("fuse", ["mean", None])
def test_several_methods_layers_and_targets_in_one_graph(fuse):
    model, options = conv_net(), {"target_layer": ["stem", "features"], "fuse": fuse}
    methods = ["grad_cam", "layer_cam", "saliency"]
    explainer, made = recorded(model, methods, **options)
    for seed in range(4):
        expected = fastcam.explain(model, images_for(seed), methods, [[0, 1]] * 3, **options)
        assert_same(explainer(images_for(seed), [[0, 1]] * 3), expected)
    assert len(made) == 1


def test_shapes_have_their_own_graphs_and_the_oldest_goes():
    model = conv_net()
    explainer, made = recorded(model)
    for count in range(1, MAX_GRAPHS + 2):
        for seed in range(3):
            assert_same(
                explainer(images_for(seed, count), 1), fastcam.explain(model, images_for(seed, count), target=1)
            )
    assert len(made) == MAX_GRAPHS + 1
    assert [entry.shape[0] for entry in explainer.graphs] == list(range(2, MAX_GRAPHS + 2))
    explainer(images_for(0, 2), 1)
    assert explainer.graphs[-1].shape[0] == 2
    assert len(made) == MAX_GRAPHS + 1


def test_layouts_dtypes_and_modes_have_their_own_graphs():
    model = conv_net()
    explainer, made = recorded(model)
    for seed in range(3):
        images = images_for(seed)
        explainer(images, 1)
        explainer(images.contiguous(memory_format=torch.channels_last), 1)
        with torch.autocast("cpu"):
            explainer(images, 1)
        with torch.inference_mode():
            explainer(images, 1)
    assert len(made) == 3
    with torch.inference_mode():
        assert_same(explainer(images_for(7), 1), fastcam.explain(model, images_for(7), target=1))


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


@pytest.mark.parametrize("target", [None, 1, [0, 1, 2, 3, 4, 0]])
def test_batches_that_are_divided_are_not_recorded(target):
    """The memory of a whole batch is what `batch_size` is for."""
    model = conv_net()
    explainer, made = recorded(model, batch_size=4)
    for seed in range(4):
        images = images_for(seed, 6)
        assert_same(explainer(images, target), fastcam.explain(model, images, "grad_cam", target))
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


def test_bad_targets_raise_in_replays_too():
    explainer, _ = recorded(conv_net())
    for seed in range(3):
        explainer(images_for(seed), [0, 1, 2])
    with pytest.raises(ValueError, match=r"`target` must lie in \[0, 5\), got \[0, 1, 7\]"):
        explainer(images_for(3), [0, 1, 7])
    with pytest.raises(ValueError, match="must be one class index, 3 of them"):
        explainer(images_for(3), [0, 1])


def test_numbers_of_targets_have_their_own_graphs():
    model = conv_net()
    explainer, made = recorded(model)
    for seed in range(3):
        for chosen in ([[0, 1]] * 3, [[2, 3, 4]] * 3, 2, [[0], [1, 2], [3]]):
            if isinstance(chosen, list) and len({len(each) for each in chosen}) > 1:
                with pytest.raises(TypeError, match="3 equally long lists"):
                    explainer(images_for(seed), chosen)
            else:
                assert_same(
                    explainer(images_for(seed), chosen), fastcam.explain(model, images_for(seed), target=chosen)
                )
    assert len(made) == 3
    assert [entry.target for entry in explainer.graphs] == ["indices (N, 2)", "indices (N, 3)", "indices (N,)"]


def test_other_arguments_are_copied_in():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = conv_net()

        def forward(self, images, scale):
            return self.net(images) * scale

    model = Two().eval()
    explainer, made = recorded(model, target_layer="net.features")
    for seed in range(4):
        arguments = images_for(seed), torch.rand(3, 5, generator=torch.Generator().manual_seed(seed))
        assert_same(explainer(arguments, 1), fastcam.explain(model, arguments, target=1, target_layer="net.features"))
    assert len(made) == 1


def test_prepared_models():
    model = conv_net()
    # A graph takes all images at once: the size of the groups is given, not measured.
    explainer, made = recorded(model, precision="fp32", batch_size=3)
    for seed in range(4):
        torch.testing.assert_close(
            explainer(images_for(seed), 1).maps,
            fastcam.explain(model, images_for(seed), target=1).maps,
            rtol=1e-3,
            atol=1e-4,
        )
    assert len(made) == 1


def test_threads_share_a_graph():
    model = conv_net()
    explainer, made = recorded(model)
    for seed in range(3):
        explainer(images_for(seed), 1)
    expected = [fastcam.explain(model, images_for(seed), target=1).maps for seed in range(40)]
    wrong = []

    def work(seeds):
        for seed in seeds:
            if not torch.allclose(explainer(images_for(seed), 1).maps, expected[seed], atol=1e-5):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(range(start, 40, 4),)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(made) == 1


def test_without_a_recorder_nothing_changes():
    """On the CPU there is none."""
    model = conv_net()
    explainer = fastcam.Explainer(model, graph=True)
    for seed in range(3):
        assert_same(explainer(images_for(seed), 1), fastcam.explain(model, images_for(seed), target=1))
    assert explainer.graphs == []
    assert fastcam.Explainer(model).graphs == []
    with pytest.raises(TypeError, match="`graph` is for the later calls"):
        fastcam.explain(model, images_for(0), graph=True)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("method", METHODS)
def test_cuda_graphs(method):
    model = conv_net().cuda()
    explainer = fastcam.Explainer(model, method, graph=True)
    for target in ("one", "several", "highest"):
        for seed in range(4):
            images, chosen = images_for(seed).cuda(), TARGETS[target][seed % 3]
            with torch.cuda.stream(torch.cuda.Stream()):
                found = explainer(images, chosen)
            torch.cuda.synchronize()
            assert_same(found, fastcam.explain(model, images, method, chosen))
    assert [entry.state for entry in explainer.graphs] == ["recorded"] * 3


def test_out():
    model = conv_net()
    explainer, _ = recorded(model)
    out = torch.empty(3, 12, 10)
    for seed in range(4):
        explanation = explainer(images_for(seed), 1, out=out)
        assert explanation.maps is out
        torch.testing.assert_close(out, fastcam.explain(model, images_for(seed), target=1).maps)
