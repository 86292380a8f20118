"""How alike two maps are."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Maps: TypeAlias = npt.NDArray[np.float64]  # (N, *S)
HOG_CELL = 16  # pixels
_MISSING = 'comparing maps needs SciPy and scikit-image: pip install "fastcam[evaluate]"'


def similarities(maps: Tensor, others: Tensor) -> dict[str, Tensor]:
    """Return how alike maps (N, *S) are, (N,) by measure, as Adebayo et al. (arXiv:1810.03292) compare them.

    Returns:
        "spearman", the correlation of ranks, equal values having their mean rank; "spearman_abs", the same of absolute
        values; for maps of two axes "ssim", the structural similarity, and "hog", Pearson's correlation of histograms
        of gradients, both of maps divided by their largest magnitude. NaN for a map that is constant or not finite.

    Raises:
        ImportError: without SciPy and scikit-image.
    """
    first, second = map(_as_array, (maps, others))
    measures: dict[str, Callable[[Maps, Maps], Maps]] = {"spearman": spearman, "spearman_abs": _spearman_abs}
    if first.ndim == 3:
        measures |= {"ssim": _ssim, "hog": _hog}
    return {name: _compared(compare, first, second) for name, compare in measures.items()}


def rank_correlation(maps: Tensor, others: Tensor) -> Tensor:
    """Return Spearman's correlation (N,) of maps (N, *S), on the CPU; NaN for one that is constant or not finite.

    Raises:
        ImportError: without SciPy.
    """
    return _compared(spearman, *map(_as_array, (maps, others)))


def spearman(maps: Maps, others: Maps) -> Maps:
    """Return the correlations (N,) of the ranks of maps (N, *S)."""
    try:
        from scipy.stats import rankdata
    except ImportError:
        raise ImportError(_MISSING) from None
    return _pearson(*(rankdata(each.reshape(len(each), -1), axis=1) for each in (maps, others)))


def _spearman_abs(maps: Maps, others: Maps) -> Maps:
    return spearman(np.abs(maps), np.abs(others))


def _ssim(maps: Maps, others: Maps) -> Maps:
    try:
        from skimage.metrics import structural_similarity
    except ImportError:
        raise ImportError(_MISSING) from None
    side = min(7, *maps.shape[1:])
    window = side - (side + 1) % 2  # odd
    pairs = zip(_scaled(maps), _scaled(others), strict=True)
    return np.array([structural_similarity(a, b, win_size=window, data_range=2.0) for a, b in pairs])


def _hog(maps: Maps, others: Maps) -> Maps:
    from skimage.feature import hog

    cell = min(HOG_CELL, *(side // 2 for side in maps.shape[1:]))

    def features(scaled: Maps) -> Maps:
        return np.stack([hog(each, pixels_per_cell=(cell, cell), cells_per_block=(1, 1)) for each in scaled])

    return _pearson(features(_scaled(maps)), features(_scaled(others)))


def _as_array(maps: Tensor) -> Maps:
    array: Maps = maps.detach().double().cpu().numpy()
    return array


def _compared(compare: Callable[[Maps, Maps], Maps], maps: Maps, others: Maps) -> Tensor:
    """Return what a comparison gives for the pairs of maps that it is defined for, NaN for others."""
    result = np.full(len(maps), np.nan)
    both = _varies(_flat(maps)) & _varies(_flat(others))
    if both.any():
        result[both] = compare(maps[both], others[both])
    return torch.from_numpy(result)


def _varies(flat: Maps) -> npt.NDArray[np.bool_]:
    """Return where (N,) flat maps are finite and not constant."""
    return np.isfinite(flat).all(1) & (np.ptp(np.nan_to_num(flat), axis=1) > 0)


def _flat(maps: Maps) -> Maps:
    return maps.reshape(len(maps), -1)


def _scaled(maps: Maps) -> Maps:
    largest = np.abs(_flat(maps)).max(1)
    return maps / largest.reshape(-1, *[1] * (maps.ndim - 1))


def _pearson(first: Maps, second: Maps) -> Maps:
    a, b = (each - each.mean(1, keepdims=True) for each in (first, second))
    scale = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return np.divide((a * b).sum(1), scale, out=np.full(len(a), np.nan), where=scale > 0)
