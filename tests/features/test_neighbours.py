"""Neighbours: those of a full sort in float64, whatever the blocks, ties and copies; and those of an index."""

import sys

import numpy as np
import pytest
import sklearn.datasets

import fastcam.features
from fastcam.features import exact_search, neighbours
from tests.features.made import made

pytestmark = pytest.mark.usefixtures("one_thread")


def brute(vectors, queries, k, metric):
    """By the definitions, in float64."""
    a, b = vectors.astype(np.float64), queries.astype(np.float64)
    if metric == "cosine":
        lengths = np.linalg.norm(b, axis=1)[:, None] * np.linalg.norm(a, axis=1)[None]
        with np.errstate(invalid="ignore", divide="ignore"):
            distances = 1 - np.where(lengths > 0, b @ a.T / lengths, 0)
    else:
        distances = np.sqrt(((b[:, None] - a[None]) ** 2).sum(-1))
    order = np.argsort(distances, 1, kind="stable")[:, :k]
    return order, np.take_along_axis(distances, order, 1)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(("block", "queries"), [(16_384, 1_024), (37, 3)])
def test_a_full_sort(monkeypatch, metric, dtype, block, queries):
    for name in ("BLOCK", "SMALL_BLOCK"):
        monkeypatch.setattr(exact_search, name, block)
    monkeypatch.setattr(exact_search, "QUERIES", queries)
    generator = np.random.default_rng(0)
    vectors, asked = generator.normal(size=(500, 24)).astype(dtype), generator.normal(size=(11, 24)).astype(dtype)
    found = fastcam.features.search(vectors, asked, 7, metric)
    indices, distances = brute(vectors, asked, 7, metric)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-9, atol=1e-12)
    assert found.is_exact


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_far_from_zero(metric):
    """Vectors that differ in their last digits, where the product of float32 sees none of it."""
    generator = np.random.default_rng(1)
    vectors = (1000 + generator.normal(size=(12, 8))).astype(np.float32)
    found = fastcam.features.search(vectors, vectors[:3], 12, metric)
    indices, distances = brute(vectors, vectors[:3], 12, metric)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.distances, distances, atol=1e-9)
    assert found.indices[:, 0].tolist() == [0, 1, 2]


def test_copies_zeros_and_extremes():
    vectors = np.array([[1, 0], [0, 0], [2, 0], [0, 3], [6e4, 0], [1e-7, 0]], np.float16)
    found = fastcam.features.search(vectors, np.array([[5, 0]], np.float16), 6, "cosine")
    assert found.indices[0].tolist() == [0, 2, 4, 5, 1, 3]
    np.testing.assert_allclose(found.distances[0], [0, 0, 0, 0, 1, 1], atol=1e-12)
    found = fastcam.features.search(vectors, np.array([[0, 0]], np.float16), 2, "cosine")
    assert found.indices[0].tolist() == [0, 1]
    np.testing.assert_allclose(found.distances[0], [1, 1])
    found = fastcam.features.search(vectors, np.array([[1, 1]], np.float16), 100, "euclidean")
    assert found.indices.shape == (1, 6)
    assert fastcam.features.search(vectors, np.zeros((0, 2)), 3).indices.shape == (0, 3)


def test_neighbours_of_digits():
    """The labels of real digits: 98.7 % of the nearest ones have the same label, as scikit-learn's k-NN finds."""
    digits = sklearn.datasets.load_digits()
    vectors = digits.data.astype(np.float16)
    found = fastcam.features.search(vectors, vectors, 2, "euclidean")
    other = np.where(found.indices[:, 0] == np.arange(len(vectors)), found.indices[:, 1], found.indices[:, 0])
    assert (digits.target[other] == digits.target).mean() > 0.98


def test_queries_of_the_dataset_are_not_their_own_neighbours(tmp_path):
    vectors = np.array([[1, 0], [1, 0.1], [0, 1], [1, 0]], np.float32)
    features = made(tmp_path / "f", vectors)
    queries = [fastcam.features.query_by_id(features, "0"), fastcam.features.Query("new", vectors[0])]
    found = fastcam.features.neighbours_of(features, queries, 3)
    assert found.indices.tolist() == [[3, 1, 2], [0, 3, 1]]
    few = fastcam.features.neighbours_of(features, queries[:1], 10)
    assert few.indices.tolist() == [[3, 1, 2]]
    with pytest.raises(KeyError, match="'nowhere'"):
        fastcam.features.query_by_id(features, "nowhere")


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_an_index_finds_nearly_all(tmp_path, metric):
    """Of 4,000 vectors in clusters: at least 95 % of the true neighbours, with their true distances; kept in a file."""
    generator = np.random.default_rng(2)
    centres = generator.normal(size=(40, 16)) * 3
    vectors = centres[generator.integers(0, 40, 4000)] + generator.normal(size=(4000, 16))
    features = made(tmp_path / "f", vectors)
    asked = features.vectors[:100]
    found = fastcam.features.nearest(features, asked, 10, metric, approximate=True)
    exact = fastcam.features.nearest(features, asked, 10, metric)
    assert not found.is_exact
    assert exact.is_exact
    shared = [len(set(a) & set(b)) / 10 for a, b in zip(found.indices, exact.indices, strict=True)]
    assert np.mean(shared) >= 0.95
    same = found.indices == exact.indices
    np.testing.assert_array_equal(found.distances[same], exact.distances[same])
    (file,) = (tmp_path / "f").glob("*.faiss")
    before = file.stat()
    again = fastcam.features.nearest(features, asked, 10, metric, approximate=True)
    np.testing.assert_array_equal(again.indices, found.indices)
    assert file.stat().st_mtime_ns == before.st_mtime_ns


def test_beyond_a_million_an_index_is_used_where_there_is_one(tmp_path, monkeypatch):
    features = made(tmp_path / "f", np.random.default_rng(3).normal(size=(300, 4)))
    monkeypatch.setattr(neighbours, "MAX_EXACT", 200)
    assert not fastcam.features.nearest(features, features.vectors[:2], 3).is_exact
    assert fastcam.features.nearest(features, features.vectors[:2], 3, approximate=False).is_exact
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert fastcam.features.nearest(features, features.vectors[:2], 3).is_exact
    with pytest.raises(ValueError, match=r"an approximate search needs faiss: pip install"):
        fastcam.features.nearest(features, features.vectors[:2], 3, approximate=True)


def test_mistakes():
    vectors = np.zeros((3, 4), np.float32)
    with pytest.raises(ValueError, match="`metric` must be one of cosine, euclidean, got 'manhattan'"):
        fastcam.features.search(vectors, vectors, 1, "manhattan")
    with pytest.raises(ValueError, match="`k` must be a positive whole number, got 0"):
        fastcam.features.search(vectors, vectors, 0)
    with pytest.raises(ValueError, match=r"the queries must be \(Q, 4\) like the vectors, got \(2, 3\)"):
        fastcam.features.search(vectors, np.zeros((2, 3)), 1)
