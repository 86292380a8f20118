"""``fastcam explain``: what it writes and prints."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import fastcam
from fastcam.classifiers.class_choice import ClassChoice
from fastcam.cli import demo, folder_run, outputs, photographs
from tests.cli.command_line import SMALL, pixels, run, sentence, square

pytest.importorskip("efficientnet_lite_pytorch")
skimage_data = pytest.importorskip("skimage.data")

SMALL_VIT = """
import timm, torch
def build():
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", pretrained=False)
"""

FOLDER = Path(skimage_data.__file__).parent
DEMO = ("--model", "fastcam.cli.demo:efficientnet_lite0")


def test_the_overlay_on_disk_is_the_engines_and_the_table_tells_what_was_seen(work):
    shutil.copy(FOLDER / "coffee.png", work)
    done = run(
        "explain", "coffee.png", *DEMO, "--method", "grad_cam", "--method", "layer_cam", "--crop", "--out", "new/maps"
    )
    assert done.exit_code == 0, done.output
    assert sorted(each.name for each in (work / "new/maps").iterdir()) == [
        "coffee.grad_cam.png",
        "coffee.layer_cam.png",
    ]
    picture = demo.PREPROCESSING.crop(Image.open("coffee.png"))
    expected = fastcam.explain(demo.efficientnet_lite0(), demo.PREPROCESSING.tensor(picture)[None], "layer_cam")
    assert np.array_equal(pixels("new/maps/coffee.layer_cam.png"), expected.overlay([picture])[0])
    shown = f"{demo.efficientnet_lite0()(demo.PREPROCESSING.tensor(picture)[None]).softmax(1).max().item():.1%}"
    rows = [line.split("│") for line in done.stdout.splitlines() if line.startswith("│")]
    cells = [[cell.strip() for cell in row[1:-1]] for row in rows]
    assert [tuple(row) for row in cells] == [
        ("coffee.png", "espresso", shown, "grad_cam", "ok", "new/maps/coffee.grad_cam.png"),
        ("coffee.png", "espresso", shown, "layer_cam", "ok", "new/maps/coffee.layer_cam.png"),
    ]
    assert "\ncoffee.png loses 49% to the crop before the model.\n" in done.stdout
    assert done.stderr == ""  # no progress bar where there is no terminal, and no warning: the weights are trained


def test_the_heat_on_disk_is_on_the_class_that_was_asked_for(work):
    both = Image.new("RGB", (448, 448), (124, 116, 104))
    both.paste(demo.PREPROCESSING.crop(Image.open(FOLDER / "chelsea.png")), (0, 112))
    both.paste(demo.PREPROCESSING.crop(Image.open(FOLDER / "coffee.png")), (224, 112))
    both.save("both.png")
    done = run(
        "explain", "both.png", *DEMO, "--target", "Tiger Cat", "--target", 967, "--size", 448, "--shorter-side", 448,
        "--alpha", 1,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    cat, cup = (pixels(f"explanations/both.grad_cam.{index}.png") for index in (282, 967))
    assert cat.shape == (448, 448, 3)
    # With alpha 1 the overlay is the colour alone: red is hot, blue is cold.
    hot_cat, hot_cup = (each[:, :, 0] > each[:, :, 2] for each in (cat, cup))
    assert hot_cat[112:336, :224].mean() > 0.2 > 0.02 > hot_cat[112:336, 224:].mean()
    assert hot_cup[112:336, 224:].mean() > 0.2 > 0.02 > hot_cup[112:336, :224].mean()
    assert "tiger cat" in done.stdout
    assert "espresso" in done.stdout


@pytest.mark.parametrize(("color", "index", "name"), [("red", 0, "apple"), ("blue", 2, "sea")])
def test_classes_are_named_by_the_file_and_the_heat_is_on_the_square(work, color, index, name):
    square(work / "photo.png", color)
    (work / "names.txt").write_text("apple\nleaf\nsea\n")
    done = run("explain", "photo.png", *SMALL, "--classes", "names.txt", "--alpha", 1, "--method", "cam")
    assert done.exit_code == 0, done.output
    overlay = pixels("explanations/photo.cam.png")
    hottest, coldest = fastcam.render.colors("jet")[[255, 0]].tolist()
    assert overlay[4, 4].tolist() == hottest
    assert overlay[28, 28].tolist() == coldest
    assert name in done.stdout
    logits = torch.full((3,), -0.25)
    logits[index] = 0.75
    assert f"{logits.softmax(0)[index]:.1%}" in done.stdout


def test_class_names_from_a_pipe(work):
    """It can be read once."""
    square(work / "photo.png", "red")
    read, write = os.pipe()
    os.write(write, b"apple\nleaf\nsea\n")
    os.close(write)
    assert "apple" in run("explain", "photo.png", *SMALL, "--classes", f"/dev/fd/{read}").stdout
    os.close(read)


def test_alpha_and_colormap_draw_on_the_photograph(work):
    square(work / "photo.png", "red")
    assert run("explain", "photo.png", *SMALL, "--alpha", 0).exit_code == 0
    assert np.array_equal(pixels("explanations/photo.grad_cam.png"), pixels("photo.png"))
    assert run("explain", "photo.png", *SMALL, "--alpha", 1, "--colormap", "gray").exit_code == 0
    assert pixels("explanations/photo.grad_cam.png")[[4, 28], [4, 28]].tolist() == [[255] * 3, [0] * 3]


def test_folders_globs_and_files_are_found_once_and_sorted(work):
    square(work / "photos/b.png", "red")
    square(work / "photos/a/deep.JPG", "green")
    square(work / "photos/c.png", "blue")
    (work / "photos/notes.txt").write_text("no photograph")
    for arguments in (["photos"], ["photos/**/*.png", "photos"], ["photos/c.png", "photos/*.png", "photos"]):
        assert sorted(map(str, photographs.find(arguments, Path("out")))) == [
            "photos/a/deep.JPG", "photos/b.png", "photos/c.png",
        ]  # fmt: skip
    assert [path.name for path in photographs.find(["photos"], Path("out"))] == ["deep.JPG", "b.png", "c.png"]
    given_first = photographs.find(["photos/c.png", "photos"], Path("out"))
    assert [path.name for path in given_first] == ["c.png", "deep.JPG", "b.png"]
    first = run("explain", "photos", *SMALL, "--out", "photos/maps", "--batch-size", 2)
    assert first.exit_code == 0
    assert "earlier" not in first.stdout
    again = run("explain", "photos", *SMALL, "--out", "photos/maps", "--batch-size", 2)
    assert "\n3 of 3 overlays were written over earlier files in photos/maps.\n" in again.stdout
    assert again.stdout.count("\n│ photos/") == first.stdout.count("\n│ photos/") == 3  # overlays are no photographs
    assert sorted(each.name for each in (work / "photos/maps").iterdir()) == [
        "a", "b.grad_cam.png", "c.grad_cam.png",
    ]  # fmt: skip


def test_folders_and_suffixes_are_kept_apart(work):
    boxes = {"a/cat.png": (0, 0, 16, 16), "b/cat.png": (16, 16, 32, 32), "b/cat.tiff": (0, 16, 16, 32)}
    for name, box in boxes.items():
        square(work / name, "red", box=box)
    done = run("explain", "a", "b", *SMALL, "--alpha", 1)
    assert done.exit_code == 0
    hot = fastcam.render.colors("jet")[255].tolist()
    for name, (x, y) in {"a/cat": (4, 4), "b/cat.png": (28, 28), "b/cat.tiff": (4, 28)}.items():
        assert pixels(f"explanations/{name}.grad_cam.png")[y, x].tolist() == hot
    assert len([file for file in (work / "explanations").rglob("*") if file.is_file()]) == 3


def test_names_are_relative_and_unique():
    def of(*files):
        return outputs.names([Path(file) for file in files])

    assert of("x/pic.png") == ["pic"]
    assert of("x/pic.png", "x/deep/er/pic.png") == ["pic", "deep/er/pic"]
    assert of("x/pic.tiff", "x/pic.webp", "x/other.png") == ["pic.tiff", "pic.webp", "other"]
    assert of("/one/p.png", "/two/../two/p.png") == ["one/p", "two/p"]
    assert of("x/cat.png", "x/Cat.png", "x/cat.png-2.jpg") == ["cat.png", "Cat.png-3", "cat.png-2"]


def test_grey_alpha_deep_and_turned_photographs(work):
    Image.fromarray(np.full((32, 32), 128 * 257, np.uint16)).save("deep.png")
    Image.new("RGBA", (32, 32), (0, 0, 0, 0)).save("clear.png")
    Image.new("L", (32, 32), 77).save("grey.png")
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    picture = Image.new("RGB", (32, 32), "black")
    picture.paste("lime", (0, 0, 16, 16))
    picture.save("turned.png", exif=exif)
    done = run("explain", "deep.png", "clear.png", "grey.png", "turned.png", *SMALL, "--alpha", 0)
    assert done.exit_code == 0, done.output
    for name, value in {"deep": 128, "clear": 255, "grey": 77}.items():
        assert np.unique(pixels(f"explanations/{name}.grad_cam.png")).tolist() == [value]
    turned = pixels("explanations/turned.grad_cam.png")
    assert turned[28, 28].tolist() == [0, 255, 0]
    assert turned[4, 4].tolist() == [0, 0, 0]


def test_the_highest_few_are_explained_and_named(work):
    square(work / "photo.png", (200, 100, 0))
    (work / "names.txt").write_text("red\ngreen\nblue\n")
    done = run("explain", "photo.png", *SMALL, "--classes", "names.txt", "--target", "top2", "--target", "red")
    assert done.exit_code == 0
    assert sorted(each.name for each in (work / "explanations").iterdir()) == [
        "photo.grad_cam.0.png", "photo.grad_cam.1.png",
    ]  # fmt: skip
    assert "explained class" in done.stdout


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_change_what_is_seen(work, suffix):
    square(work / "photo.png", "red")
    weight = 4 * torch.eye(3)[[1, 0, 2]] - 1  # red is class 1 now
    state = {"0.weight": torch.eye(3)[:, :, None, None], "3.weight": weight, "3.bias": torch.zeros(3)}
    save_file(state, "w.safetensors")
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, "w.pth")
    assert "│ 0 " in run("explain", "photo.png", *SMALL).stdout
    assert "│ 1 " in run("explain", "photo.png", *SMALL, "--weights", f"w{suffix}").stdout


def test_random_weights_are_told(work):
    square(work / "photo.png", "red")
    done = run("explain", "photo.png", "--model", "torchvision:squeezenet1_1", "--size", 64)
    assert sentence(done, 0) == (
        "fastcam: warning: the weights are random, so the results are meaningless and others in every run; "
        "load trained ones with --weights"
    )
    assert pixels("explanations/photo.grad_cam.png").shape == (32, 32, 3)  # of the photograph


def test_the_layer_and_the_tokens_of_a_vision_transformer_are_found(work):
    square(work / "photo.png", "red")
    arguments = ("explain", "photo.png", "--model", "small_vit_of_a_test:build")
    (work / "small_vit_of_a_test.py").write_text(SMALL_VIT)
    assert run(*arguments, "--layer", "blocks.11.norm1", "--reshape", "vit", "--out", "named").exit_code == 0
    assert run(*arguments, "--out", "found").exit_code == 0
    assert np.array_equal(pixels("found/photo.grad_cam.png"), pixels("named/photo.grad_cam.png"))
    assert np.unique(pixels("found/photo.grad_cam.png")).size > 50


def test_targets_are_indices_names_and_the_highest():
    output = torch.tensor([[0.1, 3.0, 2.0], [5.0, 1.0, 4.0]])
    names = ["cat", "Dog", "dog house"]
    assert ClassChoice(("2", "dog", "top2")).indices(output, names) == [[2, 1, 1, 2], [2, 1, 0, 2]]
    assert ClassChoice(("top3",)).indices(output, names) == [[1, 2, 0], [0, 2, 1]]
    assert ClassChoice(("label", "top1")).indices(output, names, ["dog", "2"]) == [[1, 1], [2, 0]]
    assert ClassChoice(("label",)).indices(output, ["label", "dog", "cat"]) == [[0], [0]]  # a class of that name
    assert ClassChoice(("label",)).indices(output, ["big cat", "dog", "cow"], ["Big_Cat", "COW"]) == [[0], [2]]
    assert ClassChoice(("top1",)).is_highest
    assert ClassChoice(()).is_highest
    assert not ClassChoice(("top2",)).is_highest
    for text, reason in {
        "7": "target 7 must be a class index below 3",
        "top4": "target 'top4' must choose 1 to 3 classes",
        "dogg": "no class named 'dogg'; did you mean 'Dog'",
    }.items():
        with pytest.raises(ValueError, match=reason):
            ClassChoice((text,)).indices(output, names)
    with pytest.raises(ValueError, match="'crane' is the name of several classes: 0, 2; give an index"):
        ClassChoice(("crane",)).indices(output, ["crane", "dog", "Crane"])


def test_probabilities_of_logits_probabilities_and_a_single_output():
    logits = torch.tensor([[0.0, 3.0]])
    assert folder_run.probabilities(logits)[0, 1].item() == pytest.approx(0.952574, abs=1e-6)
    assert folder_run.probabilities(logits.softmax(1))[0, 1].item() == pytest.approx(0.952574, abs=1e-6)
    assert folder_run.probabilities(torch.tensor([3.0])).tolist() == [[pytest.approx(0.952574, abs=1e-6)]]
