"""A classifier in float64, explanations of it, and the plain statements that measures are compared with."""

import numpy as np
import torch
from scipy.stats import rankdata

import fastcam
from tests.support.conv_net import conv_net

SIZE = (12, 10)
COUNT = 4


def classifier():
    return conv_net().double()


def images_for(count=COUNT, seed=3):
    return 3 * torch.randn(count, 3, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def with_maps(model, images, maps, target=None, attributions=None):
    """An explanation whose maps are given, (N, [K,] *S)."""
    made = fastcam.explain(model, images, "saliency", target)
    return fastcam.Explanation(
        "mine", "", images, made.output, made.scores, made.targets, maps, attributions=attributions
    )


def random_maps(count=COUNT, seed=0, size=SIZE):
    return torch.rand(count, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def probability(model, images, classes):
    """f(x): the softmax probability of a class for each image, (N,) NumPy."""
    with torch.no_grad():
        logits = model(images).numpy()
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return (exponentials / exponentials.sum(1, keepdims=True))[np.arange(len(logits)), np.asarray(classes)]


def without(images, baseline, maps, count, keep=False):
    """Images whose ``count`` highest positions are the baseline's, one by one; with ``keep`` all others."""
    changed = images.clone()
    for image, base, values, result in zip(images, baseline, maps, changed, strict=True):
        places = np.argsort(-values.numpy().ravel(), kind="stable")
        places = places[count:] if keep else places[:count]
        for place in places:
            y, x = divmod(int(place), values.shape[1])
            result[:, y, x] = base[:, y, x]
        assert image.shape == base.shape
    return changed


def pearson(a, b):
    return np.corrcoef(a, b)[0, 1]


def spearman(a, b):
    return pearson(rankdata(a.ravel()), rankdata(b.ravel()))
