"""``fastcam detect``: boxes, classes and maps of detectors, on photographs of their own size."""

import csv

import numpy as np
import pytest
import torch

from fastcam.pictures.boxes import draw_boxes
from tests.cli.command_line import pixels, run, sentence, square

pytestmark = pytest.mark.usefixtures("one_thread")

# A detector of coloured squares: a box around what is brighter than a half of each colour, with its mean as confidence.
MODEL = """
import torch
from torch import nn
class Squares(nn.Module):
    def __init__(self, shares=False):
        super().__init__()
        self.body = nn.Conv2d(3, 3, 1, bias=False)
        self.body.weight.data = torch.eye(3)[:, :, None, None]
        self.class_names = ("red", "lime", "blue")
    def forward(self, images):
        found = []
        for maps in torch.stack(list(self.body(torch.stack(list(images))))):
            boxes, scores, labels = [], [], []
            for label, map_ in enumerate(maps):
                seen = (map_.detach() > 0.5).nonzero()
                if len(seen):
                    (top, left), (bottom, right) = seen.amin(0).tolist(), (seen.amax(0) + 1).tolist()
                    boxes.append([float(left), float(top), float(right), float(bottom)])
                    scores.append(map_[top:bottom, left:right].mean() * (0.9 - 0.1 * label))
                    labels.append(label)
            none = maps.sum() * torch.zeros(0)
            found.append({
                "boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels, dtype=torch.int64),
                "scores": torch.stack(scores) if scores else none,
            })
        return found
class Shares(Squares):
    def forward(self, images):
        from types import SimpleNamespace
        height, width = images.shape[2:]
        found = super().forward(images)
        scores = [each["scores"].sum() for each in found]
        logits = torch.stack([torch.stack([score * 9, score * 0 - 9])[None] for score in scores])
        box = found[0]["boxes"][0] / torch.tensor([width, height, width, height])
        middle = torch.cat([(box[:2] + box[2:]) / 2, box[2:] - box[:2]])
        return SimpleNamespace(logits=logits, pred_boxes=middle[None, None])
def build():
    return Squares().eval()
def shares():
    return Shares().eval()
"""
SQUARES = ("--model", "squares_of_a_test:build")


@pytest.fixture
def squares(work):
    (work / "squares_of_a_test.py").write_text(MODEL)
    photo = square(work / "photos" / "one.png", "red", size=(60, 40), box=(10, 5, 30, 25))
    picture = np.array(pixels(photo), np.uint8)
    picture[20:35, 40:55] = (0, 0, 255)
    from PIL import Image

    Image.fromarray(picture).save(photo)
    square(work / "photos" / "two.png", "lime", size=(30, 50), box=(3, 30, 20, 45))
    square(work / "photos" / "none.png", "black", size=(30, 50))
    return work


def rows(work, folder="detections"):
    return list(csv.DictReader((work / folder / "detections.csv").open()))


def test_every_detection_has_its_picture(squares):
    done = run("detect", "photos", *SQUARES, "--method", "hires_cam", "--layer", "body")
    assert done.exit_code == 0, done.output
    assert done.stderr.strip() == "fastcam: photos/none.png: nothing was detected above 0.5"
    found = rows(squares)
    assert found[0]["file"] == "detections/one.1.hires_cam.png"
    assert None not in found[0]
    assert [(row["photograph"], row["detection"], row["class"]) for row in found] == [
        ("photos/one.png", "1", "red"),
        ("photos/one.png", "2", "blue"),
        ("photos/two.png", "1", "lime"),
    ]
    boxes = [[float(row[name]) for name in ("left", "top", "right", "bottom")] for row in found]
    assert boxes == [[10, 5, 30, 25], [40, 20, 55, 35], [3, 30, 20, 45]]
    assert float(found[0]["confidence"]) == pytest.approx(0.9, abs=1e-5)
    assert [row["status"] for row in found] == ["ok"] * 3
    assert "90.0%" in done.stdout
    names = {each.name for each in (squares / "detections").iterdir()}
    assert names == {
        "detections.csv", "one.png", "two.png", "none.png", "one.1.hires_cam.png", "one.2.hires_cam.png",
        "two.1.hires_cam.png",
    }  # fmt: skip
    first = pixels(squares / "detections" / "one.1.hires_cam.png")
    assert first.shape == (40, 60, 3)  # the photograph's own size
    assert first[20, 20, 0] > first[30, 48, 0]  # the map of the first is on the red square, not on the blue one
    second = pixels(squares / "detections" / "one.2.hires_cam.png")
    assert second[30, 48, 0] > second[24, 20, 0] - 60
    assert not (first == second).all()


