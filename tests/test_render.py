"""Colours, blending and contact sheets; the compiled loops beside NumPy."""

import numpy as np
import pytest
from PIL import Image

from fastcam import render
from fastcam._extension import host

RANDOM = np.random.default_rng(0)
NAN, INF = np.nan, np.inf


@pytest.fixture(params=["compiled", "numpy"])
def _backend(request, monkeypatch):
    """Once as built, once without the compiled loops."""
    if request.param == "numpy":
        monkeypatch.setattr(render, "_load_compiled", lambda: None)
    elif host() is None:
        pytest.skip("the compiled part is not built")


def test_jet_at_known_points():
    colors = render.colors("jet")
    assert colors.shape == (256, 3)
    assert colors.dtype == np.uint8
    assert colors[0].tolist() == [0, 0, 128]
    assert colors[255].tolist() == [128, 0, 0]
    for point, color in ((1, [0, 0, 255]), (3, [0, 255, 255]), (5, [255, 255, 0]), (7, [255, 0, 0])):
        assert np.abs(colors[round(255 * point / 8)].astype(int) - color).max() <= 4
    assert np.abs(colors[::-1, ::-1].astype(int) - colors).max() <= 1  # blue to red is red to blue backwards


def test_colors_of_matplotlib():
    matplotlib = pytest.importorskip("matplotlib")
    expected = matplotlib.colormaps["viridis"](np.arange(256), bytes=True)[:, :3].astype(int)
    assert np.abs(render.colors("viridis") - expected).max() <= 1
    with pytest.raises(ValueError, match="'jet' or a name known to matplotlib, got 'nope'"):
        render.colors("nope")


