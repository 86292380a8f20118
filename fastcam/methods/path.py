"""Gradients along a path or over a cloud of inputs."""

from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from fastcam.methods.baselines import baseline_images, normal_noise
from fastcam.methods.protocol import Block, Scorer
from fastcam.methods.registry import Method, Outcome, get_method, method
from fastcam.ops.numerics import accumulation_dtype

Quadrature = Literal["gauss_legendre", "riemann_left", "riemann_right", "riemann_middle", "trapezoid"]
Kind = Literal["mean", "square", "variance"]


@method(
    "integrated_gradients",
    needs=("scorer",),
    returns="attributions",
    relu=False,
    cost="2 x steps + 2",
    paper="arXiv:1703.01365",
)
def integrated_gradients(
    scorer: Scorer,
    *,
    steps: int = 50,
    baseline: Any = 0.0,
    quadrature: Quadrature = "gauss_legendre",
    seed: int = 0,
) -> Outcome:
    """Integrated Gradients: gradients gathered on the straight way from a baseline to the image.

    Args:
        scorer: the model.
        steps: gradients along the way.
        baseline: where it starts, see :func:`fastcam.methods.baselines.baseline_images`.
        quadrature: how the integral is taken; "trapezoid" has an image at both ends.
        seed: of a baseline of noise.

    Returns:
        Attributions, and as details ``completeness_gap`` (N, [K]): their sum less y(image) - y(baseline).
    """
    places, weights = nodes(quadrature, steps)
    images = scorer.images
    start = baseline_images(images, baseline, seed)

    def along(block: Block) -> Tensor:
        which, steps_here = block.place
        alpha = _shaped(places[steps_here], images.dim()).to(images)
        return start[which].unsqueeze(1) + alpha * (images - start)[which].unsqueeze(1)

    total = Sum(scorer)
    for block, (_, found) in scorer.each(steps, lambda block: scorer.gradients(along(block), block, "input_gradients")):
        total.add(found["input_gradients"], block, weights)
    spread = images - start
    attributions = (spread.unsqueeze(1) if scorer.scores.dim() == 2 else spread) * total.value
    lowest = scorer.scores_of(1, lambda block: start[block.place[0]].unsqueeze(1))[..., 0]
    gap = attributions.flatten(scorer.scores.dim()).sum(-1) - (scorer.scores - lowest)
    return attributions.to(images.dtype), {"completeness_gap": gap}


def nodes(quadrature: Quadrature, steps: int) -> tuple[Tensor, Tensor]:
    """Places in [0, 1] and weights (steps,) of a quadrature, float64; the weights sum to one.

    Raises:
        ValueError: for an unknown quadrature or too few steps.
    """
    if quadrature not in get_args(Quadrature):
        raise ValueError(f"`quadrature` must be one of {', '.join(get_args(Quadrature))}; got {quadrature!r}")
    fewest = 2 if quadrature == "trapezoid" else 1
    if not isinstance(steps, int) or steps < fewest:
        raise ValueError(f"`steps` must be a whole number of at least {fewest}, got {steps!r}")
    if quadrature == "gauss_legendre":
        places, weights = np.polynomial.legendre.leggauss(steps)
        return torch.from_numpy((places + 1) / 2), torch.from_numpy(weights / 2)
    if quadrature == "trapezoid":
        weights = np.full(steps, 1 / (steps - 1))
        weights[[0, -1]] /= 2
        return torch.linspace(0, 1, steps, dtype=torch.float64), torch.from_numpy(weights)
    offset = {"riemann_left": 0.0, "riemann_middle": 0.5, "riemann_right": 1.0}[quadrature]
    places = (np.arange(steps) + offset) / steps
    return torch.from_numpy(places), torch.full((steps,), 1 / steps, dtype=torch.float64)


