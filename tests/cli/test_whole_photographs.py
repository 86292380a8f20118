"""Overlays over whole photographs: the crop at its place, captions and the contact sheet."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import fastcam
from fastcam.classifiers import Preprocessing
from fastcam.cli.sheet import SIDE
from fastcam.pictures.captions import captioned
from fastcam.pictures.placement import place
from tests.cli.command_line import SMALL, pixels, run, square

RANDOM = np.random.default_rng(0)


def test_a_box_is_the_crop_in_the_photographs_own_pixels():
    preprocessing = Preprocessing(256, (224, 224))
    assert preprocessing.box((256, 256)) == (16, 16, 240, 240)
    assert preprocessing.box((1024, 512)) == (288, 32, 736, 480)  # twice the size: 144, 16, 368, 240 after resizing
    assert preprocessing.share_cropped((1024, 512)) == pytest.approx(1 - 448 * 448 / (1024 * 512))
    assert Preprocessing(224, keep_aspect=False).box((100, 400)) == (0, 0, 100, 400)


@pytest.mark.parametrize("size", [(64, 48), (150, 301), (7, 5)])
def test_a_map_of_the_whole_picture_is_resized_as_torch_does(size):
    maps = RANDOM.random((2, 9, 12))
    expected = F.interpolate(torch.from_numpy(maps)[None], size, mode="bilinear", align_corners=False)[0]
    found = place(maps, (0, 0, size[1], size[0]), size)
    assert np.abs(found - expected.numpy()).max() < 1e-6


def test_a_map_lies_in_its_box_alone():
    maps = RANDOM.random((4, 6))
    placed = place(maps, (3, 2, 9, 6), (10, 20))
    assert np.abs(placed[2:6, 3:9] - maps).max() < 1e-6
    placed[2:6, 3:9] = np.nan
    assert np.isnan(placed).all()


@pytest.mark.parametrize("start", [1.25, 1.75])
def test_a_box_may_begin_within_a_pixel(start):
    across = place(np.arange(4.0)[None], (start, 0, start + 8, 1), (1, 12))[0]  # two pixels a cell
    centres = np.arange(12) + 0.5
    by_hand = np.clip((centres - start) / 2 - 0.5, 0, 3)
    by_hand[(centres < start) | (centres > start + 8)] = np.nan
    np.testing.assert_allclose(across, by_hand, atol=1e-6)


def test_the_heat_is_where_the_square_is_in_the_photograph_and_the_rest_is_unchanged(work):
    square(work / "wide.png", "red", (256, 64), (112, 16, 128, 32))
    done = run("explain", "wide.png", *SMALL, "--alpha", 1, "--sheet", "sheets/all.png")
    assert done.exit_code == 0, done.output
    assert "wide.png loses 75% to the crop before the model." in done.stdout
    overlay, photograph = pixels("explanations/wide.grad_cam.png"), pixels("wide.png")
    hottest, coldest = fastcam.render.colors("jet")[[255, 0]].tolist()
    assert overlay.shape == photograph.shape
    assert np.array_equal(overlay[:, :96], photograph[:, :96])
    assert np.array_equal(overlay[:, 160:], photograph[:, 160:])
    hot = (overlay == hottest).all(-1)
    assert hot[18:30, 114:126].all()
    hot[15:33, 111:129] = False
    assert not hot.any()
    assert overlay[50, 150].tolist() == coldest
    assert pixels_equal_somewhere(pixels("sheets/all.png"), overlay)


def pixels_equal_somewhere(sheet, overlay):
    """Whether the last column of a sheet of one row is the overlay, as small as its cell."""
    small = np.asarray(Image.fromarray(overlay.astype(np.uint8)).resize((SIDE, 56), Image.Resampling.LANCZOS))
    column = sheet[:, -6 - SIDE : -6]
    return any(np.array_equal(column[top : top + 56], small) for top in range(len(column) - 56))


def test_the_sheet_has_a_row_for_every_photograph_and_class(work):
    for index in range(3):
        square(work / f"in/{index}.png", "red")
    assert run("explain", "in", *SMALL, "--target", "top2", "--method", "cam", "--method", "grad_cam",
               "--sheet", "all.png").exit_code == 0  # fmt: skip
    top = max(24, SIDE // 8)
    assert Image.open("all.png").height == top + 6 * (SIDE + 6)
    assert Image.open("all.png").width > 3 * (SIDE + 6)


def test_the_sheet_of_an_earlier_run_is_no_photograph(work):
    square(work / "in/photo.png", "red")
    arguments = ("explain", "in", *SMALL, "--sheet", "in/sheet.png")
    assert run(*arguments).exit_code == run(*arguments).exit_code == 0
    assert [file.name for file in (work / "explanations").iterdir()] == ["photo.grad_cam.png"]


def test_a_caption_is_below_the_unchanged_picture_with_the_whole_scale(work):
    picture = RANDOM.integers(0, 256, (120, 200, 3)).astype(np.uint8)
    drawn = captioned(picture, "a long name of a class that is nowhere near short enough to fit  12.3%", "jet")
    assert np.array_equal(drawn[:120], picture)
    assert drawn.shape[1] == 200
    scale = drawn[-6 - 6]
    assert any((scale == color).all(-1).any() for color in [fastcam.render.colors("jet")[0]])
    assert (scale == fastcam.render.colors("jet")[255]).all(-1).any()
    assert (drawn[120:, [0, 199]] == 255).all()  # text and scale keep to their margins
    square(work / "photo.png", "red")
    assert run("explain", "photo.png", *SMALL, "--caption").exit_code == 0
    assert run("explain", "photo.png", *SMALL, "--out", "plain").exit_code == 0
    assert np.array_equal(pixels("explanations/photo.grad_cam.png")[:32], pixels("plain/photo.grad_cam.png"))
    assert len(pixels("explanations/photo.grad_cam.png")) > 32
