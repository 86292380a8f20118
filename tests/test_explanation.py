"""What an explanation holds, and the pictures it makes, read back from their files."""

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import fastcam
from fastcam import render
from tests.support.conv_net import conv_net, images_for, suited
from tests.support.engine_cases import METHODS

pytestmark = pytest.mark.usefixtures("one_thread")

K = [[0, 1, 2], [3, 4, 0]]


def explanation_of(native, images=None, scores=None, targets=None, **keywords):
    """An Explanation around a given native map."""
    count = len(native)
    return fastcam.Explanation(
        method="mine",
        layer="layer",
        images=torch.rand(count, 3, 8, 6) if images is None else images,
        output=None,
        scores=torch.zeros(native.shape[: native.dim() - 2]) if scores is None else scores,
        targets=targets,
        native=native,
        **keywords,
    )


def png(data):
    return np.asarray(Image.open(io.BytesIO(data)))


# --- maps -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [1, K], ids=["one", "K"])
@pytest.mark.parametrize("method", METHODS)
def test_maps_fill_zero_to_one(method, target):
    model, layer = suited(method)
    explanation = fastcam.explain(model, images_for(), method, target, layer, relu=False)
    flat = explanation.maps.flatten(-2)
    assert explanation.maps.shape == (2, *([3] if target is K else []), 12, 10)
    assert (flat >= 0).all()
    assert (flat <= 1).all()
    torch.testing.assert_close(flat.amin(-1), torch.zeros_like(flat[..., 0]), rtol=0, atol=1e-6)
    torch.testing.assert_close(flat.amax(-1), torch.ones_like(flat[..., 0]), rtol=0, atol=1e-6)
    assert explanation.status == ([["ok"] * 3] * 2 if target is K else ["ok"] * 2)


def test_the_minimum_is_exactly_zero():
    maps = explanation_of(torch.randn(50, 7, 7), torch.zeros(50, 3, 32, 32)).maps
    assert maps.flatten(1).amin(1).eq(0).all()


@pytest.mark.parametrize("target", [1, K], ids=["one", "K"])
def test_raw_and_maps_follow_from_native(target):
    explanation = fastcam.explain(conv_net(), images_for(), "layer_cam", target)
    native = explanation.native.reshape(-1, 1, 6, 5)
    raw = F.interpolate(native, size=(12, 10), mode="bilinear", align_corners=False).reshape(explanation.raw.shape)
    torch.testing.assert_close(explanation.raw, raw, rtol=1e-5, atol=1e-7)
    low, high = raw.amin((-2, -1), keepdim=True), raw.amax((-2, -1), keepdim=True)
    torch.testing.assert_close(explanation.maps, (raw - low) / (high - low), rtol=0, atol=1e-5)
    assert np.array_equal(explanation.numpy(), explanation.maps.numpy())


def test_scores_targets_and_output():
    model, images = conv_net(), images_for()
    output = model(images).detach()
    best = fastcam.explain(model, images)
    assert torch.equal(best.output, output)
    assert torch.equal(best.targets, output.argmax(1))
    assert torch.equal(best.scores, output.amax(1))
    assert best.images.data_ptr() == images.data_ptr()
    several = fastcam.explain(model, images, target=K)
    assert several.targets.tolist() == K
    assert torch.equal(several.scores, output.gather(1, torch.tensor(K)))
    assert (len(several), several.size) == (2, (12, 10))
    assert repr(several) == "Explanation(method='grad_cam', layer='relu', native=2x3x6x5, size=(12, 10))"


def test_lazy_and_cached():
    explanation = fastcam.explain(conv_net(), images_for())
    for name in ("maps", "raw", "status"):
        assert name not in vars(explanation)
        assert getattr(explanation, name) is getattr(explanation, name)
    with pytest.raises(AttributeError):
        explanation.native = None


