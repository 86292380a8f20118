"""What is drawn of maps: on photographs of any size, under signals, through volumes and videos."""

import io
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import fastcam
from fastcam import render

pytestmark = pytest.mark.usefixtures("one_thread")

RANDOM = np.random.default_rng(0)


def explanation_of(native, images, targets=None):
    """An Explanation around a given native map (N, [K,] *s) of images (N, C, *S)."""
    scores = torch.ones(native.shape[: native.dim() - images.dim() + 2])
    return fastcam.Explanation(
        method="mine", layer="layer", images=images, output=None, scores=scores, targets=targets, native=native
    )


def of_pictures(*shape):
    torch.manual_seed(0)
    return explanation_of(torch.rand(*shape, 4, 3), torch.randn(shape[0], 3, 8, 6))


def blended(pixels, maps, alpha=0.5):
    """Colours over pixels (H, W, 3) by the definition, in float64; the pixels alone where the map is NaN."""
    color = render.colors("jet")[np.round(255 * np.nan_to_num(maps)).astype(int)].astype(float)
    return np.floor(pixels + np.where(np.isnan(maps), 0, alpha)[..., None] * (color - pixels) + 0.5)


def resized(maps, size):
    """Maps (N, [K,] H, W) at another size, bilinearly in float64."""
    wide = F.interpolate(maps.double().flatten(0, -3)[:, None], size=size, mode="bilinear", align_corners=False)
    return wide.reshape(*maps.shape[:-2], *size).numpy()


# --- values -----------------------------------------------------------------------------------------------------------

PHOTOS = torch.rand(2, 3, 8, 6, generator=torch.Generator().manual_seed(0))
NORMALISED = (PHOTOS - 0.45) / 0.225
IN_8_BITS = PHOTOS * 255


@pytest.mark.parametrize("form", [lambda x: x, lambda x: x.double(), lambda x: x.movedim(1, -1).numpy()])
@pytest.mark.parametrize(
    ("images", "cause"),
    [
        (NORMALISED, "normalised images are not pictures, pass them from before the normalisation"),
        (IN_8_BITS, "pass 8-bit values as uint8, or divide them by 255"),
        (PHOTOS * 1.01, "pass 8-bit values"),
        (PHOTOS - 0.01, "normalised images"),
    ],
)
def test_values_outside_zero_to_one_are_refused(images, cause, form, tmp_path):
    explanation = of_pictures(2)
    low, high = (f"{value:.4g}" for value in (images.min().item(), images.max().item()))
    text = rf"must be uint8, or floats in \[0, 1\], got values from {low} to {high}: {cause}"
    with pytest.raises(ValueError, match=text):
        explanation.overlay(form(images))
    with pytest.raises(ValueError, match=text):
        explanation.save(tmp_path / "a.png", form(images))


def test_rounding_is_no_reason_to_refuse():
    explanation = of_pictures(2)
    beyond = PHOTOS.clone()
    beyond[0, 0, 0, 0], beyond[0, 1, 0, 0] = -9e-4, 1 + 9e-4
    assert explanation.overlay(beyond, alpha=0)[0, 0, 0, :2].tolist() == [0, 255]


def test_pil_images_of_more_than_8_bits():
    explanation = of_pictures(1)
    deep = Image.fromarray(np.full((8, 6), 1000, np.int32))
    with pytest.raises(ValueError, match="PIL images of 8 bits, got mode 'I' with values from 1000 to 1000"):
        explanation.overlay(deep)
    assert (explanation.overlay(Image.fromarray(np.full((8, 6), 200, np.int32)), alpha=0) == 200).all()


# --- sizes ------------------------------------------------------------------------------------------------------------

LARGE = RANDOM.integers(0, 256, (2, 23, 31, 3)).astype(np.uint8)
SMALL = RANDOM.integers(0, 256, (5, 4, 3)).astype(np.uint8)
AS_TENSOR = torch.from_numpy(LARGE).movedim(-1, 1)


@pytest.mark.parametrize("shape", [(2,), (2, 3)], ids=["one", "K"])
@pytest.mark.parametrize(
    "images",
    [LARGE, LARGE / 255, AS_TENSOR, AS_TENSOR / 255, [Image.fromarray(each) for each in LARGE]],
    ids=["array", "floats", "tensor", "float tensor", "PIL"],
)
def test_maps_are_resized_to_the_pictures(images, shape):
    explanation = of_pictures(*shape)
    maps = resized(explanation.maps, (23, 31))
    drawn = explanation.overlay(images)
    assert drawn.shape == (*shape, 23, 31, 3)
    for index in np.ndindex(shape):
        assert np.abs(drawn[index] - blended(LARGE[index[0]].astype(float), maps[index])).max() <= 3


def test_grey_uint8_tensors():
    drawn = of_pictures(2).overlay(AS_TENSOR[:, :1], alpha=0)
    assert np.array_equal(drawn, LARGE[..., :1].repeat(3, -1))


@pytest.mark.parametrize("shape", [(2,), (2, 3)], ids=["one", "K"])
def test_pictures_of_several_sizes(shape, tmp_path):
    explanation = of_pictures(*shape)
    photos = [Image.fromarray(LARGE[0]), Image.fromarray(SMALL)]
    drawn = explanation.overlay(photos)
    assert isinstance(drawn, list)
    for n, pixels in enumerate((LARGE[0], SMALL)):
        maps = resized(explanation.maps[n : n + 1], pixels.shape[:2])[0]
        expected = blended(np.broadcast_to(pixels, (*maps.shape, 3)).astype(float), maps)
        assert drawn[n].shape == expected.shape
        assert np.abs(drawn[n] - expected).max() <= 3
    files = explanation.save(tmp_path / "maps.png", photos)
    saved = [np.asarray(Image.open(file)) for file in files]
    several = [each for array in drawn for each in (array if len(shape) == 2 else [array])]
    assert all(np.array_equal(one, other) for one, other in zip(saved, several, strict=True))
    pytest.importorskip("matplotlib")
    plotted = [axes.images[0].get_array() for axes in explanation.plot(photos).axes]
    assert all(np.array_equal(one, other) for one, other in zip(plotted, several, strict=True))


