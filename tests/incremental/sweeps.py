"""Results of both engines on the same images, and their difference."""

import torch

import fastcam
from fastcam.incremental import Sweep


def both(model, images, target=(1, 3), **options):
    """Return the explanations from patches and from whole forward passes."""
    classes = list(target)[: len(images)]
    engines = ("incremental", "dense")
    return [fastcam.explain(model, images, "occlusion", classes, engine=engine, **options) for engine in engines]


def difference(actual, expected):
    """Return the largest difference between grids of scores, relative to the range of the scores."""
    grids = [explanation.details["grid"].double() for explanation in (actual, expected)]
    assert grids[0].shape == grids[1].shape
    span = float(grids[1].amax() - grids[1].amin())
    assert span > 1e-3 * float(grids[1].abs().amax())  # constant scores would hide any difference
    return float((grids[0] - grids[1]).abs().amax()) / span


def assert_same(actual, expected, tolerance):
    """Check that all results agree, with a tolerance relative to the range of the scores."""
    assert difference(actual, expected) <= tolerance
    assert torch.allclose(actual.details["probability"], expected.details["probability"], atol=tolerance)
    assert torch.equal(actual.details["top_class"], expected.details["top_class"])
    span = float(expected.details["grid"].amax() - expected.details["grid"].amin())
    assert float((actual.native - expected.native).abs().amax()) <= 2 * tolerance * span


def localities(model, image, windows, name="convolution"):
    """Return the localities of a plan's operations of that name; None for those that run on whole maps."""
    sweep = Sweep(model, image, torch.zeros_like(image))
    return [step.locality for step in sweep.plan(windows).steps if step.operation.name == name]


def windows(positions, side, stride):
    """Return square windows (positions squared, 2, 2), starting at the top left corner."""
    starts = torch.cartesian_prod(*[torch.arange(positions) * stride] * 2)
    return torch.stack([starts, torch.full_like(starts, side)], 1)
