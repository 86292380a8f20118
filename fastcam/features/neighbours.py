"""The images of a dataset that are nearest to others: all compared, or found by an index of faiss."""

from types import ModuleType
from typing import Any

import numpy as np

from fastcam.dataset.durable_files import write_once
from fastcam.features.exact_search import BLOCK, SPARE, Metric, Neighbours, Vectors, checked, prepared, search, settled
from fastcam.features.reader import Features

MAX_EXACT = 1_000_000  # vectors, up to which an index is not worth the time to build it
_PROBES = 64  # cells of an index that are searched
_TRAINING = 64  # vectors for each cell that an index learns its cells from


def nearest(
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
    k = checked(features.vectors, queries, k, metric)
    faiss = _import_faiss() if approximate or (approximate is None and len(features) > MAX_EXACT) else None
    if approximate and faiss is None:
        raise ValueError('an approximate search needs faiss: pip install "fastcam[features]"')
    if faiss is None:
        return search(features.vectors, queries, k, metric, features.lengths)
    index = _index_of(faiss, features, metric)
    _, found = index.search(prepared(queries, metric), min(len(features), k + SPARE))
    return settled(features.vectors, queries, found.astype(np.int64), k, metric, is_exact=False)


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