def test_one_photograph_of_its_own_size():
    drawn = of_pictures(1).overlay(Image.fromarray(SMALL), alpha=0)
    assert np.array_equal(drawn, SMALL[None])


# --- names of classes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [["cat", "dog", "owl"], {0: "cat", 2: "owl"}], ids=["sequence", "mapping"])
def test_titles_name_the_classes(names):
    pytest.importorskip("matplotlib")
    native = torch.rand(2, 2, 4, 3)
    native[1, 1] = 0.5
    explanation = explanation_of(native, torch.rand(2, 3, 8, 6), torch.tensor([[0, 2], [7, 2]]))
    expected = ["cat: 1.00", "owl: 1.00", "class 7: 1.00", "owl: 1.00 (same everywhere)"]
    for figure in (explanation.plot(class_names=names), explanation.with_class_names(names).plot()):
        assert [axes.get_title() for axes in figure.axes] == expected
    assert explanation.plot().axes[0].get_title() == "class 0: 1.00"
    for bad in ("cat", 3):
        with pytest.raises(TypeError, match="`class_names` must be a sequence or a mapping from index to name"):
            explanation.plot(class_names=bad)


def test_notebooks_name_the_classes(monkeypatch):
    explanation = explanation_of(torch.rand(2, 4, 3), torch.rand(2, 3, 8, 6), torch.tensor([1, 0]))
    titles = []
    sheet = render.contact_sheet
    monkeypatch.setattr(
        render, "contact_sheet", lambda rows, beside, above: titles.append(beside) or sheet(rows, beside, above)
    )
    explanation._repr_png_()
    explanation.with_class_names(["cat", "dog"])._repr_png_()
    assert titles == [["class 1: 1.00", "class 0: 1.00"], ["dog: 1.00", "cat: 1.00"]]


# --- signals ----------------------------------------------------------------------------------------------------------


def of_signals(*shape):
    torch.manual_seed(0)
    return explanation_of(torch.rand(*shape, 5), torch.randn(shape[0], 2, 16), torch.zeros(shape, dtype=torch.long))


@pytest.mark.parametrize("shape", [(2,), (2, 3)], ids=["one", "K"])
def test_signals_are_curves_above_their_map(shape):
    pytest.importorskip("matplotlib")
    explanation = of_signals(*shape)
    axes = explanation.plot(class_names=["beat"]).axes
    assert len(axes) == 2 * explanation.scores.numel()
    for panel, index in enumerate(np.ndindex(shape)):
        curves, strip = axes[2 * panel : 2 * panel + 2]
        for line, channel in zip(curves.lines, explanation.images[index[0]], strict=True):
            assert np.array_equal(line.get_xdata(), np.arange(16))
            assert np.array_equal(line.get_ydata(), channel.numpy())
        assert curves.get_title() == "beat: 1.00"
        colours = render.colors("jet")[np.round(255 * explanation.numpy()[index]).astype(int)]
        assert np.abs(strip.images[0].get_array()[0].astype(int) - colours).max() <= 4
        assert strip.images[0].get_extent() == [-0.5, 15.5, 0, 1]
        assert strip.get_xlim() == curves.get_xlim()


def test_signals_of_another_length_and_maps_that_are_not_finite():
    pytest.importorskip("matplotlib")
    explanation = of_signals(2)
    explanation.native[1, 0] = torch.nan
    recorded = RANDOM.normal(size=(2, 1, 40))
    first, strip, second, blank = explanation.plot(recorded).axes
    maps = F.interpolate(explanation.maps[:1, None].double(), size=40, mode="linear")[0, 0].numpy()
    colours = render.colors("jet")[np.round(255 * maps).astype(int)].astype(int)
    assert np.abs(strip.images[0].get_array()[0] - colours).max() <= 4
    np.testing.assert_allclose(first.lines[0].get_ydata(), recorded[0, 0], rtol=1e-6)
    np.testing.assert_allclose(second.lines[0].get_ydata(), recorded[1, 0], rtol=1e-6)
    assert (blank.images[0].get_array() == 255).all()


def test_files_and_notebooks_of_signals(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    explanation = of_signals(2)
    files = explanation.save(tmp_path / "beats.svg", class_names=["beat"])
    assert [file.name for file in files] == ["beats-0.svg", "beats-1.svg"]
    assert all("<svg" in file.read_text() for file in files)
    assert Image.open(io.BytesIO(explanation._repr_png_())).size == (800, 480)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert explanation._repr_png_() is None
    with pytest.raises(ImportError, match=r"signals need matplotlib \(pip install fastcam\[plot\]\)"):
        explanation.save(tmp_path / "beats.png")


@pytest.mark.parametrize(
    ("images", "error", "text"),
    [
        (torch.rand(1, 2, 16), ValueError, r"must have shape \(2, C, L\), got \(1, 2, 16\)"),
        (np.zeros((2, 16)), ValueError, r"must have shape \(2, C, L\), got \(2, 16\)"),
        ([1, 2], TypeError, r"signals must be a tensor or an array \(N, C, L\), got list"),
    ],
)
def test_bad_signals(images, error, text):
    with pytest.raises(error, match=text):
        of_signals(2).plot(images)
