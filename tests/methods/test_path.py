"""Integrated Gradients and SmoothGrad against plain loops in float64."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

import fastcam
from fastcam.methods.baselines import baseline_images, normal_noise
from fastcam.methods.path import quadrature_nodes
from tests.support.conv_net import autograd_gradients, conv_net, images_for
from tests.support.networks import in_double

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = images_for().double()
K = [[0, 4], [1, 3]]


def network():
    return in_double(conv_net())


def gradient(images: Tensor, target: int = 1) -> Tensor:
    return autograd_gradients(lambda x: network()(x)[:, target], images)


def integral(start: Tensor, places, weights) -> Tensor:
    """(x - x0) sum_i w_i dy/dx at x0 + a_i (x - x0)."""
    terms = [w * gradient(start + a * (IMAGES - start)) for a, w in zip(places, weights, strict=True)]
    return (IMAGES - start) * torch.stack(terms).sum(0)


QUADRATURES = {
    "riemann_left": (np.arange(6) / 6, np.full(6, 1 / 6)),
    "riemann_middle": ((np.arange(6) + 0.5) / 6, np.full(6, 1 / 6)),
    "riemann_right": ((np.arange(6) + 1) / 6, np.full(6, 1 / 6)),
    "trapezoid": (np.linspace(0, 1, 6), np.array([0.1, 0.2, 0.2, 0.2, 0.2, 0.1])),
    "gauss_legendre": tuple(
        each / 2 for each in (np.polynomial.legendre.leggauss(6)[0] + 1, np.polynomial.legendre.leggauss(6)[1])
    ),
}


@pytest.mark.parametrize("quadrature", QUADRATURES)
def test_quadratures(quadrature):
    explanation = fastcam.explain(network(), IMAGES, "integrated_gradients", 1, steps=6, quadrature=quadrature)
    expected = integral(torch.zeros_like(IMAGES), *QUADRATURES[quadrature])
    torch.testing.assert_close(explanation.attributions, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(explanation.raw, expected.sum(1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("quadrature", "degree"), [("gauss_legendre", 9), ("trapezoid", 1), ("riemann_middle", 1)])
def test_quadratures_are_exact_for_polynomials(quadrature, degree):
    places, weights = quadrature_nodes(quadrature, 5)
    assert weights.sum().item() == pytest.approx(1, abs=1e-12)
    for power in range(degree + 1):
        assert (weights * places**power).sum().item() == pytest.approx(1 / (power + 1), abs=1e-12)


def test_path_of_25_images_with_both_ends():
    """MATLAB's gradient attribution example: 25 images from black to the photograph, integrated by trapezoids."""
    explanation = fastcam.explain(network(), IMAGES, "integrated_gradients", 1, steps=25, quadrature="trapezoid")
    path = [gradient(IMAGES * step / 24) for step in range(25)]
    expected = IMAGES * sum((before + after) / 2 for before, after in pairwise(path)) / 24
    torch.testing.assert_close(explanation.attributions, expected, rtol=1e-9, atol=1e-12)


BASELINES = {
    "number": (0.3, lambda: torch.full_like(IMAGES, 0.3)),
    "colour": (
        torch.tensor([0.1, -0.2, 0.3]),
        lambda: torch.tensor([0.1, -0.2, 0.3]).double()[:, None, None].expand_as(IMAGES),
    ),
    "colour as a list": ([1, 2, 3], lambda: torch.tensor([1.0, 2, 3]).double()[:, None, None].expand_as(IMAGES)),
    "image": (IMAGES[1].flip(-1), lambda: IMAGES[1].flip(-1).expand_as(IMAGES)),
    "image per image": (IMAGES.flip(0), lambda: IMAGES.flip(0)),
    "blur": ("blur", lambda: blurred(IMAGES)),
    "noise": ("noise", lambda: noise(IMAGES)),
}


def blurred(images: Tensor) -> Tensor:
    """A Gaussian of a tenth of the longest side, renormalised at the border, as one matrix per axis."""
    sigma = max(images.shape[2:]) / 10
    for axis in (2, 3):
        index = torch.arange(images.shape[axis]).double()
        matrix = torch.exp(-((index[:, None] - index) ** 2) / (2 * sigma**2))
        matrix[(index[:, None] - index).abs() > np.ceil(3 * sigma)] = 0
        images = (images.movedim(axis, -1) @ (matrix / matrix.sum(1, keepdim=True)).T).movedim(-1, axis)
    return images


def noise(images: Tensor) -> Tensor:
    mean, deviation = images.mean((2, 3), keepdim=True), images.std((2, 3), keepdim=True, correction=0)
    return mean + deviation * torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("name", BASELINES)
def test_baselines(name):
    given, expected = BASELINES[name]
    torch.testing.assert_close(baseline_images(IMAGES, given), expected(), rtol=1e-9, atol=1e-9)
    explanation = fastcam.explain(network(), IMAGES, "integrated_gradients", 1, steps=6, baseline=given)
    attributions = integral(expected(), *QUADRATURES["gauss_legendre"])
    torch.testing.assert_close(explanation.attributions, attributions, rtol=1e-6, atol=1e-9)