def test_without_matplotlib_there_is_jet(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    render.colors.cache_clear()
    with pytest.raises(ValueError, match=r"colormap 'magma' needs matplotlib \(pip install fastcam\[plot\]\)"):
        render.colors("magma")
    assert len(render.colors("jet")) == 256


@pytest.mark.usefixtures("_backend")
def test_to_uint8():
    maps = np.array([[0.0, 1.0, 0.2, 0.6], [-1.0, 2.0, 1e-3, 0.999], [NAN, INF, -INF, 1 / 255]], np.float32)
    assert render.to_uint8(maps).tolist() == [[0, 255, 51, 153], [0, 255, 0, 255], [0, 255, 0, 1]]
    every = np.arange(256, dtype=np.float32) / 255
    assert np.array_equal(render.to_uint8(every), np.arange(256))


@pytest.mark.usefixtures("_backend")
def test_overlay_by_hand():
    image = np.array([[[100, 200, 0], [255, 255, 255], [10, 20, 30], [0, 0, 0]]], np.uint8)
    maps = np.array([[0.0, 1.0, NAN, 0.5]], np.float32)
    drawn = render.overlay(image, maps, alpha=0.5)[0]
    assert drawn[0].tolist() == [50, 100, 64]  # half of (0, 0, 128)
    assert drawn[1].tolist() == [192, 128, 128]  # half of (128, 0, 0): 191.5 and 127.5 rounded up
    assert drawn[2].tolist() == [10, 20, 30]
    assert np.abs(drawn[3].astype(int) - [64, 128, 63]).max() <= 1
    assert np.array_equal(render.overlay(image, maps, alpha=0), image)
    whole = render.overlay(image, maps, alpha=1)[0]
    assert [pixel.tolist() for pixel in whole[[0, 1, 2]]] == [[0, 0, 128], [128, 0, 0], [10, 20, 30]]
    quarter = render.overlay(image, maps, alpha=0.25)[0]
    assert quarter[0].tolist() == [75, 150, 32]


@pytest.mark.skipif(host() is None, reason="the compiled part is not built")
@pytest.mark.parametrize("alpha", [0, 0.3, 0.5, 1])
@pytest.mark.parametrize("shape", [(7, 5), (3, 7, 5), (2, 3, 7, 5), (0, 7, 5), (1, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_compiled_is_numpy(dtype, shape, alpha, monkeypatch):
    images = RANDOM.integers(0, 256, (*shape, 3)).astype(np.uint8)
    maps = RANDOM.random(shape).astype(dtype)
    maps.reshape(-1)[::11] = np.nan
    compiled = render.overlay(images, maps, alpha=alpha), render.to_uint8(maps)
    monkeypatch.setattr(render, "_load_compiled", lambda: None)
    plain = render.overlay(images, maps, alpha=alpha), render.to_uint8(maps)
    for one, other in zip(compiled, plain, strict=True):
        assert one.dtype == other.dtype == np.uint8
        assert one.shape == other.shape
        assert np.abs(one.astype(int) - other).max(initial=0) <= 1


@pytest.mark.usefixtures("_backend")
def test_half_precision_is_that_of_its_values():
    maps = RANDOM.random((20, 20)).astype(np.float16)
    images = np.zeros((20, 20, 3), np.uint8)
    assert np.array_equal(render.to_uint8(maps), render.to_uint8(maps.astype(np.float32)))
    assert np.array_equal(render.overlay(images, maps), render.overlay(images, maps.astype(np.float32)))


@pytest.mark.usefixtures("_backend")
def test_inputs_that_are_not_contiguous():
    images = RANDOM.integers(0, 256, (2, 8, 6, 3)).astype(np.uint8)
    maps = RANDOM.random((2, 8, 6)).astype(np.float32)
    cases = [
        (images[:, ::2, ::-1], maps[:, ::2, ::-1]),
        (images.transpose(0, 2, 1, 3), maps.transpose(0, 2, 1)),
        (images[..., ::-1], np.asfortranarray(maps)),
        (np.broadcast_to(images[0], images.shape), np.broadcast_to(maps[0], maps.shape)),
    ]
    for picture, saliency in cases:
        expected = render.overlay(np.ascontiguousarray(picture), np.ascontiguousarray(saliency))
        assert np.array_equal(render.overlay(picture, saliency), expected)
        assert np.array_equal(render.to_uint8(saliency), render.to_uint8(np.ascontiguousarray(saliency)))


@pytest.mark.usefixtures("_backend")
def test_inputs_stay():
    images = RANDOM.integers(0, 256, (4, 4, 3)).astype(np.uint8)
    maps = RANDOM.random((4, 4)).astype(np.float32)
    before = images.copy(), maps.copy()
    render.overlay(images, maps)
    render.to_uint8(maps)
    assert np.array_equal(images, before[0])
    assert np.array_equal(maps, before[1])


@pytest.mark.usefixtures("_backend")
@pytest.mark.parametrize(
    ("images", "maps", "alpha", "text"),
    [
        ((4, 4, 3), (4, 5), 0.5, r"`images` must have shape \(4, 5, 3\) for maps \(4, 5\), got \(4, 4, 3\)"),
        ((4, 4), (4, 4), 0.5, r"must have shape \(4, 4, 3\)"),
        ((2, 4, 4, 3), (4, 4), 0.5, r"must have shape \(4, 4, 3\)"),
        ((4, 4, 3), (4, 4), 1.1, r"`alpha` must lie in \[0, 1\], got 1.1"),
        ((4, 4, 3), (4, 4), -0.1, "`alpha` must lie"),
        ((4, 4, 3), (4, 4), NAN, "`alpha` must lie"),
    ],
)
def test_bad_overlays(images, maps, alpha, text):
    with pytest.raises(ValueError, match=text):
        render.overlay(np.zeros(images, np.uint8), np.zeros(maps, np.float32), alpha=alpha)


@pytest.mark.skipif(host() is None, reason="the compiled part is not built")
def test_the_compiled_part_checks_for_itself():
    image, maps, colors = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.float32), render.colors("jet")
    compiled = host()
    for bad in (image[:3], image[..., :2], image[None], image[..., 0], np.zeros((), np.uint8)):
        with pytest.raises(ValueError, match=r"`image` must have shape \(..., H, W, 3\) for a map"):
            compiled.overlay(bad, maps, colors, 0.5)
    for bad in (colors[:255], colors[:, :2], colors.reshape(-1)):
        with pytest.raises(ValueError, match=r"`colors` must have shape \(256, 3\), got"):
            compiled.overlay(image, maps, bad, 0.5)
    for bad in (-0.1, 1.1, NAN):
        with pytest.raises(ValueError, match=r"`alpha` must lie in \[0, 1\]"):
            compiled.overlay(image, maps, colors, bad)
    for bad in ("text", None, image):
        with pytest.raises((TypeError, ValueError)):
            compiled.overlay(image, bad, colors, 0.5)


def test_contact_sheet():
    pictures = RANDOM.integers(0, 256, (2, 3, 20, 30, 3)).astype(np.uint8)
    rows = [list(row) for row in pictures]
    image = render.contact_sheet(rows, ["one", "two\nlines"], ["a", "b", "c"])
    assert isinstance(image, Image.Image)
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(image), (20, 30, 3)).squeeze(2)
    corners = [np.argwhere((windows == picture).all((-3, -2, -1))) for row in rows for picture in row]
    assert [len(found) for found in corners] == [1] * 6
    tops, lefts = np.concatenate(corners).T.reshape(2, 2, 3)
    assert (tops[:, :1] == tops).all()
    assert tops[1, 0] >= tops[0, 0] + 20
    assert (lefts[:1] == lefts).all()
    assert (np.diff(lefts) >= 30).all()
    drawn = (np.asarray(image) != 255).any(-1)
    assert drawn[: tops[0, 0]].any()  # titles of the columns
    assert drawn[:, : lefts[0, 0]].any()  # and of the rows
