"""``fastcam explain`` on bad images and bad usage: one sentence each, and exit codes that mean something."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.cli.command_line import SMALL, pixels, run, sentence, square


def test_bad_images_get_a_sentence_each_and_the_rest_goes_on(work):
    square(work / "in/good.png", "green")
    Image.effect_noise((64, 64), 50).save(work / "whole.png")
    (work / "in/cut.png").write_bytes((work / "whole.png").read_bytes()[:900])
    (work / "in/[odd].jpg").write_text("no picture")
    done = run("explain", "in", "missing.png", "nothing*.png", *SMALL)
    assert done.exit_code == 1
    assert sorted(done.stderr.splitlines()) == sorted(
        [
            "fastcam: in/[odd].jpg: this is not a picture in a format that Pillow reads",
            next(
                line for line in done.stderr.splitlines() if line.startswith("fastcam: in/cut.png: this picture cannot")
            ),
            "fastcam: missing.png: there is no such file",
            "fastcam: nothing*.png: there is no such file",
        ]
    )
    assert [each.name for each in (work / "explanations").iterdir()] == ["good.grad_cam.png"]
    assert "in/good.png" in done.stdout


def test_an_empty_folder_is_a_failure(work):
    (work / "empty").mkdir()
    assert sentence(run("explain", "missing.png", *SMALL), 2) == "fastcam: missing.png: there is no such file"
    assert sentence(run("explain", "empty", *SMALL), 2) == "fastcam: no pictures were found"


def test_a_map_that_is_not_finite_is_a_failure_and_shows_the_photograph(work):
    square(work / "photo.png", "red")
    done = run("explain", "photo.png", "--model", "small_model_of_a_test:poisoned")
    assert done.exit_code == 1
    assert "non-finite" in done.stdout
    assert np.array_equal(pixels("explanations/photo.grad_cam.png"), pixels("photo.png"))


def test_a_constant_map_is_told_and_no_failure(work):
    Image.new("RGB", (32, 32), "red").save("plain.png")
    done = run("explain", "plain.png", *SMALL)
    assert done.exit_code == 0
    assert "constant map" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--method", "gradcam"], "--method must be one of cam, .*; got 'gradcam'"),
        (["--layer", "layer9"], "the model has no layer named 'layer9'"),
        (["--target", "9"], "target 9 must be a class index below 3"),
        (["--weights", "none.pth"], "there is no weights file 'none.pth'"),
        (["--weights", "other.safetensors"], "do not fit the model: missing 0.weight, 3.weight, 3.bias; unexpected fc"),
        (["--classes", "two.txt"], "the model has 3 outputs, but 2 class names were given"),
        (["--classes", "none.txt"], "the file of class names 'none.txt' cannot be read as text"),
        (["--colormap", "rainbows"], "--colormap must be 'jet' or a name known to matplotlib, got 'rainbows'"),
        (["--device", "warp"], "device 'warp' cannot be used"),
        (["--shorter-side", "8"], "--shorter-side must be at least as large as the crop, got 8 for a crop of 32 x 32"),
        (["--method", "gmp_cam"], "global max pooling and one linear layer follow target layer '0'"),
        (["--out", "two.txt"], "--out must be a folder, got 'two.txt': 'two.txt' is a file"),
        (["--out", "two.txt/maps"], "--out must be a folder, got 'two.txt/maps': '.*two.txt' is a file"),
        (["--out", "/proc/maps_of_a_test"], "--out '/proc/maps_of_a_test' cannot be "),
        (["--sheet", "sheet.txt"], "--sheet must be a .png file, got 'sheet.txt'"),
        (["--sheet", "two.txt/sheet.png"], "the folder of --sheet must be a folder, got 'two.txt'"),
        (["--model", "resnet50"], "got 'resnet50': write torchvision:resnet50 or timm:resnet50$"),
        (["--model", "whole.pth"], r"'whole.pth' holds weights or a pickled module, .* save model.state_dict\(\)"),
    ],
)
def test_mistakes_are_one_sentence_and_code_2(work, arguments, reason):
    square(work / "photo.png", "red")
    (work / "two.txt").write_text("cat\ndog\n")
    save_file({"fc": torch.zeros(1)}, "other.safetensors")
    told = sentence(run("explain", "photo.png", *SMALL, *arguments), 2)
    assert told.startswith("fastcam: ")
    assert re.search(reason, told), told
    assert not (work / "explanations").exists() or not any((work / "explanations").iterdir())


@pytest.mark.parametrize(
    "arguments", [["explain"], ["explain", "x.png"], ["explain", "x.png", *SMALL, "--alpha", "2"], ["explode"]]
)
def test_wrong_usage_is_code_2(work, arguments):
    done = run(*arguments)
    assert done.exit_code == 2
    assert "Traceback" not in done.stderr


def test_help_documents_the_exit_codes():
    text = " ".join(run("explain", "--help").stdout.split())
    assert "0 all fine; 1 some images could not be read" in text
    assert "2 bad usage or nothing to do" in text


def test_large_pictures_are_not_decoded(work):
    square(work / "photos" / "large.png", "red", size=(40, 50))
    square(work / "photos" / "small.png", "red", size=(40, 40))
    done = run("explain", "photos", *SMALL, "--max-megapixels", 0.0019)
    assert done.exit_code == 1
    assert "large.png: this picture cannot be read: the picture has 2,000 pixels, more than 1,900" in done.stderr
    assert [file.name for file in (work / "explanations").iterdir()] == ["small.grad_cam.png"]


def test_a_broken_link_in_a_folder_is_told(work):
    square(work / "photos" / "here.png", "red")
    (work / "photos" / "gone.png").symlink_to(work / "nowhere.png")
    (work / "photos" / "notes.txt").symlink_to(work / "nowhere.txt")
    assert sentence(run("explain", "photos", *SMALL), 1) == "fastcam: photos/gone.png: there is no such file"
