"""Recorded explanations, with a tape of operators in place of CUDA graphs: all but the calls into torch.cuda."""

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
from tests.support.conv_net import conv_net
from tests.support.networks import timm_network
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
    for name in ("targets", "is_unknown"):
        assert (getattr(found, name) is None) == (getattr(expected, name) is None)
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


@pytest.mark.parametrize("target", [1, [0, 2]])
def test_layers_that_are_searched_for(target):
    """The search reads values: it is done once for a model, not again in the recording."""
    model, size = timm_network("vit_tiny_patch16_224"), (224, 224)
    explainer, made = recorded(model)
    for seed in range(4):
        images = images_for(seed, 2, size)
        assert_same(explainer(images, target), fastcam.explain(model, images, "grad_cam", target))
    assert [recording.replays for recording in made] == [3]


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


@pytest.mark.parametrize("target", [None, 1, [0, 1, 2, 3, 4, 0, 1, 2, 3], "all"])
def test_groups_of_large_batches(target):
    """The memory of a whole batch is what `batch_size` is for: one graph serves all groups of a size."""
    model = conv_net()
    explainer, made = recorded(model, batch_size=4)
    for seed in range(4):
        images = images_for(seed, 9)
        expected = fastcam.explain(model, images, "grad_cam", target, batch_size=9)
        assert_same(explainer(images, target), expected)
    assert [entry.shape[0] for entry in explainer.graphs] == [4, 1]
    assert [recording.replays for recording in made] == [7, 3]  # of 8 groups of four and 4 of one


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