def test_completeness_gap():
    model, start = network(), IMAGES.flip(-1)
    gaps = {}
    for steps in (3, 300):
        found = fastcam.explain(model, IMAGES, "integrated_gradients", K, steps=steps, baseline=start)
        scores = [model(each).detach().gather(1, torch.tensor(K)) for each in (IMAGES, start)]
        gaps[steps] = found.details["completeness_gap"]
        torch.testing.assert_close(gaps[steps], found.attributions.flatten(2).sum(-1) - (scores[0] - scores[1]))
    assert 0 < gaps[300].abs().max() < 0.05 * gaps[3].abs().max()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"steps": 0}, "`steps` must be a whole number of at least 1, got 0"),
        ({"steps": 1, "quadrature": "trapezoid"}, "`steps` must be a whole number of at least 2, got 1"),
        ({"quadrature": "simpson"}, "`quadrature` must be one of gauss_legendre, .*; got 'simpson'"),
        ({"baseline": "grey"}, '`baseline` must be a number, a tensor, "blur" or "noise", got \'grey\''),
        ({"baseline": torch.zeros(2)}, r"`baseline` must .* for images \(2, 3, 12, 10\), got \(2,\)"),
    ],
)
def test_bad_options_of_integrated_gradients(options, text):
    with pytest.raises(ValueError, match=text):
        fastcam.explain(network(), IMAGES, "integrated_gradients", 1, **options)


# --- SmoothGrad -------------------------------------------------------------------------------------------------------

INNER = {
    "saliency": {},
    "input_x_gradient": {},
    "guided_backprop": {},
    "integrated_gradients": {"steps": 3, "baseline": 0.2},
}


def noisy_attributions(inner: str, options, samples: int, level: float, seed: int = 0) -> Tensor:
    """(samples, N, C, *S): what the inner method says of every noisy copy."""
    spread = level * (IMAGES.amax((1, 2, 3), keepdim=True) - IMAGES.amin((1, 2, 3), keepdim=True))
    copies = [IMAGES + spread * normal_noise(IMAGES, seed + index) for index in range(samples)]
    return torch.stack([fastcam.explain(network(), each, inner, 1, **options).attributions for each in copies])


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize(
    ("kind", "formula"),
    [
        ("mean", lambda a: a.mean(0)),
        ("square", lambda a: (a**2).mean(0)),
        ("variance", lambda a: a.var(0, correction=0)),
    ],
)
def test_smooth_grad(inner, kind, formula):
    options = INNER[inner]
    explanation = fastcam.explain(
        network(), IMAGES, "smooth_grad", 1, inner=inner, samples=5, level=0.2, kind=kind, **options
    )
    expected = formula(noisy_attributions(inner, options, 5, 0.2))
    torch.testing.assert_close(explanation.attributions, expected, rtol=1e-7, atol=1e-12)
    by_colour = expected.sum(1) if inner in ("input_x_gradient", "integrated_gradients") else expected.abs().amax(1)
    torch.testing.assert_close(explanation.raw, by_colour, rtol=1e-7, atol=1e-12)


def test_noise_has_the_stated_spread():
    """Of a linear model whose gradient is the input's own noise: y = |x|^2 / 2."""
    model = torch.nn.Sequential().eval()
    target = lambda output: (output**2).flatten(1).sum(1) / 2  # noqa: E731
    images = torch.rand(2, 3, 40, 40) * torch.tensor([1.0, 5.0])[:, None, None, None]
    found = fastcam.explain(model, images, "smooth_grad", target, kind="variance", samples=50, level=0.1)
    spread = 0.1 * (images.amax((1, 2, 3)) - images.amin((1, 2, 3)))
    torch.testing.assert_close(found.attributions.mean((1, 2, 3)).sqrt(), spread, rtol=0.02, atol=0)


@pytest.mark.parametrize("batch_size", [1, 3, 7, "auto"])
@pytest.mark.parametrize("method", ["smooth_grad", "integrated_gradients"])
def test_results_do_not_depend_on_the_batch_size(method, batch_size):
    options = {"samples": 5} if method == "smooth_grad" else {"steps": 5}
    whole = fastcam.explain(network(), IMAGES, method, K, batch_size=64, **options)
    pieces = fastcam.explain(network(), IMAGES, method, K, batch_size=batch_size, **options)
    torch.testing.assert_close(pieces.attributions, whole.attributions, rtol=1e-10, atol=1e-13)
    alone = fastcam.explain(network(), IMAGES[1:], method, K[1:], batch_size=batch_size, **options)
    torch.testing.assert_close(alone.attributions, whole.attributions[1:], rtol=1e-10, atol=1e-13)


def test_the_seed_makes_the_noise():
    maps = [fastcam.explain(network(), IMAGES, "smooth_grad", 1, samples=2, seed=seed).raw for seed in (0, 0, 7)]
    assert torch.equal(maps[0], maps[1])
    assert not torch.allclose(maps[0], maps[2], rtol=1e-2)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"inner": "grad_cam"}, "`inner` must be a method that attributes .*, got 'grad_cam'"),
        ({"samples": 0}, "`samples` must be a positive whole number, got 0"),
        ({"level": -1}, "`level` must be a number of at least 0, got -1"),
        ({"kind": "median"}, '`kind` must be "mean", "square" or "variance", got \'median\''),
    ],
)
def test_bad_options_of_smooth_grad(options, text):
    with pytest.raises(ValueError, match=text):
        fastcam.explain(network(), IMAGES, "smooth_grad", 1, **options)


def test_options_of_the_inner_method_are_known():
    with pytest.raises(TypeError, match="smooth_grad has no option 'steps'"):
        fastcam.Explainer(network(), "smooth_grad", steps=3)
    fastcam.Explainer(network(), "smooth_grad", inner="integrated_gradients", steps=3)
