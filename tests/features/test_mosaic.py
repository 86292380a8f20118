"""Layouts keep neighbours, every cell shows the picture nearest to it, and seams tell the true distance."""

import io
import sys

import numpy as np
import pytest
import sklearn.datasets
from PIL import Image
from sklearn.manifold import trustworthiness

import fastcam.features
from fastcam.dataset import Limits
from fastcam.features import layouts
from fastcam.features.mosaic import distances, far
from fastcam.features.thumbnails import Thumbnails, thumbnail
from tests.dataset.small import PREPROCESSING, folder, network
from tests.features.made import made

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def digits():
    return sklearn.datasets.load_digits(n_class=10).data[:600].astype(np.float16)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_neighbours_are_kept(digits, metric):
    """Trustworthiness of at least 0.9 on real digits; the first two components alone do not reach it."""
    places = fastcam.features.layout(digits, metric=metric)
    assert trustworthiness(digits.astype(np.float64), places, n_neighbors=7, metric=metric) >= 0.9
    assert places.min(0).tolist() == [0, 0]
    assert places.max(0).tolist() == [1, 1]
    np.testing.assert_array_equal(fastcam.features.layout(digits, metric=metric), places)
    flat = fastcam.features.layout(digits, "pca", metric)
    assert trustworthiness(digits.astype(np.float64), flat, n_neighbors=7, metric=metric) < 0.9


def test_many_vectors_are_laid_out_by_another_package(digits, monkeypatch):
    monkeypatch.setattr(layouts, "MAX_BARNES_HUT", 100)
    places = fastcam.features.layout(digits)
    assert trustworthiness(digits.astype(np.float64), places, n_neighbors=7, metric="cosine") >= 0.9
    monkeypatch.setitem(sys.modules, "openTSNE", None)
    with pytest.raises(ValueError, match="this layout needs openTSNE: pip install openTSNE"):
        fastcam.features.layout(digits)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 8])
def test_few_vectors(count):
    vectors = np.random.default_rng(count).normal(size=(count, 3)).astype(np.float16)
    places = fastcam.features.layout(vectors)
    assert places.shape == (count, 2)
    assert np.isfinite(places).all()
    assert ((places >= 0) & (places <= 1)).all()


def test_equal_vectors_lie_in_the_middle():
    assert fastcam.features.layout(np.ones((4, 3), np.float16)).tolist() == [[0.5, 0.5]] * 4


def test_every_cell_shows_the_nearest_picture():
    places = np.random.default_rng(0).random((50, 2))
    cells = fastcam.features.cells_of(places, 12, 7)
    assert cells.shape == (7, 12)
    for row in range(7):
        for column in range(12):
            middle = np.array([(column + 0.5) / 12, (row + 0.5) / 7])
            away = (((places - middle) * [12, 7]) ** 2).sum(1)
            assert cells[row, column] == away.argmin()


def solid(side, color):
    return np.full((side, side, 3), color, np.uint8)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_seams_tell_the_true_distance(metric):
    generator = np.random.default_rng(4)
    vectors = generator.normal(size=(30, 5)).astype(np.float32)
    vectors[1] = vectors[0] * 1.0
    cells = np.array([[0, 0, 1], [2, 3, 4], [5, 6, 7]])
    pictures = {image: solid(8, 10 * image) for image in range(8)}
    picture = np.asarray(fastcam.features.filled_grid(cells, pictures, vectors, metric, seam=2)).astype(int)
    assert picture.shape == (3 * 10 + 2, 3 * 10 + 2, 3)
    for row in range(3):
        for column in range(3):
            cell = picture[2 + 10 * row : 10 + 10 * row, 2 + 10 * column : 10 + 10 * column]
            assert (cell == 10 * cells[row, column]).all()
    scale, exact = far(vectors, metric), vectors.astype(np.float64)

    def red(a, b):
        if metric == "cosine":
            distance = 1 - exact[a] @ exact[b] / np.linalg.norm(exact[a]) / np.linalg.norm(exact[b])
        else:
            distance = np.linalg.norm(exact[a] - exact[b])
        return 255 * min(1, distance / scale)

    assert picture[5, 10:12].tolist() == [[0, 0, 0]] * 2  # the same image
    assert picture[5, 20:22].tolist() == [[0, 0, 0]] * 2  # its copy
    assert picture[15, 10, 0] == pytest.approx(red(2, 3), abs=1)
    assert picture[15, 20, 0] == pytest.approx(red(3, 4), abs=1)
    assert picture[10, 5, 0] == pytest.approx(red(0, 2), abs=1)
    assert picture[11, 25, 0] == pytest.approx(red(1, 4), abs=1)
    assert picture[20, 5, 0] == pytest.approx(red(2, 5), abs=1)
    assert picture[21, 25, 0] == pytest.approx(red(4, 7), abs=1)
    assert (picture[..., 1][picture[..., 0] > picture[..., 1]] == 0).all()
    bare = np.asarray(fastcam.features.filled_grid(cells, pictures, vectors, metric, seam=0))
    assert bare.shape == (24, 24, 3)