def test_chosen_classes_and_numbers(squares):
    done = run("detect", "photos/one.png", *SQUARES, "--label", "Blue", "--method", "saliency", "--out", "d")
    assert [row["class"] for row in rows(squares, "d")] == ["blue"], done.output
    run("detect", "photos/one.png", *SQUARES, "--label", "0", "--method", "saliency", "--out", "d2")
    assert [row["class"] for row in rows(squares, "d2")] == ["red"]
    run("detect", "photos/one.png", *SQUARES, "--most", 1, "--method", "saliency", "--out", "d3")
    assert len(rows(squares, "d3")) == 1
    run("detect", "photos/one.png", *SQUARES, "--above", 0.85, "--method", "saliency", "--out", "d4")
    assert len(rows(squares, "d4")) == 1
    told = sentence(run("detect", "photos", *SQUARES, "--label", "yellow"), 2)
    assert told == "fastcam: --label 'yellow' is no class of the detector; it has red, lime, blue"


def test_boxes_of_another_size_and_as_shares(squares):
    """Twice the size and back; and a detector whose boxes are shares of the image."""
    run("detect", "photos/two.png", *SQUARES, "--method", "saliency", "--size", 100, 60, "--out", "d")
    (row,) = rows(squares, "d")
    found = [float(row[name]) for name in ("left", "top", "right", "bottom")]
    assert found == pytest.approx([3, 30, 20, 45], abs=1)
    run("detect", "photos/two.png", "--model", "squares_of_a_test:shares", "--method", "saliency", "--out", "d2")
    (row,) = rows(squares, "d2")
    found = [float(row[name]) for name in ("left", "top", "right", "bottom")]
    assert found == pytest.approx([3, 30, 20, 45], abs=1e-3)
    assert row["class"] == "red"  # the first class of its two


def test_d_rise(squares):
    arguments = ("--method", "rise", "--following", "similarity", "--option", "masks=60", "--option", "grid=5")
    done = run("detect", "photos/one.png", *SQUARES, *arguments)
    assert done.exit_code == 0, done.output
    assert [row["method"] for row in rows(squares)] == ["rise", "rise"]
    assert [row["status"] for row in rows(squares)] == ["ok", "ok"]


def test_a_broken_photograph_does_not_stop_the_others(squares):
    (squares / "photos" / "aaa.png").write_bytes(b"nothing")
    done = run("detect", "photos", *SQUARES, "--method", "saliency")
    assert done.exit_code == 1
    assert "photos/aaa.png: " in done.stderr
    assert len(rows(squares)) == 3


def test_torchvision_by_name(squares):
    """With its random weights, of which a warning tells, and COCO's names."""
    done = run(
        "detect",
        "photos/one.png",
        "--model",
        "torchvision:ssdlite320_mobilenet_v3_large",
        "--above",
        0.001,
        "--most",
        2,
    )
    assert done.exit_code == 0, done.output
    assert "the weights are random" in done.stderr
    found = rows(squares)
    assert len(found) == 2
    assert not found[0]["class"].isdecimal()


def test_mistakes(squares):
    assert sentence(run("detect", "nowhere", *SQUARES), 2) == "fastcam: nowhere: there is no such file"
    assert "`method` must be" not in sentence(run("detect", "photos", *SQUARES, "--method", "gradcam"), 2)
    assert "--above" in run("detect", "photos", *SQUARES, "--above", 2).stderr
    (squares / "file").write_text("")
    assert "--out must be a folder" in sentence(run("detect", "photos", *SQUARES, "--out", "file"), 2)


def test_a_classifier_is_no_detector(squares):
    done = run("detect", "photos/one.png", "--model", "torchvision:resnet18", "--method", "saliency")
    assert done.exit_code == 2
    assert "detections are read from" in done.stderr


def test_drawn_boxes():
    picture = np.zeros((60, 80, 3), np.uint8)
    drawn = draw_boxes(picture, [[10, 20, 50, 40], [-5, -5, 500, 500]], ["", "text"], ["#ff0000", "#00ff00"])
    assert (drawn[20, 30] == [255, 0, 0]).all()
    assert (drawn[30, 10] == [255, 0, 0]).all()
    assert (drawn[30, 30] == 0).all()
    assert (drawn[59, 40] == [0, 255, 0]).all()
    assert (drawn[:20] > 200).all(-1).any()  # white letters
    pale = draw_boxes(picture, [[0, 0, 79, 59]], ["text"], ["#ffffff"])[2:14, 2:40]
    assert (pale < 60).all(-1).any()  # black letters on white
    assert (pale > 200).all(-1).any()
    assert picture.max() == 0
    assert draw_boxes(picture, torch.zeros(0, 4), []).max() == 0
    with pytest.raises(ValueError, match="do not belong together"):
        draw_boxes(picture, [[0, 0, 1, 1]], [])