# --- status -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("target", [1, K], ids=["one", "K"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")], ids=str)
def test_one_image_that_is_not_finite(bad, target, method):
    model, layer = suited(method)
    images = images_for(count=3)
    target = target if target == 1 else [*K, [1, 1, 2]]
    clean = fastcam.explain(model, images, method, target, layer)
    spoilt = images.clone()
    spoilt[1, 0, 4, 4] = bad
    explanation = fastcam.explain(model, spoilt, method, target, layer)
    assert explanation.status[1] == ("non-finite" if target == 1 else ["non-finite"] * 3)
    assert explanation.maps[1].isnan().all()
    for i in (0, 2):
        assert explanation.status[i] == clean.status[i]
        assert "ok" in clean.status[i]  # Ablation-CAM has no positive part for one of the targets
        torch.testing.assert_close(explanation.maps[i], clean.maps[i], rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "rise"])  # the mean of the masks is left
def test_constant_images_and_constant_maps(method):
    model, layer = suited(method)
    with torch.no_grad():
        model.features[1].weight.zero_()
        model.features[1].bias.fill_(0.5)
    explanation = fastcam.explain(model, images_for(), method, K, layer)
    assert explanation.status == [["constant map"] * 3] * 2
    assert explanation.maps.eq(0).all()


def test_status_of_every_target():
    native = torch.rand(2, 3, 4, 4)
    native[0, 1] = 0.3
    native[1, 0, 2, 2] = torch.nan
    native[1, 2, 0, 0] = -torch.inf
    scores = torch.zeros(2, 3)
    scores[0, 2] = torch.inf
    explanation = explanation_of(native, scores=scores)
    assert explanation.status == [["ok", "constant map", "non-finite"], ["non-finite", "ok", "non-finite"]]
    assert explanation.maps.isnan().flatten(2).all(-1).tolist() == [[False, False, False], [True, False, True]]
    assert explanation.maps[0, 1].eq(0).all()


# --- overlays ---------------------------------------------------------------------------------------------------------


def blended(pictures, maps, alpha=0.5):
    """Colours over pixels, by hand: (..., H, W, 3) and (..., H, W)."""
    color = render.colors("jet")[np.round(255 * np.nan_to_num(maps)).astype(int)].astype(float)
    return np.floor((1 - alpha) * pictures + alpha * color + 0.5)


PIXELS = np.random.default_rng(0).integers(0, 256, (2, 12, 10, 3)).astype(np.uint8)
AS_TENSOR = torch.from_numpy(PIXELS).movedim(-1, 1)
FORMS = {
    "uint8 tensor": AS_TENSOR,
    "float tensor": AS_TENSOR / 255,
    "float64 tensor": AS_TENSOR.double() / 255,
    "channels last": (AS_TENSOR / 255).to(memory_format=torch.channels_last),
    "requires grad": (AS_TENSOR / 255).requires_grad_(),
    "uint8 array": PIXELS,
    "float array": PIXELS / 255,
    "not contiguous": np.ascontiguousarray(PIXELS[:, ::-1])[:, ::-1],
    "PIL": [Image.fromarray(each) for each in PIXELS],
    "PIL tuple": tuple(Image.fromarray(each) for each in PIXELS),
    "PIL with alpha": [Image.fromarray(each).convert("RGBA") for each in PIXELS],
}


@pytest.mark.parametrize("target", [1, K], ids=["one", "K"])
@pytest.mark.parametrize("form", FORMS)
def test_images_to_draw_on(form, target):
    explanation = fastcam.explain(conv_net(), images_for(), target=target)
    drawn = explanation.overlay(FORMS[form], alpha=0.3)
    pictures = PIXELS if target == 1 else PIXELS[:, None]
    expected = blended(pictures, explanation.numpy(), 0.3)
    assert drawn.dtype == np.uint8
    assert drawn.shape == expected.shape
    assert np.abs(drawn - expected).max() <= 1


def test_grey_images_and_one_picture():
    explanation = fastcam.explain(conv_net(), images_for(count=1), target=1)
    grey = PIXELS[:1, :, :, :1].repeat(3, -1)
    expected = blended(grey, explanation.numpy())
    for form in (
        torch.from_numpy(grey[..., 0]).unsqueeze(1),
        [Image.fromarray(grey[0, :, :, 0])],
        Image.fromarray(grey[0]),
    ):
        assert np.abs(explanation.overlay(form) - expected).max() <= 1


