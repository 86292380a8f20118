"""The metrics of pytorch-grad-cam: the same numbers."""

import numpy as np
import pytest
import torch
from pytorch_grad_cam.metrics import cam_mult_image as peer_multiplied
from pytorch_grad_cam.metrics import road as peer_road

from fastcam.compat.pytorch_grad_cam.metrics import cam_mult_image, road
from fastcam.compat.pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget
from tests.support.conv_net import conv_net


@pytest.fixture
def question():
    """Images, maps, targets and a model."""
    torch.manual_seed(0)
    maps = torch.nn.functional.interpolate(torch.rand(3, 1, 5, 5), (20, 16), mode="bilinear")[:, 0]
    targets = [ClassifierOutputSoftmaxTarget(each) for each in (0, 2, 1)]
    return torch.randn(3, 3, 20, 16), maps.numpy(), targets, conv_net(inplace=False)


@pytest.mark.parametrize("name", ["CamMultImageConfidenceChange", "DropInConfidence", "IncreaseInConfidence"])
def test_multiplied_by_the_map(question, name):
    found, expected = getattr(cam_mult_image, name)()(*question), getattr(peer_multiplied, name)()(*question)
    assert found.dtype == expected.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-6


@pytest.mark.parametrize("name", ["ROADMostRelevantFirst", "ROADLeastRelevantFirst"])
@pytest.mark.parametrize("percentile", [30, 75, "auto"])
def test_filled_from_the_neighbours(question, name, percentile):
    results = []
    for module in (road, peer_road):
        torch.manual_seed(0)
        results.append(getattr(module, name)(percentile)(*question, return_visualization=True))
    (found, images), (expected, theirs) = results
    assert (images - theirs).abs().max() < 1e-5
    assert np.abs(found - expected).max() < 1e-5
    assert np.abs(expected).max() > 1e-4


@pytest.mark.parametrize("name", ["ROADMostRelevantFirstAverage", "ROADLeastRelevantFirstAverage", "ROADCombined"])
def test_averages(question, name):
    results = []
    for module in (road, peer_road):
        torch.manual_seed(0)
        results.append(getattr(module, name)([20, 50, 80])(*question))
    assert np.abs(results[0] - results[1]).max() < 1e-5


def test_the_filled_image_solves_the_equations():
    torch.manual_seed(0)
    picture, stays = torch.rand(3, 9, 7), torch.rand(9, 7) > 0.4
    filled = road.NoisyLinearImputer(noise=0.0)(picture, stays.float())
    assert torch.equal(filled[:, stays], picture[:, stays])
    weights = torch.zeros(3, 3)
    for (row, column), weight in road.neighbors_weights:
        weights[row + 1, column + 1] = weight
    sums = torch.nn.functional.conv2d(filled[:, None].double(), weights[None, None].double(), padding=1)[:, 0]
    total = torch.nn.functional.conv2d(torch.ones(1, 1, 9, 7).double(), weights[None, None].double(), padding=1)[0, 0]
    assert ((sums / total - filled)[:, ~stays]).abs().max() < 10 * road.TOLERANCE


def test_neighbours_of_ones_own():
    torch.manual_seed(0)
    picture, stays = torch.rand(2, 6, 5), torch.rand(6, 5) > 0.5
    stays[0] = True
    across = [((0, -1), 0.25), ((0, 1), 0.25), ((-1, 0), 0.5)]
    filled = road.NoisyLinearImputer(0.0, across)(picture, stays.float())
    for row, column in torch.nonzero(~stays).tolist():
        inside = [(row + y, column + x, weight) for (y, x), weight in across if 0 <= column + x < 5]
        mean = sum(weight * filled[:, y, x] for y, x, weight in inside) / sum(weight for *_, weight in inside)
        assert (filled[:, row, column] - mean).abs().max() < 1e-6


def test_an_average_of_metrics_with_their_own_rule(question):
    """Their ``__call__`` decides, not the perturbation alone."""

    class Doubled(road.ROADMostRelevantFirst):
        def __call__(self, *args):
            return 2 * super().__call__(*args)

    torch.manual_seed(0)
    found = road.AveragerAcrossThresholds(Doubled, [20, 80])(*question)
    torch.manual_seed(0)
    drops = [road.ROADMostRelevantFirst(percentile)(*question) for percentile in (20, 80)]
    assert np.abs(found - 2 * np.mean(drops, axis=0)).max() < 1e-6


def test_the_images_are_scored_once_for_all_percentiles(question):
    images, maps, targets, model = question
    seen = []
    model.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    road.ROADCombined([20, 50, 80])(images, maps, targets, model)
    assert sum(seen) == 3 * (1 + 2 * 3)
