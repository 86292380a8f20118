"""Gradients averaged along a path or over noisy inputs."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from fastcam.devices import send
from fastcam.methods.baselines import Baseline, baseline_images, normal_noise
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
    baseline: Baseline = 0.0,
    quadrature: Quadrature = "gauss_legendre",
    seed: int = 0,
) -> Outcome:
    """Integrated Gradients: gradients integrated along the straight path from a baseline to the image.

    Args:
        scorer: the model.
        steps: number of gradients along the path.
        baseline: start of the path, see :func:`fastcam.methods.baselines.baseline_images`.
        quadrature: quadrature rule of the integral; "trapezoid" includes both ends.
        seed: seed of the baseline "noise".

    Returns:
        Attributions, and the detail ``completeness_gap`` (N, [K]): their sum minus (y(image) - y(baseline)).
    """
    places, quadrature_weights = quadrature_nodes(quadrature, steps)
    weights = quadrature_weights.tolist()
    images = scorer.images
    start = baseline_images(images, baseline, seed)

    def path_images(block: Block) -> Tensor:
        rows, block_steps = block.place
        alpha = _align(send(places[block_steps], images.device).to(images.dtype), images.dim())
        return start[rows].unsqueeze(1) + alpha * (images - start)[rows].unsqueeze(1)

    def path_gradients(block: Block) -> tuple[Tensor, dict[str, Tensor]]:
        return scorer.gradients(path_images(block), block, "input_gradients")

    total = WeightedSum(scorer)
    for block, (_, gradients) in scorer.each(steps, path_gradients):
        total.add(gradients["input_gradients"], block, weights)
    difference = images - start
    attributions = (difference.unsqueeze(1) if scorer.scores.dim() == 2 else difference) * total.value
    baseline_scores = scorer.scores_of(1, lambda block: start[block.place[0]].unsqueeze(1))[..., 0]
    gap = attributions.flatten(scorer.scores.dim()).sum(-1) - (scorer.scores - baseline_scores)
    return attributions.to(images.dtype), {"completeness_gap": gap}


def quadrature_nodes(quadrature: Quadrature, steps: int) -> tuple[Tensor, Tensor]:
    """Return nodes in [0, 1] and weights (steps,) of a quadrature, float64; the weights sum to one.

    Raises:
        ValueError: for an unknown quadrature or too few steps.
    """
    if quadrature not in get_args(Quadrature):
        raise ValueError(f"`quadrature` must be one of {', '.join(get_args(Quadrature))}; got {quadrature!r}")
    minimum = 2 if quadrature == "trapezoid" else 1
    if not isinstance(steps, int) or steps < minimum:
        raise ValueError(f"`steps` must be a whole number of at least {minimum}, got {steps!r}")
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
    """SmoothGrad: attributions of another method, averaged over noisy copies of the image.

    Args:
        scorer: the model.
        inner: name of the method, one that attributes to the input values and needs no layer.
        samples: number of noisy copies; all images share the noise.
        level: standard deviation of the noise, as a share of every image's range.
        kind: "mean"; "square" for SmoothGrad-squared, the mean of the squares (arXiv:1806.10758); "variance" for
            VarGrad (arXiv:1810.03292).
        seed: seed of the noise.
        options: options of the inner method.
    """
    rule = _inner_method(inner)
    _check_samples(samples, level, kind)
    images = scorer.images
    flat = images.flatten(1)
    deviation = level * (flat.amax(1) - flat.amin(1)).reshape(-1, *[1] * (images.dim() - 1))

    def noisy_attributions(block: Block) -> Tensor:
        noise = torch.stack([normal_noise(images, seed + index) for index in block.variants])
        rows = block.place[0]
        noisy = images[rows].unsqueeze(1) + deviation[rows].unsqueeze(1) * noise
        return _attribute_copies(rule, scorer, noisy, block, options)

    weights = [1 / samples] * samples
    mean, square = WeightedSum(scorer), WeightedSum(scorer)
    for block, attributions in scorer.each(samples, noisy_attributions):
        if kind != "square":
            mean.add(attributions, block, weights)
        if kind != "mean":
            square.add(attributions.to(accumulation_dtype(attributions.dtype)) ** 2, block, weights)
    if kind == "variance":
        return (square.value - mean.value**2).clamp(min=0).to(images.dtype)
    return (mean if kind == "mean" else square).value.to(images.dtype)


def _attribute_copies(rule: Method, scorer: Scorer, copies: Tensor, block: Block, options: dict[str, Any]) -> Tensor:
    """Return the attributions (n, m, [K,] C, *S) of a block's copies (n, m, C, *S)."""
    kinds = [need for need in rule.needs if need.endswith("_gradients")]
    if "scorer" in rule.needs:
        copies_scorer = scorer.for_copies(copies, block, scorer.score(copies, block))
        return rule.value(copies_scorer, **options).unflatten(0, copies.shape[:2])
    _, gradients = scorer.gradients(copies, block, *kinds)
    images = copies.unsqueeze(2) if scorer.scores.dim() == 2 else copies
    inputs = {"images": images} | gradients
    return rule.value(*(inputs[need] for need in rule.needs), **options)


class WeightedSum:
    """A weighted sum over variants, in at least float32.

    Variants are added one by one in order, so that the sum does not depend on the blocks.
    """

    def __init__(self, scorer: Scorer) -> None:
        images, scores = scorer.images, scorer.scores
        shape = (*scores.shape, *images.shape[1:])
        self.value = images.new_zeros(shape, dtype=accumulation_dtype(images.dtype))  # (N, [K,] C, *S)

    def add(self, results: Tensor, block: Block, weights: Sequence[float]) -> None:
        """Add the results (n, m, ...) of a block, each multiplied by the weight of its variant."""
        rows = block.place[0]
        partial = self.value[rows]
        for position, variant in enumerate(block.variants):
            partial = partial + weights[variant] * results[:, position]
        if partial.shape[0] == self.value.shape[0]:
            self.value = partial
        else:
            self.value[rows] = partial


def _align(values: Tensor, axes: int) -> Tensor:
    """Reshape (m,) to (1, m, 1, ...) for copies (n, m, C, *S) of images with that many axes."""
    return values.reshape(1, -1, *[1] * (axes - 1))


def _inner_method(name: str) -> Method:
    inner = get_method(name)
    if inner.returns != "attributions" or inner.has_layer or name == "smooth_grad":
        raise ValueError(f"`inner` must be a method that attributes to the input values without a layer, got {name!r}")
    return inner


def _check_samples(samples: int, level: float, kind: str) -> None:
    if not isinstance(samples, int) or samples < 1:
        raise ValueError(f"`samples` must be a positive whole number, got {samples!r}")
    if not isinstance(level, int | float) or level < 0:
        raise ValueError(f"`level` must be a number of at least 0, got {level!r}")
    if kind not in get_args(Kind):
        raise ValueError(f'`kind` must be "mean", "square" or "variance", got {kind!r}')
