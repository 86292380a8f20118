"""The images whose feature vectors are nearest to others': exact by block matrix products, or by an index of faiss."""

from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastcam.dataset.durable_files import write_once
from fastcam.features.reader import Features, Vectors

Metric: TypeAlias = Literal["cosine", "euclidean"]
MAX_EXACT = 1_000_000  # vectors, up to which an index is not worth the time to build it
BLOCK = 16_384  # vectors of a matrix product
QUERIES = 1_024  # of a matrix product
SPARE = 8  # candidates beyond k, whose order is settled in float64
_PROBES = 64  # cells of an index that are searched
_TRAINING = 64  # vectors for each cell that an index learns its cells from


@dataclass(frozen=True)
class Neighbours:
    """The k nearest of N vectors to each of Q, the nearest first.

    Attributes:
        indices: (Q, k) int64.
        distances: (Q, k) float64: Euclidean, or one minus the cosine; that of a vector of zeros to others is 1.
        is_exact: whether none was missed.
    """

    indices: npt.NDArray[np.int64]
    distances: npt.NDArray[np.float64]
    is_exact: bool = True


def search(vectors: Vectors, queries: Vectors, k: int, metric: Metric = "cosine") -> Neighbours:
    """Return the k nearest vectors to each query, by comparing it with all of them.

    Matrix products of blocks in float32 find k + 8 candidates, whose distances and order are those of float64; equally
    near ones are in the order of the vectors. Beyond the vectors themselves this takes a block of 16,384 vectors and a
    matrix of 1,024 x 16,384 products, 64 MB + 64 KB times D, whatever their number is.

    Args:
        vectors: (N, D).
        queries: (Q, D).
        k: neighbours of each; N if that is less.
        metric: "cosine" or "euclidean".

    Raises:
        ValueError: for another metric, a k below 1, or queries of another length.
    """
    k = _checked(vectors, queries, k, metric)
    parts = [
        _of_queries(vectors, queries[start : start + QUERIES], k, metric) for start in range(0, len(queries), QUERIES)
    ]
    if not parts:
        return Neighbours(np.zeros((0, k), np.int64), np.zeros((0, k)))
    return Neighbours(np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts]))


def of_features(
    features: Features, queries: Vectors, k: int, metric: Metric = "cosine", approximate: bool | None = None
) -> Neighbours:
    """Return the k nearest images of a dataset to each query.

    Args:
        features: of the dataset.
        queries: (Q, D).
        k: neighbours of each.
        metric: "cosine" or "euclidean".
        approximate: search an index of faiss, built once and kept beside the features; None does that beyond a million
            images if faiss is installed.

    Raises:
        ValueError: as :func:`search`, and for an index without faiss.
    """
    k = _checked(features.vectors, queries, k, metric)
    faiss = _import_faiss() if approximate or (approximate is None and len(features) > MAX_EXACT) else None
    if approximate and faiss is None:
        raise ValueError('an approximate search needs faiss: pip install "fastcam[features]"')
    if faiss is None:
        return search(features.vectors, queries, k, metric)
    index = _index_of(faiss, features, metric)
    _, found = index.search(prepared(queries, metric), min(len(features), k + SPARE))
    return _settled(features.vectors, queries, found.astype(np.int64), k, metric, is_exact=False)


def _checked(vectors: Vectors, queries: Vectors, k: int, metric: Metric) -> int:
    """Return the number of neighbours that there can be.

    Raises:
        ValueError: as :func:`search`.
    """
    if metric not in get_args(Metric):
        raise ValueError(f"`metric` must be one of {', '.join(get_args(Metric))}, got {metric!r}")
    if k < 1:
        raise ValueError(f"`k` must be a positive whole number, got {k!r}")
    if queries.ndim != 2 or queries.shape[1] != vectors.shape[1]:
        raise ValueError(f"the queries must be (Q, {vectors.shape[1]}) like the vectors, got {queries.shape}")
    return min(k, len(vectors))


