"""The nearest vectors to others, by comparing all of them: matrix products of blocks, settled in float64."""

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Vectors: TypeAlias = npt.NDArray[np.floating]
Metric: TypeAlias = Literal["cosine", "euclidean"]
BLOCK = 8_192  # vectors of a matrix product with many queries
SMALL_BLOCK = 2_048  # with few, where reading the vectors is the work: what a cache holds
FEW = 32  # queries
QUERIES = 1_024  # of a matrix product
SPARE = 8  # candidates beyond k, whose order is settled in float64


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


def search(
    vectors: Vectors,
    queries: Vectors,
    k: int,
    metric: Metric = "cosine",
    lengths: npt.NDArray[np.float32] | None = None,
) -> Neighbours:
    """Return the k nearest vectors to each query, by comparing it with all of them.

    Matrix products of blocks in float32 find k + 8 candidates, whose distances and order are those of float64; equally
    near ones are in the order of the vectors. Beyond the vectors themselves this takes a block of 8,192 vectors in
    float32 and its products with 1,024 queries at most, 32 KB times D and 32 MB, whatever the number of vectors is.

    Args:
        vectors: (N, D).
        queries: (Q, D).
        k: neighbours of each; N if that is less.
        metric: "cosine" or "euclidean".
        lengths: (N,), of :func:`lengths_of`, where they are known from another search.

    Raises:
        ValueError: for another metric, a k below 1, or queries of another length.
    """
    k = checked(vectors, queries, k, metric)
    lengths = lengths_of(vectors) if lengths is None else lengths
    parts = [
        _of_queries(vectors, lengths, queries[start : start + QUERIES], k, metric)
        for start in range(0, len(queries), QUERIES)
    ]
    if not parts:
        return Neighbours(np.zeros((0, k), np.int64), np.zeros((0, k)))
    return Neighbours(
        np.concatenate([part.indices for part in parts]), np.concatenate([part.distances for part in parts])
    )


def lengths_of(vectors: Vectors) -> npt.NDArray[np.float32]:
    """Return the Euclidean lengths (N,) of vectors."""
    found = np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), SMALL_BLOCK):
        block = _as_tensor(vectors[start : start + SMALL_BLOCK])
        exact = torch.float32 if vectors.dtype == np.float16 else torch.float64  # squares do not overflow
        found[start : start + SMALL_BLOCK] = torch.linalg.vector_norm(block, dim=1, dtype=exact).numpy()
    return found


def _of_queries(
    vectors: Vectors, lengths: npt.NDArray[np.float32], queries: Vectors, k: int, metric: Metric
) -> Neighbours:
    asked = torch.from_numpy(prepared(queries, metric))
    count = min(len(vectors), k + SPARE)
    best: tuple[Tensor, Tensor] | None = None
    step = BLOCK if len(queries) > FEW else SMALL_BLOCK
    for start in range(0, len(vectors), step):
        block, length = _as_tensor(vectors[start : start + step]), torch.from_numpy(lengths[start : start + step])
        nearness = asked @ block.T
        if metric == "cosine":
            nearness /= length.masked_fill(length == 0, 1)
        else:
            nearness -= 0.5 * length.square()  # minus half the squared distance, but for the query's own length
        values, places = nearness.topk(min(count, len(block)), dim=1)
        places += start
        if best is not None:
            values, places = torch.cat([best[0], values], 1), torch.cat([best[1], places], 1)
            values, order = values.topk(min(count, values.shape[1]), dim=1)
            places = places.gather(1, order)
        best = values, places
    assert best is not None
    return settled(vectors, queries, best[1].numpy(), k, metric, is_exact=True)


def _as_tensor(vectors: Vectors) -> Tensor:
    """Return vectors in float32; torch converts them faster than NumPy."""
    return torch.from_numpy(np.ascontiguousarray(vectors)).float()


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


def checked(vectors: Vectors, queries: Vectors, k: int, metric: Metric) -> int:
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


def settled(
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
