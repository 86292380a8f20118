"""Both engines on the same images, and how far they lie apart."""

import torch

import fastcam
from fastcam.incremental import Sweep


def both(model, images, target=(1, 3), **options):
    """What the sweep from patches says, and the one of whole forward passes."""
    classes = list(target)[: len(images)]
    engines = ("incremental", "dense")
    return [fastcam.explain(model, images, "occlusion", classes, engine=each, **options) for each in engines]


def difference(found, expected):
    """The largest difference between grids of scores, as a share of the range of the scores."""
    grids = [each.details["grid"].double() for each in (found, expected)]
    assert grids[0].shape == grids[1].shape
    span = float(grids[1].amax() - grids[1].amin())
    assert span > 1e-3 * float(grids[1].abs().amax())  # a mute network would show nothing
    return float((grids[0] - grids[1]).abs().amax()) / span


def same(found, expected, tolerance):
    """Whether all that the sweeps return agrees, to a share of the range of the scores."""
    assert difference(found, expected) <= tolerance
    assert torch.allclose(found.details["probability"], expected.details["probability"], atol=tolerance)
    assert torch.equal(found.details["top_class"], expected.details["top_class"])
    span = float(expected.details["grid"].amax() - expected.details["grid"].amin())
    assert float((found.native - expected.native).abs().amax()) <= 2 * tolerance * span


def kinds(model, image, windows, name="convolution"):
    """The natures of a plan's operations of that name; None for those done on whole maps."""
    sweep = Sweep(model, image, torch.zeros_like(image))
    return [step.nature for step in sweep.plan(windows).steps if step.operation.name == name]


def windows(positions, side, stride):
    """(positions squared, 2, 2): square windows from the top left corner on."""
    starts = torch.cartesian_prod(*[torch.arange(positions) * stride] * 2)
    return torch.stack([starts, torch.full_like(starts, side)], 1)