def _of_queries(
    vectors: Vectors, queries: Vectors, k: int, metric: Metric
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    asked = torch.from_numpy(prepared(queries, metric))
    count = min(len(vectors), k + SPARE)
    best: tuple[Tensor, Tensor] | None = None
    for start in range(0, len(vectors), BLOCK):
        block = torch.from_numpy(prepared(vectors[start : start + BLOCK], metric))
        nearness = asked @ block.T
        if metric == "euclidean":
            nearness -= 0.5 * block.square().sum(1)  # half the squared distance, but for the query's own length
        values, places = nearness.topk(min(count, len(block)), dim=1)
        places += start
        if best is not None:
            values, places = torch.cat([best[0], values], 1), torch.cat([best[1], places], 1)
            values, order = values.topk(min(count, values.shape[1]), dim=1)
            places = places.gather(1, order)
        best = values, places
    assert best is not None
    found = _settled(vectors, queries, best[1].numpy(), k, metric, is_exact=True)
    return found.indices, found.distances


def prepared(vectors: Vectors, metric: Metric) -> npt.NDArray[np.float32]:
    """Return vectors as they are multiplied: for the cosine of length 1."""
    values = np.ascontiguousarray(vectors, np.float32)
    return _unit(values) if metric == "cosine" else values


def _unit(values: Vectors) -> Vectors:
    largest = np.abs(values).max(-1, keepdims=True, initial=0)
    scaled = values / np.where(largest > 0, largest, 1)  # squares neither overflow nor vanish
    length = np.linalg.norm(scaled, axis=-1, keepdims=True)
    unit: Vectors = scaled / np.where(length > 0, length, 1)
    return unit


def _settled(
    vectors: Vectors, queries: Vectors, candidates: npt.NDArray[np.int64], k: int, metric: Metric, is_exact: bool
) -> Neighbours:
    """Return the k nearest of the candidates (Q, m), by their distances in float64; -1 is no candidate."""
    indices = np.empty((len(queries), k), np.int64)
    distances = np.empty((len(queries), k), np.float64)
    for row, (query, found) in enumerate(zip(queries, candidates, strict=True)):
        near = np.sort(found[found >= 0])
        if len(near) < k:  # an index may return fewer
            near = np.union1d(near, np.arange(min(len(vectors), k)))
        values, one = vectors[near].astype(np.float64), query.astype(np.float64)
        exact = 1 - _unit(values) @ _unit(one) if metric == "cosine" else np.linalg.norm(values - one, axis=1)
        order = np.argsort(exact, kind="stable")[:k]
        indices[row], distances[row] = near[order], exact[order]
    return Neighbours(indices, distances, is_exact)


def _import_faiss() -> ModuleType | None:
    try:
        import faiss
    except ImportError:
        return None
    return faiss


def _index_of(faiss: ModuleType, features: Features, metric: Metric) -> Any:
    """Return the index of the vectors, from its file if there is one."""
    file = features.folder / f"neighbours-{metric}-{_digest(features)}.faiss"
    if file.exists():
        index = faiss.read_index(str(file))
    else:
        index = _build(faiss, features.vectors, metric)
        write_once(file, faiss.serialize_index(index).tobytes())
    faiss.extract_index_ivf(index).nprobe = _PROBES
    return index


def _digest(features: Features) -> str:
    """Return what tells an index of these vectors from those of a run that went on since."""
    return f"{features.run[:16]}-{len(features)}"


def _build(faiss: ModuleType, vectors: Vectors, metric: Metric) -> Any:
    """Return an index of cells around learned centres, with half precision inside."""
    cells = max(1, min(round(4 * len(vectors) ** 0.5), len(vectors) // _TRAINING))
    measure = faiss.METRIC_INNER_PRODUCT if metric == "cosine" else faiss.METRIC_L2
    index = faiss.index_factory(vectors.shape[1], f"IVF{cells},SQfp16", measure)
    chosen = np.random.default_rng(0).permutation(len(vectors))[: _TRAINING * cells]
    index.train(prepared(vectors[np.sort(chosen)], metric))
    for start in range(0, len(vectors), BLOCK):
        index.add(prepared(vectors[start : start + BLOCK], metric))
    return index
