"""Recorded blocks of copies: what methods of many copies ask the model, with a tape in place of CUDA graphs."""

import pytest
import torch

import fastcam
from fastcam import targets
from fastcam.targets.class_indices import unread
from tests.engine.test_graphs import assert_same, images_for, recorded
from tests.support.conv_net import conv_net

# Methods of many copies, with options by which two images take several blocks of 4 copies and one that is not full.
METHODS = {
    "integrated_gradients": {"steps": 7},
    "smooth_grad": {"samples": 7},
    "smooth_grad of guided backpropagation": {"inner": "guided_backprop", "samples": 7},
    "smooth_grad of integrated_gradients": {"inner": "integrated_gradients", "steps": 3, "samples": 3},
    "score_cam": {},
    "rise": {"masks": 7, "grid": 3},
    "occlusion": {"window": 5, "stride": 4, "engine": "dense"},
}
TARGETS = {
    "highest": [None, None],
    "one": [1, 3],
    "each": [[0, 4], torch.tensor([2, 1])],
    "several": [[[0, 1], [4, 2]], [[3, 3], [1, 0]]],
    "probability": [targets.Probability(2), targets.Probability([0, 4])],
}


def same(found, expected):
    assert_same(found, expected)
    for name, detail in expected.details.items():
        torch.testing.assert_close(found.details[name], detail, msg=name)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("method", METHODS)
def test_replays_are_explanations(method, target):
    """Blocks of a form are seen, recorded and replayed within a call, and in calls with other images and classes."""
    model, options = conv_net(), {"batch_size": 4, **METHODS[method]}
    name = method.partition(" ")[0]
    explainer, made = recorded(model, name, **options)
    for seed, chosen in enumerate([*TARGETS[target], TARGETS[target][0]]):
        images = images_for(seed, 2)
        same(explainer(images, chosen), fastcam.explain(model, images, name, chosen, **options))
    assert made
    assert sum(recording.replays for recording in made) > len(made)
    assert {report.state for report in explainer.graphs} <= {"recorded", "seen"}
    assert len(made) == [report.state for report in explainer.graphs].count("recorded")
    kinds = {report.work.partition(" of copies")[0] for report in explainer.graphs}
    assert kinds <= {"gradients", "scores", "predictions"}


def test_one_block_a_call_is_replayed_in_the_third():
    model, options = conv_net(), {"steps": 5}
    explainer, made = recorded(model, "integrated_gradients", **options)
    for seed in range(3):
        same(
            explainer(images_for(seed, 1), 1),
            fastcam.explain(model, images_for(seed, 1), "integrated_gradients", 1, **options),
        )
    assert [(each.work, each.shape, each.target, each.state) for each in explainer.graphs] == [
        ("gradients of copies", (5, 3, 12, 10), "indices (N,)", "recorded"),
        ("scores of copies", (1, 3, 12, 10), "indices (N,)", "recorded"),
    ]
    assert [recording.replays for recording in made] == [2, 2]  # one of each to compare


def test_classes_that_are_unknown_stay_so():
    """On a GPU a class that the output lacks is found by the device; copies of its image score NaN too."""
    bound = targets.Logit().bind_to(unread(torch.tensor([3, 9]), 5))
    of_copies = bound.for_copies(torch.tensor([0, 0, 1]))
    assert of_copies(torch.ones(3, 5), torch.arange(3)).isnan().tolist() == [False, False, True]
    assert of_copies.targets.tolist() == [3, 3, -1]


def test_weights_changed_in_place_count_and_new_ones_too():
    model, options = conv_net(), {"masks": 8, "grid": 3, "batch_size": 4}
    explainer, made = recorded(model, "rise", **options)
    explainer(images_for(0, 1), 1)
    model.classifier.weight.data.mul_(-1)
    same(explainer(images_for(1, 1), 1), fastcam.explain(model, images_for(1, 1), "rise", 1, **options))
    assert len(made) == 1
    model.classifier.weight = torch.nn.Parameter(model.classifier.weight.detach() * 2)
    same(explainer(images_for(2, 1), 1), fastcam.explain(model, images_for(2, 1), "rise", 1, **options))
    assert len(made) == 2


class TwoInputs(torch.nn.Module):
    """Scores that depend on numbers of each image."""

    def __init__(self):
        super().__init__()
        self.net = conv_net()

    def forward(self, images, scale):
        return self.net(images) * scale


def test_other_arguments_belong_to_their_copies():
    model, options = TwoInputs().eval(), {"steps": 6, "batch_size": 4}
    explainer, made = recorded(model, "integrated_gradients", **options)
    for seed in range(3):
        arguments = images_for(seed, 2), torch.rand(2, 5, generator=torch.Generator().manual_seed(seed))
        same(explainer(arguments, 1), fastcam.explain(model, arguments, "integrated_gradients", 1, **options))
    assert len(made) >= 1


def test_models_that_draw_random_numbers_are_not_recorded():
    model = conv_net()
    model.probe = torch.nn.Dropout(0.0).eval()
    model.probe.forward = lambda x: torch.nn.functional.dropout(x, 0.5, True)
    explainer, made = recorded(model, "rise", masks=12, grid=3, batch_size=4)
    with pytest.warns(UserWarning, match="no recorded graph for the scores of copies .* draws random numbers"):
        explainer(images_for(0, 1), 1)
    assert made == []


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("method", METHODS)
def test_cuda_graphs(method):
    model, options = conv_net().cuda(), {"batch_size": 4, **METHODS[method]}
    name = method.partition(" ")[0]
    explainer = fastcam.Explainer(model, name, graph=True, **options)
    for chosen in (None, 3, [[0, 1], [4, 2]]):
        for seed in range(3):
            images = images_for(seed, 2).cuda()
            with torch.cuda.stream(torch.cuda.Stream()):
                found = explainer(images, chosen)
            torch.cuda.synchronize()
            same(found, fastcam.explain(model, images, name, chosen, **options))
    assert "recorded" in {report.state for report in explainer.graphs}