def test_the_models_own_images_are_stretched():
    images = 7 * images_for() - 3
    explanation = fastcam.explain(conv_net(), images, target=1)
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    pictures = np.floor(255 * ((images - low) / (high - low)).movedim(1, -1).numpy() + 0.5)
    assert np.abs(explanation.overlay() - blended(pictures, explanation.numpy())).max() <= 1
    assert np.array_equal(explanation.overlay(alpha=0), pictures.astype(np.uint8))


def test_constant_images_can_be_drawn():
    explanation = explanation_of(torch.rand(2, 4, 3), torch.full((2, 3, 8, 6), 4.0))
    assert explanation.overlay(alpha=0).max() == 0


def test_maps_that_are_not_finite_show_the_image():
    images = images_for()
    images[1, 0, 0, 0] = torch.nan
    explanation = fastcam.explain(conv_net(), images, target=1)
    drawn = explanation.overlay(PIXELS)
    assert np.array_equal(drawn[1], PIXELS[1])
    assert np.abs(drawn[0] - blended(PIXELS, explanation.numpy())[0]).max() <= 1


COUNT = "`images` must be 2 pictures, one for each image, got 1"


@pytest.mark.parametrize(
    ("images", "error", "text"),
    [
        (PIXELS[:1], ValueError, COUNT),
        (PIXELS[0], ValueError, r"must be an array of shape \(N, H, W, 3\), got \(12, 10, 3\)"),
        (PIXELS[..., :2], ValueError, r"must be an array of shape \(N, H, W, 3\), got \(2, 12, 10, 2\)"),
        (AS_TENSOR[:1], ValueError, COUNT),
        (AS_TENSOR[:, :2], ValueError, r"\(N, 3, H, W\) or \(N, 1, H, W\) to be drawn, got \(2, 2, 12, 10\)"),
        (AS_TENSOR[0], ValueError, r"\(N, 3, H, W\) or \(N, 1, H, W\) to be drawn, got \(3, 12, 10\)"),
        (FORMS["PIL"][:1], ValueError, COUNT),
        ([], ValueError, "`images` must"),
        ("picture.png", (TypeError, ValueError), "`images` must"),
        (["a.png", "b.png"], (TypeError, ValueError), "`images` must"),
        (3, (TypeError, ValueError), "`images` must"),
    ],
)
def test_bad_images(images, error, text):
    explanation = fastcam.explain(conv_net(), images_for(), target=1)
    with pytest.raises(error, match=text):
        explanation.overlay(images)


def test_what_cannot_be_drawn():
    volume = fastcam.explain(conv_net(axes=3), images_for(3))
    signal = fastcam.explain(conv_net(axes=1), images_for(1))
    for explanation, axes in ((volume, 3), (signal, 1)):
        with pytest.raises(ValueError, match=f"`overlay` draws maps of pictures; these have {axes} spatial axes"):
            explanation.overlay()
    with pytest.raises(ValueError, match=r"to be drawn, got \(2, 5, 8, 6\); pass images="):
        explanation_of(torch.rand(2, 4, 3), torch.rand(2, 5, 8, 6)).overlay()
    ok = explanation_of(torch.rand(2, 4, 3))
    with pytest.raises(ValueError, match="`alpha` must lie in"):
        ok.overlay(alpha=1.5)
    with pytest.raises(ValueError, match="`colormap` must be"):
        ok.overlay(colormap="no such colours")


def test_notebooks_show_no_error_for_what_cannot_be_drawn():
    """`_repr_png_` returning None lets IPython fall back to the text."""
    assert explanation_of(torch.rand(2, 4, 3), torch.rand(2, 5, 8, 6))._repr_png_() is None


# --- files ------------------------------------------------------------------------------------------------------------


