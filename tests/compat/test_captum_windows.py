"""Baselines that broadcast and forms of windows, for methods that replace values."""

import captum.attr as peer
import pytest
import torch
from captum import metrics as peer_metrics

from fastcam.compat.captum import attr as ours
from fastcam.compat.captum import metrics
from tests.compat.captum_calls import compare, product

pytestmark = pytest.mark.usefixtures("one_thread")


BASELINES = [(3, 1, 1), (3, 3, 1, 1), (1, 3, 1, 1), (5,), (4, 5), (1, 1), (3, 1, 4, 5), (1,)]


@pytest.mark.parametrize("shape", BASELINES)
@pytest.mark.parametrize(
    ("name", "given"), [("Occlusion", {"sliding_window_shapes": (2, 2, 3)}), ("FeatureAblation", {})]
)
@pytest.mark.parametrize("at_once", [1, 2])
def test_baselines_that_broadcast(images, name, given, shape, at_once):
    baselines = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))

    def run(module):
        method = getattr(module, name)(product)
        return method.attribute(images[:, :, :4, :5], baselines=baselines, perturbations_per_eval=at_once, **given)

    compare(run)


@pytest.mark.parametrize("shape", [(3, 1), (5,), (1,), (1, 5), ()])
@pytest.mark.parametrize(("name", "given"), [("Occlusion", {"sliding_window_shapes": (2,)}), ("FeatureAblation", {})])
def test_baselines_of_rows_that_broadcast(rows, name, given, shape):
    baselines = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    compare(lambda module: getattr(module, name)(product).attribute(rows, baselines=baselines, **given))


def test_as_many_channels_as_examples():
    """A baseline for each channel is not one for each example, however the examples are split into batches."""
    values = torch.randn(40, 40, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    baselines = torch.linspace(-1, 1, 40, dtype=torch.float64).reshape(40, 1, 1)
    mask = torch.arange(4).repeat(10)[:, None, None]
    compare(lambda module: module.FeatureAblation(product).attribute(values, baselines=baselines, feature_mask=mask))


@pytest.mark.parametrize("baseline", [0.5, 2, torch.tensor([0.25, 0.5, 1, 2, 3])])
@pytest.mark.parametrize(("name", "given"), [("Occlusion", {"sliding_window_shapes": (2,)}), ("FeatureAblation", {})])
def test_fractions_in_the_place_of_integers(name, given, baseline):
    values = torch.arange(1, 11).reshape(2, 5)
    compare(lambda module: getattr(module, name)(product).attribute(values, baselines=baseline, **given))


def test_sensitivity_keeps_baselines_that_broadcast(images):
    baselines = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64).reshape(3, 1, 1)

    def run(module):
        measure = (peer_metrics if module is peer else metrics).sensitivity_max
        explain = module.FeatureAblation(product).attribute
        return measure(explain, images[:, :, :3, :3], n_perturb_samples=2, baselines=baselines)

    compare(run)


def test_baselines_that_do_not_broadcast(rows):
    for name, given in (("Occlusion", {"sliding_window_shapes": (2,)}), ("FeatureAblation", {})):
        with pytest.raises(AssertionError, match=r"broadcasts to its input's, \(3, 5\); got \(2,\)"):
            getattr(ours, name)(product).attribute(rows, baselines=torch.zeros(2), **given)


@pytest.mark.parametrize(
    ("shapes", "strides"),
    [
        (((3, 1, 1),), None),
        (((3, 2, 2),), ((1, 2, 1),)),
        (((3, 2, 2),), (1, 2, 2)),
        ((3, 2, 2), (2,)),
        ((3, 2, 2), ((3, 2, 1),)),
        (((2, 2, 3),), 2),
    ],
)
@pytest.mark.parametrize("in_tuple", [False, True])
def test_windows_of_one_input(images, shapes, strides, in_tuple):
    part = images[:, :, :5, :4]

    def run(module):
        return module.Occlusion(product).attribute((part,) if in_tuple else part, shapes, strides=strides)

    compare(run)


@pytest.mark.parametrize(("shapes", "strides"), [(((2,),), None), ((2,), (2,)), (((3,),), ((2,),)), ((2,), ((1,),))])
def test_windows_of_rows(rows, shapes, strides):
    compare(lambda module: module.Occlusion(product).attribute(rows, shapes, strides=strides))


def test_windows_that_do_not_belong_to_the_inputs(rows):
    occlusion = ours.Occlusion(product)
    for shapes in ((2, 2), ((2,),), 2):
        with pytest.raises(AssertionError, match="a tuple of sides for each input, 2 in number"):
            occlusion.attribute((rows, rows), shapes)
    with pytest.raises(AssertionError, match="`strides` must be a tuple of one for each input, 2 in number"):
        occlusion.attribute((rows, rows), ((2,), (2,)), strides=2)
    with pytest.raises(AssertionError, match="one size for each axis"):
        occlusion.attribute(rows, ())


@pytest.mark.parametrize("strides", [None, (1, 2), ((), ())])
@pytest.mark.parametrize("baselines", [None, (0.5, 0.3), (torch.tensor([2.0, 1.0, -1.0]), torch.ones(1))])
@pytest.mark.parametrize("at_once", [1, 2])
def test_features_without_axes(rows, strides, baselines, at_once):
    pair = rows[:, 0], rows[:, 1]

    def run(module):
        return module.Occlusion(product).attribute(
            pair, ((), ()), strides=strides, baselines=baselines, perturbations_per_eval=at_once
        )

    compare(run)


def test_one_feature_without_axes_beside_others(rows):
    compare(lambda module: module.Occlusion(product).attribute((rows[:, 0], rows), ((), (2,))))
    compare(lambda module: module.Occlusion(product).attribute(rows[:, 0], ((),)))
