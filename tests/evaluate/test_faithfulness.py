"""Measures of faithfulness against their formulas, image by image in float64."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

import fastcam
from fastcam import evaluate
from fastcam.evaluate.copies import RandomRegions
from tests.evaluate.support import (
    COUNT,
    SIZE,
    classifier,
    images_for,
    pearson,
    probability,
    random_maps,
    with_maps,
    without,
)
from tests.support.conv_net import Call

pytestmark = pytest.mark.usefixtures("one_thread")

POSITIONS = SIZE[0] * SIZE[1]


def setting():
    model, images = classifier(), images_for()
    explanation = with_maps(model, images, random_maps())
    return model, images, explanation, explanation.targets.tolist()


def measured(name, explanation, model, images, **options):
    return next(iter(evaluate.run(explanation, name, model, images, options={name: options}).values()))


def trapezoids(curve, shares):
    return sum((b - a) * (v + w) / 2 for a, b, v, w in zip(shares[:-1], shares[1:], curve[:-1], curve[1:], strict=True))


@pytest.mark.parametrize("steps", [1, 7, POSITIONS])
@pytest.mark.parametrize("baseline", [0.0, (0.5, -1.0, 2.0), "blur"], ids=["zero", "colour", "blur"])
def test_deletion(steps, baseline):
    model, images, explanation, classes = setting()
    bases = fastcam.methods.baselines.baseline_images(images, baseline)
    counts = [step * POSITIONS // steps for step in range(steps + 1)]
    curves = np.stack([probability(model, without(images, bases, explanation.maps, n), classes) for n in counts], 1)
    expected = [trapezoids(curve, np.array(counts) / POSITIONS) for curve in curves]
    found = measured("deletion", explanation, model, images, steps=steps, baseline=baseline)
    np.testing.assert_allclose(found.details["curve"].numpy(), curves, rtol=1e-10)
    np.testing.assert_allclose(found.values.numpy(), expected, rtol=1e-10)
    assert found.passes == steps
    scaled = [
        trapezoids((curve - curve[-1]) / (curve[0] - curve[-1]), np.array(counts) / POSITIONS) for curve in curves
    ]
    found = measured("deletion", explanation, model, images, steps=steps, baseline=baseline, normalize=True)
    np.testing.assert_allclose(found.values.numpy(), scaled, rtol=1e-8)


def rise_blur(images):
    """As RISE's code makes it: a delta under SciPy's filter is the kernel, and zeros surround the image."""
    delta = np.zeros((11, 11))
    delta[5, 5] = 1
    kernel = torch.from_numpy(gaussian_filter(delta, 5))
    return torch.nn.functional.conv2d(images.flatten(0, 1)[:, None], kernel[None, None], padding=5).reshape(
        images.shape
    )


def test_insertion():
    model, images, explanation, classes = setting()
    counts = [step * POSITIONS // 6 for step in range(7)]
    curves = np.stack(
        [probability(model, without(images, rise_blur(images), explanation.maps, n, True), classes) for n in counts], 1
    )
    expected = [trapezoids(curve, np.array(counts) / POSITIONS) for curve in curves]
    found = measured("insertion", explanation, model, images, steps=6)
    np.testing.assert_allclose(found.details["curve"].numpy(), curves, rtol=1e-10)
    np.testing.assert_allclose(found.values.numpy(), expected, rtol=1e-10)
    scaled = [trapezoids((c - c[0]) / (c[-1] - c[0]), np.array(counts) / POSITIONS) for c in curves]
    found = measured("insertion", explanation, model, images, steps=6, normalize=True)
    np.testing.assert_allclose(found.values.numpy(), scaled, rtol=1e-8)


@pytest.mark.parametrize("pixels", [None, 1, 17])
def test_pixel_flipping(pixels):
    model, images, explanation, classes = setting()
    counts = [*range(0, POSITIONS, pixels or 10), POSITIONS]
    zeros = torch.zeros_like(images)
    curves = np.stack([probability(model, without(images, zeros, explanation.maps, n), classes) for n in counts], 1)
    found = measured("pixel_flipping", explanation, model, images, pixels=pixels)
    np.testing.assert_allclose(found.values.numpy(), ((curves[:, 1:] + curves[:, :-1]) / 2).sum(1), rtol=1e-10)


def faded(explanation, images, baseline=0.0):
    return baseline + explanation.maps[:, None] * (images - baseline)


@pytest.mark.parametrize("baseline", [0.0, -2.0])
def test_drop_increase_and_gain(baseline):
    model, images, explanation, classes = setting()
    whole = probability(model, images, classes)
    part = probability(model, faded(explanation, images, baseline), classes)
    expected = {
        "average_drop": [max(0, y - o) / y for y, o in zip(whole, part, strict=True)],
        "increase_in_confidence": [float(o > y) for y, o in zip(whole, part, strict=True)],
        "average_gain": [max(0, o - y) / (1 - y) for y, o in zip(whole, part, strict=True)],
    }
    options = {name: {"baseline": baseline} for name in expected}
    results = evaluate.run(explanation, list(expected), model, options=options)
    for name, values in expected.items():
        np.testing.assert_allclose(results["mine", name].values.numpy(), values, rtol=1e-10)
    assert results.passes == 1  # the three share one copy
    assert 0 < results["mine", "increase_in_confidence"].mean < 1 or len(set(part > whole)) == 1


def test_sufficiency_and_comprehensiveness():
    model, images, explanation, classes = setting()
    shares, zeros, whole = (0.02, 0.3, 1.0), torch.zeros_like(images), probability(model, images, classes)
    counts = [max(1, round(share * POSITIONS)) for share in shares]
    for name, keep in (("sufficiency", True), ("comprehensiveness", False)):
        drops = [whole - probability(model, without(images, zeros, explanation.maps, n, keep), classes) for n in counts]
        found = measured(name, explanation, model, images, shares=shares)
        np.testing.assert_allclose(found.details["drops"].numpy(), np.stack(drops, 1), atol=1e-12)
        np.testing.assert_allclose(found.values.numpy(), np.mean(drops, 0), atol=1e-12)


def test_steps_of_several_measures_are_shared():
    """20 steps of deletion hold the shares 5, 10, 20 and 50 % of comprehensiveness, and all steps of pixel flipping."""
    model, images, explanation, _ = setting()
    names = ["deletion", "comprehensiveness", "pixel_flipping"]
    results = evaluate.run(explanation, names, model, options={"pixel_flipping": {"pixels": 6}})
    assert results.passes == 21
    for name in names:
        alone = measured(name, explanation, model, images, **({"pixels": 6} if name == "pixel_flipping" else {}))
        torch.testing.assert_close(results["mine", name].values, alone.values, rtol=1e-12, atol=0)


def region_masks(regions, count):
    return [regions.mask(index, SIZE) for index in range(count)]


def drops_without(model, images, masks, baseline, classes):
    with torch.no_grad():
        clean = model(images).numpy()[np.arange(COUNT), classes]
        changed = [model(torch.where(mask, torch.full_like(images, baseline), images)).numpy() for mask in masks]
    return np.stack([clean - scores[np.arange(COUNT), classes] for scores in changed], 1)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("channels", [False, True], ids=["map", "attributions"])
def test_infidelity(normalize, channels):
    model, images = classifier(), images_for()
    attributions = torch.randn_like(images) if channels else None
    maps = random_maps() if attributions is None else attributions.sum(1)
    explanation = with_maps(model, images, maps, attributions=attributions)
    masks = region_masks(RandomRegions(0.3, True, 0, 5), 9)
    assert {int(mask.sum()) for mask in masks} == {12}  # 4 of 12 rows, 3 of 10 columns
    assert len({mask.numpy().tobytes() for mask in masks}) > 5
    actual = drops_without(model, images, masks, -1.0, explanation.targets.tolist())
    predicted = np.stack([(explanation.raw * mask).sum((1, 2)).numpy() for mask in masks], 1)
    factor = (predicted * actual).mean(1) / (predicted**2).mean(1) if normalize else np.ones(COUNT)
    options = {"regions": 9, "share": 0.3, "baseline": -1.0, "seed": 5, "normalize": normalize}
    found = measured("infidelity", explanation, model, images, **options)
    np.testing.assert_allclose(found.values, ((factor[:, None] * predicted - actual) ** 2).mean(1), rtol=1e-8)
    np.testing.assert_allclose(found.details["factor"], factor, rtol=1e-8)


@pytest.mark.parametrize("grid", [0, 4])
def test_faithfulness_correlation(grid):
    model, images, explanation, classes = setting()
    masks = region_masks(RandomRegions(0.25, False, grid, 1), 12)
    assert grid or {int(mask.sum()) for mask in masks} == {30}
    assert 20 < np.mean([int(mask.sum()) for mask in masks]) < 40
    actual = drops_without(model, images, masks, 0.0, classes)
    predicted = np.stack([(explanation.raw * mask).sum((1, 2)).numpy() for mask in masks], 1)
    options = {"regions": 12, "share": 0.25, "grid": grid, "seed": 1}
    found = measured("faithfulness_correlation", explanation, model, images, **options)
    np.testing.assert_allclose(found.values, [pearson(a, b) for a, b in zip(predicted, actual, strict=True)], rtol=1e-8)


def linear_model():
    torch.manual_seed(5)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * POSITIONS, 5)).double()
    return model.eval()


def test_a_linear_models_own_attributions_are_the_best():
    """Input x gradient of a linear model: no error, a perfect correlation, no gap, and the lowest deletion of all."""
    model, images = linear_model(), images_for()
    made = fastcam.explain(model, images, "input_x_gradient")
    names = ["infidelity", "faithfulness_correlation", "completeness_gap"]
    exact = with_maps(model, images, made.attributions.sum(1), attributions=made.attributions)
    results = evaluate.run(exact, names, model, options={"infidelity": {"normalize": False}})
    torch.testing.assert_close(results["mine", "infidelity"].values, torch.zeros(COUNT).double(), rtol=0, atol=1e-20)
    torch.testing.assert_close(results["mine", "faithfulness_correlation"].values, torch.ones(COUNT).double())
    with torch.no_grad():
        bias = model(torch.zeros_like(images)).gather(1, made.targets[:, None])[:, 0]
    assert bias.abs().min() > 1e-3  # the baseline's own score is taken off
    torch.testing.assert_close(
        results["mine", "completeness_gap"].values, torch.zeros(COUNT).double(), atol=1e-9, rtol=0
    )
    score = fastcam.targets.Logit(made.targets)
    best = evaluate.deletion(model, images, exact, target=score)
    for seed in range(5):
        other = with_maps(model, images, random_maps(seed=seed))
        assert (best < evaluate.deletion(model, images, other, target=score)).all()


def test_a_perfect_map_of_a_known_region():
    """The score reads one region alone: the map of that region leaves nothing to delete and nothing to insert."""
    region = torch.zeros(SIZE, dtype=torch.float64)
    region[2:5, 3:7] = 1

    def reads_region(x):
        inside = (x * region).sum((1, 2, 3))
        return torch.stack([inside, torch.zeros_like(inside)], 1)

    model, images = Call(reads_region).eval(), images_for().abs() + 1
    explanation = fastcam.Explanation(
        "mine", "", images, model(images), model(images)[:, 0], torch.zeros(COUNT, dtype=torch.int64),
        region.expand(COUNT, -1, -1),
    )  # fmt: skip
    options = {"sufficiency": {"shares": [0.1]}, "comprehensiveness": {"shares": [0.1]}}
    results = evaluate.run(explanation, [*options, "insertion", "deletion", "average_drop"], model, options=options)
    zeros, whole = torch.zeros(COUNT).double(), results["mine", "deletion"].details["curve"][:, 0]
    torch.testing.assert_close(results["mine", "sufficiency"].values, zeros)
    torch.testing.assert_close(results["mine", "comprehensiveness"].values, whole - 0.5)
    torch.testing.assert_close(results["mine", "average_drop"].values, zeros)
    # Of 20 steps the second deletes the last of the region: 12 of 120 positions.
    torch.testing.assert_close(
        results["mine", "deletion"].details["curve"][:, 2:], torch.full((COUNT, 19), 0.5).double()
    )


def test_options_that_do_not_fit():
    model, images, explanation, _ = setting()
    for name, options, text in (
        ("deletion", {"steps": 0}, "`steps` must be a positive whole number of at most 120, got 0"),
        ("deletion", {"steps": 121}, "of at most 120, got 121"),
        ("deletion", {"baseline": "grey"}, "one of blur, noise, slight_blur, got 'grey'"),
        ("road", {"percentages": [120]}, "`percentages` must be above 0"),
        ("sufficiency", {"shares": [0.0]}, "`shares` must be above 0"),
        ("infidelity", {"regions": 0}, "`regions` must be a positive whole number"),
        ("infidelity", {"share": 2}, r"`share` must lie in \(0, 1\], got 2"),
    ):
        with pytest.raises(ValueError, match=text):
            measured(name, explanation, model, images, **options)
    with pytest.raises(TypeError, match="no option 'step'; known: steps, baseline, normalize"):
        measured("deletion", explanation, model, images, step=3)
    with pytest.raises(ValueError, match="completeness_gap needs signed attributions"):
        measured("completeness_gap", explanation, model, images)