@method(
    "smooth_grad",
    needs=("scorer",),
    returns="attributions",
    relu=False,
    reduce="max_abs",
    cost="2 x samples",
    paper="arXiv:1706.03825",
)
def smooth_grad(
    scorer: Scorer,
    *,
    inner: str = "saliency",
    samples: int = 25,
    level: float = 0.15,
    kind: Kind = "mean",
    seed: int = 0,
    **options: Any,
) -> Tensor:
    """SmoothGrad: another method's attributions, averaged over noisy copies of the image.

    Args:
        scorer: the model.
        inner: the method, any that attributes to the input values without a layer.
        samples: noisy copies; the same noise for every image.
        level: standard deviation of the noise, as a share of every image's range.
        kind: "mean"; "square" for SmoothGrad-squared, the mean of the squares (arXiv:1806.10758); "variance" for
            VarGrad (arXiv:1810.03292).
        seed: of the noise.
        options: of the inner method.
    """
    rule = _inner(inner)
    _check_samples(samples, level, kind)
    images = scorer.images
    flat = images.flatten(1)
    deviation = level * (flat.amax(1) - flat.amin(1)).reshape(-1, *[1] * (images.dim() - 1))

    def work(block: Block) -> Tensor:
        noise = torch.stack([normal_noise(images, seed + index) for index in block.variants])
        which = block.place[0]
        noisy = images[which].unsqueeze(1) + deviation[which].unsqueeze(1) * noise
        return attributions_of(rule, scorer, noisy, block, options)

    weights = torch.full((samples,), 1 / samples, dtype=torch.float64)
    mean, square = Sum(scorer), Sum(scorer)
    for block, found in scorer.each(samples, work):
        if kind != "square":
            mean.add(found, block, weights)
        if kind != "mean":
            square.add(found.to(accumulation_dtype(found.dtype)) ** 2, block, weights)
    if kind == "variance":
        return (square.value - mean.value**2).clamp(min=0).to(images.dtype)
    return (mean if kind == "mean" else square).value.to(images.dtype)


def attributions_of(rule: Method, scorer: Scorer, copies: Tensor, block: Block, options: dict[str, Any]) -> Tensor:
    """(n, m, [K,] C, *S): what a method says of a block's copies (n, m, C, *S)."""
    kinds = [need for need in rule.needs if need.endswith("_gradients")]
    if "scorer" in rule.needs:
        here = scorer.for_copies(copies, block, scorer.score(copies, block))
        return rule.value(here, **options).unflatten(0, copies.shape[:2])
    _, gradients = scorer.gradients(copies, block, *kinds)
    images = copies.unsqueeze(2) if scorer.scores.dim() == 2 else copies
    given = {"images": images} | gradients
    return rule.value(*(given[need] for need in rule.needs), **options)


class Sum:
    """A weighted sum over variants, in at least float32, added up variant by variant in their order.

    So that the sum does not depend on how the work was cut into blocks.
    """

    def __init__(self, scorer: Scorer) -> None:
        images, scores = scorer.images, scorer.scores
        shape = (*scores.shape, *images.shape[1:])
        self.value = images.new_zeros(shape, dtype=accumulation_dtype(images.dtype))  # (N, [K,] C, *S)

    def add(self, found: Tensor, block: Block, weights: Tensor) -> None:
        """Adds the results (n, m, ...) of a block, each times its variant's weight."""
        which = block.place[0]
        part = self.value[which]
        for position, variant in enumerate(block.variants):
            part = part + float(weights[variant]) * found[:, position]
        if len(part) == len(self.value):
            self.value = part
        else:
            self.value[which] = part


def _shaped(values: Tensor, axes: int) -> Tensor:
    """(m,) as (1, m, 1, ...) for copies (n, m, C, *S) of images with that many axes."""
    return values.reshape(1, -1, *[1] * (axes - 1))


def _inner(name: str) -> Method:
    found = get_method(name)
    if found.returns != "attributions" or found.has_layer or name == "smooth_grad":
        raise ValueError(f"`inner` must be a method that attributes to the input values without a layer, got {name!r}")
    return found


def _check_samples(samples: int, level: float, kind: str) -> None:
    if not isinstance(samples, int) or samples < 1:
        raise ValueError(f"`samples` must be a positive whole number, got {samples!r}")
    if not isinstance(level, int | float) or level < 0:
        raise ValueError(f"`level` must be a number of at least 0, got {level!r}")
    if kind not in get_args(Kind):
        raise ValueError(f'`kind` must be "mean", "square" or "variance", got {kind!r}')
