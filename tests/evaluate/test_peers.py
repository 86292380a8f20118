"""The same numbers as other tools, wherever their definitions are the same. Each is given the maps."""

import functools
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import fastcam
from fastcam import evaluate
from fastcam.evaluate.copies import Noisy, RandomRegions
from tests.evaluate.support import COUNT, SIZE, random_maps, with_maps
from tests.support.conv_net import conv_net

captum_metrics = pytest.importorskip("captum.metrics")
quantus = pytest.importorskip("quantus")
road = pytest.importorskip("pytorch_grad_cam.metrics.road")
torchcam_metrics = pytest.importorskip("torchcam.metrics")

pytestmark = pytest.mark.usefixtures("one_thread")


def grey_setting():
    """A classifier of grey images: Quantus spreads a map over colours, and then counts each of them."""
    torch.manual_seed(4)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(54, 4)
    ).eval()
    images = torch.randn(COUNT, 1, *SIZE, generator=torch.Generator().manual_seed(1))
    explanation = with_maps(model, images, random_maps().float())
    return model, images, explanation


def by_quantus(metric, explanation, model=None, masks=None, maps=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.array(
            metric(
                model=model,
                x_batch=explanation.images.numpy(),
                y_batch=explanation.targets.numpy(),
                a_batch=(explanation.maps if maps is None else maps)[:, None].numpy().copy(),
                s_batch=None if masks is None else masks[:, None].numpy(),
            )
        )


PLAIN = {"disable_warnings": True, "display_progressbar": False, "normalise": False, "abs": False}


def test_pixel_flipping_of_quantus():
    model, _, explanation = grey_setting()
    metric = quantus.PixelFlipping(features_in_step=8, perturb_baseline=0.0, **PLAIN)
    found = evaluate.run(explanation, "pixel_flipping", model, options={"pixel_flipping": {"pixels": 8}})
    curve = found["mine", "pixel_flipping"].details["curve"]
    np.testing.assert_allclose(by_quantus(metric, explanation, model), curve[:, 1:], rtol=1e-5)


def test_localisation_of_quantus():
    _, _, explanation = grey_setting()
    masks = torch.zeros(COUNT, *SIZE, dtype=torch.bool)
    for index in range(COUNT):
        masks[index, index : index + 5, 2:8] = True
    for metric, ours, options in (
        (quantus.RelevanceMassAccuracy, evaluate.energy_pointing_game, {}),
        (quantus.RelevanceRankAccuracy, evaluate.rank_accuracy, {}),
        (quantus.PointingGame, evaluate.pointing_game, {"tolerance": 0}),
    ):
        expected = by_quantus(metric(**PLAIN), explanation, masks=masks).astype(float)
        np.testing.assert_allclose(ours(explanation, masks=masks, **options), expected, rtol=1e-5, err_msg=str(metric))


def test_concentration_of_quantus():
    _, _, explanation = grey_setting()
    for metric, ours in ((quantus.Sparseness, evaluate.sparseness), (quantus.Complexity, evaluate.complexity)):
        expected = by_quantus(metric(**PLAIN), explanation, maps=explanation.raw)
        np.testing.assert_allclose(ours(explanation), expected, rtol=1e-5)


def test_what_quantus_calls_a_hit_and_is_none():
    """An empty mask, and a map that is the same everywhere."""
    _, images, explanation = grey_setting()
    constant = fastcam.Explanation(
        "mine", "", images, None, explanation.scores, explanation.targets, torch.ones(COUNT, *SIZE)
    )
    empty = torch.zeros(COUNT, *SIZE, dtype=torch.bool)
    corner = empty.clone()
    corner[:, 0, 0] = True
    assert evaluate.pointing_game(explanation, masks=empty).isnan().all()
    assert evaluate.pointing_game(constant, masks=corner, tolerance=0).tolist() == [0.0] * COUNT


@pytest.mark.parametrize("percentages", [[20, 50, 80], [10]])
def test_road_of_pytorch_grad_cam(percentages):
    """Without noise; its percentiles count from below, so that those of one half are the others' of the other."""
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    model = conv_net()
    images = torch.randn(2, 3, 24, 20, generator=torch.Generator().manual_seed(3))
    explanation = with_maps(model, images, random_maps(2, size=(24, 20)).float())
    targets = [ClassifierOutputSoftmaxTarget(each) for each in explanation.targets.tolist()]
    imputer = road.NoisyLinearImputer(noise=0)
    found = evaluate.run(explanation, "road", model, options={"road": {"percentages": percentages, "noise": 0.0}})
    for column, percentage in enumerate(percentages):
        for name, remove, percentile in (
            ("most_relevant_first", road.RemoveMostRelevantFirst, 100 - percentage),
            ("least_relevant_first", road.RemoveLeastRelevantFirst, 100 - percentage),
        ):
            metric = road.PerturbationConfidenceMetric(remove(percentile, imputer))
            expected = metric(images, explanation.maps.numpy(), targets, model)
            details = found["mine", "road"].details[name][:, column]
            np.testing.assert_allclose(details, expected, atol=1e-4, err_msg=f"{name} {percentage}")


def test_drop_increase_deletion_and_insertion_of_torchcam():
    from torchcam.methods import LayerCAM

    model = conv_net(inplace=False)
    images = 2 * torch.randn(5, 3, *SIZE, generator=torch.Generator().manual_seed(3))
    softmax = functools.partial(torch.softmax, dim=-1)
    with LayerCAM(model, "features") as extractor:
        logits = model(images)
        classes = logits.argmax(1).tolist()
        maps = extractor(classes, softmax(logits))[0].detach()  # the metrics differentiate probabilities
        drop = torchcam_metrics.ClassificationMetric(extractor, softmax)
        drop.update(images, classes)
        areas = torchcam_metrics.DeletionInsertionMetric(extractor, softmax, steps=20)
        areas.update(images, classes)
        expected = {**drop.summary(), **areas.summary()}
    explanation = fastcam.Explanation("layer_cam", "", images, logits, logits.amax(1), torch.tensor(classes), maps)
    names = {
        "average_drop": "avg_drop",
        "increase_in_confidence": "conf_increase",
        "deletion": "deletion_auc",
        "insertion": "insertion_auc",
    }
    # torch-cam upsamples scaled maps, which is not scaling upsampled ones: its own maps are measured here.
    explanation.__dict__["maps"] = torch.nn.functional.interpolate(maps[:, None], SIZE, mode="bilinear")[:, 0]
    found = evaluate.run(explanation, list(names), model, options={"insertion": {"baseline": 0.0}})
    for ours, theirs in names.items():
        assert found["layer_cam", ours].mean == pytest.approx(expected[theirs], rel=1e-4), ours


@pytest.mark.parametrize("normalize", [True, False])
def test_infidelity_of_captum(normalize):
    model, images = conv_net().double(), torch.randn(COUNT, 3, *SIZE, dtype=torch.float64)
    explanation = fastcam.explain(model, images, "input_x_gradient")
    regions = RandomRegions(0.25, True, 0, 0)
    masks = torch.stack([regions.mask(index, SIZE) for index in range(7)])

    def windows(inputs):  # each image seven times in a row
        shares = masks.repeat(len(inputs) // 7, 1, 1)[:, None].expand_as(inputs).to(inputs)
        return shares, inputs * (1 - shares)

    expected = captum_metrics.infidelity(
        model, windows, images, explanation.attributions, target=explanation.targets, n_perturb_samples=7,
        normalize=normalize,
    )  # fmt: skip
    found = evaluate.infidelity(model, images, explanation, regions=7, normalize=normalize)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)


def test_sensitivity_of_captum():
    model, images = conv_net().double(), torch.randn(COUNT, 3, *SIZE, dtype=torch.float64)
    explainer = fastcam.Explainer(model, "saliency")
    explanation = explainer(images)
    batch = evaluate.case.Batch(images, torch.arange(COUNT))
    case = evaluate.api.case_of(explanation, batch)
    noisy = torch.stack([Noisy(0.05, index, 0).make(case, slice(None)) for index in range(6)], 1).flatten(0, 1)
    assert 0.04 < (noisy.unflatten(0, (COUNT, 6)) - images[:, None]).abs().max() <= 0.05

    def attributions(inputs):
        return (explainer(inputs[0], explanation.targets.repeat_interleave(len(inputs[0]) // COUNT)).attributions,)

    expected = captum_metrics.sensitivity_max(
        attributions, images, perturb_func=lambda inputs, radius: (noisy,), n_perturb_samples=6
    )
    found = evaluate.max_sensitivity(explainer, images, explanation, radius=0.05, samples=6)
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-6, atol=0)