def test_save(tmp_path):
    one = fastcam.explain(conv_net(), images_for(count=1), target=1)
    (file,) = one.save(tmp_path / "one.png", PIXELS[:1])
    assert file == tmp_path / "one.png"
    assert np.array_equal(np.asarray(Image.open(file)), one.overlay(PIXELS[:1])[0])

    two = fastcam.explain(conv_net(), images_for(), target=1)
    files = two.save(str(tmp_path / "two"), colormap="viridis", alpha=0.7)
    assert [file.name for file in files] == ["two-0.png", "two-1.png"]
    for file, expected in zip(files, two.overlay(colormap="viridis", alpha=0.7), strict=True):
        assert np.array_equal(np.asarray(Image.open(file)), expected)

    several = fastcam.explain(conv_net(), images_for(), target=K)
    files = several.save(tmp_path / "k.bmp")
    assert [file.name for file in files] == [f"k-{n}-{k}.bmp" for n in range(2) for k in range(3)]
    for file, expected in zip(files, several.overlay().reshape(6, 12, 10, 3), strict=True):
        assert np.array_equal(np.asarray(Image.open(file)), expected)
    (file,) = one.save(tmp_path / "photograph.jpg")
    assert Image.open(file).size == (10, 12)


def test_plot():
    pytest.importorskip("matplotlib")
    model, images = conv_net(), images_for()
    several = fastcam.explain(model, images, target=K, relu=False)
    axes = several.plot(PIXELS).axes
    assert len(axes) == 6
    drawn = several.overlay(PIXELS)
    for position, (axis, index) in enumerate(zip(axes, np.ndindex(2, 3), strict=True)):
        assert np.array_equal(axis.images[0].get_array(), drawn[index]), position
        assert axis.get_title() == f"class {K[index[0]][index[1]]}: {several.scores[index]:.2f}"
    images[1] = torch.nan
    by_callable = fastcam.explain(model, images, target=lambda output: output[:, 0])
    titles = [axis.get_title() for axis in by_callable.plot(PIXELS).axes]
    assert titles == [f"{by_callable.scores[0]:.2f}", "nan (non-finite)"]


@pytest.mark.parametrize("target", [1, K], ids=["one", "K"])
def test_notebook_picture(target):
    explanation = fastcam.explain(conv_net(), images_for(), target=target)
    sheet = png(explanation._repr_png_())
    drawn = explanation.overlay().reshape(2, -1, 12, 10, 3)
    windows = np.lib.stride_tricks.sliding_window_view(sheet, (12, 10, 3)).squeeze(2)
    for picture in drawn.reshape(-1, 12, 10, 3):
        assert (windows == picture).all((-3, -2, -1)).sum() == 1


# --- fused layers -----------------------------------------------------------------------------------------------------


def test_fused_layers_have_two_sizes():
    coarse, images = ["features", "relu"], images_for()
    explanation = fastcam.explain(conv_net(), images, "layer_cam", K, coarse)
    apart = fastcam.explain(conv_net(), images, "layer_cam", K, coarse, fuse=None)
    natives = torch.stack([each.native for each in apart.values()])
    low, high = natives.amin((-2, -1), keepdim=True), natives.amax((-2, -1), keepdim=True)
    torch.testing.assert_close(explanation.native, ((natives - low) / (high - low)).mean(0), rtol=0, atol=1e-5)
    maps = torch.stack([each.maps for each in apart.values()]).mean(0)
    torch.testing.assert_close(explanation.raw, maps, rtol=0, atol=1e-5)
    assert explanation.raw is explanation.fused
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    torch.testing.assert_close(explanation.maps, (maps - low) / (high - low), rtol=0, atol=1e-4)


@pytest.mark.parametrize("fuse", ["mean", "max"])
def test_fused_layers_of_which_one_is_constant_or_not_finite(fuse):
    model, images = conv_net(), images_for(count=3)
    images[2, 0, 0, 0] = torch.nan
    with torch.no_grad():
        model.stem[1].weight.zero_()
        model.stem[1].bias.fill_(0.5)
    explanation = fastcam.explain(model, images, "eigen_cam", 1, ["stem.0", "stem.1"], fuse=fuse)
    assert explanation.status == ["ok", "ok", "non-finite"]
    single = fastcam.explain(model, images, "eigen_cam", 1, "stem.0")
    torch.testing.assert_close(explanation.maps, single.maps, rtol=0, atol=1e-5, equal_nan=True)
