"""Places in the plane that keep the neighbours of vectors: t-SNE."""

import importlib
from types import ModuleType
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from fastcam.features.exact_search import Metric, Vectors, prepared

Method: TypeAlias = Literal["tsne", "umap", "pca"]
Places: TypeAlias = npt.NDArray[np.float64]  # (N, 2)
MAX_BARNES_HUT = 10_000  # vectors; beyond, interpolation by FFT is faster, and openTSNE has it
_COMPONENTS = 50  # that t-SNE is made of, as by its authors
_FEWEST = 5  # vectors that have neighbours to keep


def layout(
    vectors: Vectors, method: Method = "tsne", metric: Metric = "cosine", perplexity: float = 30.0, seed: int = 0
) -> Places:
    """Return a place for every vector, so that near vectors are near each other; scaled to [0, 1] along both axes.

    t-SNE (van der Maaten and Hinton 2008) of the first 50 principal components: by Barnes-Hut (arXiv:1301.3342),
    scikit-learn's, up to 10,000 vectors; beyond by FFT (arXiv:1712.09005), openTSNE's. Distances in the plane mean
    little, and sizes of clusters nothing: only who is near whom does.

    Args:
        vectors: (N, D).
        method: "tsne", "umap" (needs umap-learn), or "pca", the first two principal components.
        metric: "cosine" or "euclidean".
        perplexity: how many neighbours count, about; less for few vectors.
        seed: of what is random.

    Raises:
        ValueError: for another method or metric, or a package that is missing.
    """
    if method not in get_args(Method):
        raise ValueError(f"`method` must be one of {', '.join(get_args(Method))}, got {method!r}")
    if metric not in get_args(Metric):
        raise ValueError(f"`metric` must be one of {', '.join(get_args(Metric))}, got {metric!r}")
    if not perplexity > 0:
        raise ValueError(f"`perplexity` must be positive, got {perplexity!r}")
    values = prepared(vectors, metric)
    if len(values) < _FEWEST or method == "pca":
        return _scaled(_components(values, 2, seed))
    components = _components(values, _COMPONENTS, seed)
    if method == "umap":
        return _scaled(_umap(components, seed))
    return _scaled(_tsne(components, min(perplexity, (len(values) - 1) / 3), seed))


def _components(values: npt.NDArray[np.float32], count: int, seed: int) -> npt.NDArray[np.float32]:
    """Return the first principal components of the vectors, as many as there are."""
    if (values == values[0]).all():
        return np.zeros((len(values), 2), np.float32)
    decomposition = _import("sklearn.decomposition")
    most = min(count, *values.shape)
    found: npt.NDArray[np.float32] = decomposition.PCA(most, random_state=seed).fit_transform(values)
    return np.pad(found, ((0, 0), (0, max(0, 2 - most))))


def _tsne(values: npt.NDArray[np.float32], perplexity: float, seed: int) -> npt.NDArray[np.floating]:
    if len(values) > MAX_BARNES_HUT:
        opened = _import("openTSNE")
        places = opened.TSNE(perplexity=perplexity, random_state=seed, n_jobs=-1).fit(values)
        return np.asarray(places)
    manifold = _import("sklearn.manifold")
    found: npt.NDArray[np.floating] = manifold.TSNE(
        perplexity=perplexity, init="pca", random_state=seed, n_jobs=-1
    ).fit_transform(values)
    return found


def _umap(values: npt.NDArray[np.float32], seed: int) -> npt.NDArray[np.floating]:
    neighbours = min(15, len(values) - 1)
    found: npt.NDArray[np.floating] = (
        _import("umap").UMAP(n_neighbors=neighbours, random_state=seed).fit_transform(values)
    )
    return found


def _import(name: str) -> ModuleType:
    packages = {"sklearn": "scikit-learn", "openTSNE": "openTSNE", "umap": "umap-learn"}
    try:
        return importlib.import_module(name)
    except ImportError:
        package = packages[name.split(".", maxsplit=1)[0]]
        raise ValueError(f"this layout needs {package}: pip install {package}") from None


def _scaled(places: npt.NDArray[np.floating]) -> Places:
    """Return places scaled to [0, 1] along both axes; 0.5 where all are equal."""
    lowest, highest = places.min(0), places.max(0)
    extent = np.where(highest > lowest, highest - lowest, 1)
    scaled: Places = np.where(highest > lowest, (places - lowest) / extent, 0.5).astype(np.float64)
    return scaled