def test_what_is_far():
    """The median distance of pairs: half of all pairs are nearer."""
    vectors = np.random.default_rng(5).normal(size=(400, 6)).astype(np.float32)
    first, second = np.triu_indices(400, 1)
    for metric in ("cosine", "euclidean"):
        exact = np.median(distances(vectors, first, second, metric))
        assert far(vectors, metric) == pytest.approx(exact, rel=0.03)
    assert far(np.ones((3, 2), np.float32), "euclidean") == 1.0


def test_scatter_and_legend():
    places = np.array([[0, 0], [1, 1], [0.5, 0.5]])
    pictures = {image: solid(16, 200) for image in range(3)}
    legend = fastcam.features.colors_of_names(["cat", "dog", ""])
    assert (legend.colors[2] == 150).all()
    assert list(legend.names) == ["cat", "dog"]
    picture = np.asarray(fastcam.features.scatter(places, pictures, 100, 80, legend))
    assert (picture[8, 8] == 200).all()
    assert (picture[0, 0] == legend.colors[0]).all()
    assert (picture[79, 99] == legend.colors[1]).all()
    assert (picture[40, 50] == 200).all()
    assert (picture[2, 50] == 255).all()
    assert picture.shape[0] > 80  # the legend below
    plain = np.asarray(fastcam.features.scatter(places, pictures, 100, 80))
    assert plain.shape == (80, 100, 3)


def test_colours():
    names = [f"class {index}" for index in range(60)] + ["class 7"]
    legend = fastcam.features.colors_of_names(names)
    assert len(np.unique(legend.colors, axis=0)) >= 55
    assert len(legend.names) == 40
    assert next(iter(legend.names)) == "class 7"
    scores = fastcam.features.colors_of_scores([0.0, 1.0, float("nan"), 0.5])
    assert scores.colors[2].tolist() == [150] * 3
    assert list(scores.names) == ["0", "1"]
    assert scores.colors[0].tolist() == list(scores.names["0"])
    assert fastcam.features.colors_of_scores([float("nan")]).names == {}
    assert fastcam.features.colors_of_scores([2.0, 2.0]).colors[0].tolist() == scores.colors[0].tolist()


def test_thumbnails_of_files_and_of_a_source(tmp_path):
    source = folder(tmp_path / "in", 6)
    fastcam.features.run(source, network(), tmp_path / "out", preprocessing=PREPROCESSING)
    features = fastcam.features.open(tmp_path / "out")
    seen = []
    pictures = Thumbnails(features, side=24)([3, 1, 3], seen.append)
    assert list(pictures) == [3, 1]
    assert seen == [1, 2]
    for place, picture in pictures.items():
        expected = Image.open(source / features.ids[place]).convert("RGB")
        square = min(expected.size)
        left, top = (expected.width - square) // 2, (expected.height - square) // 2
        exact = expected.crop((left, top, left + square, top + square)).resize((24, 24), Image.Resampling.BICUBIC)
        assert np.abs(picture.astype(int) - np.asarray(exact)).mean() < 3
    again = Thumbnails(features, source, side=24)([1])
    np.testing.assert_array_equal(again[1], pictures[1])
    with pytest.raises(ValueError, match=r"the source has no image 'cats/001\.jpg'"):
        Thumbnails(features, folder(tmp_path / "other", 1))([1])
    (source / features.ids[2]).unlink()
    with pytest.raises(ValueError, match="cannot be read at its path"):
        Thumbnails(features)([2])


def test_a_thumbnail_is_upright_and_within_the_limits():
    picture = Image.new("RGB", (400, 200), "red")
    picture.paste("blue", (0, 0, 200, 200))
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    picture.save(buffer, "JPEG", exif=exif, quality=95)
    small = np.asarray(thumbnail(buffer.getvalue(), 20, Limits())).astype(int)
    assert small.shape == (20, 20, 3)
    assert small[2, 10, 2] > 200  # blue above red
    assert small[17, 10, 0] > 200
    with pytest.raises(ValueError, match="pixels"):
        thumbnail(buffer.getvalue(), 20, Limits(pixels=1000))
    with pytest.raises(ValueError, match=r"picture|image"):
        thumbnail(b"nothing", 20, Limits())


def test_samples_that_are_no_files_have_no_pictures(tmp_path):
    features = made(tmp_path / "f", np.eye(3))
    with pytest.raises(ValueError, match="cannot be read at its path"):
        Thumbnails(features)([0])


@pytest.mark.parametrize(
    ("options", "word"),
    [({"method": "som"}, "method"), ({"metric": "l1"}, "metric"), ({"perplexity": 0}, "perplexity")],
)
def test_mistakes(digits, options, word):
    with pytest.raises(ValueError, match=f"`{word}` must be"):
        fastcam.features.layout(digits, **options)
