"""``fastcam evaluate``: from the command line to numbers, on images and on stored maps."""

import json

import pytest

from fastcam import evaluate
from fastcam.cli.evaluate import MEASURES
from tests.cli.command_line import SMALL, run, sentence, square

pytestmark = pytest.mark.usefixtures("one_thread")


def photographs(work):
    """Squares of three colours, each box given but for the last."""
    lines = ["image_id,left,top,right,bottom"]
    for index, (color, box) in enumerate(
        {"red": (0, 0, 16, 16), "lime": (16, 8, 32, 24), "blue": (4, 16, 20, 32)}.items()
    ):
        square(work / "photos" / f"{color}.png", color, box=box)
        if index < 2:
            lines.append(f"{color}.png," + ",".join(map(str, box)))
    (work / "boxes.csv").write_text("\n".join(lines) + "\n")


def test_the_command_line_knows_the_registry_without_loading_it():
    assert list(MEASURES) == [each.name for each in evaluate.list_measures()]


def test_the_measures_are_listed():
    lines = run("measures").output
    for each in evaluate.list_measures():
        assert each.name in lines
        assert each.formula[:40] in lines


def test_images_are_explained_and_measured(work):
    photographs(work)
    arguments = ["evaluate", "photos", *SMALL, "--layer", "0", "--boxes", "boxes.csv", "--out", "scores"]
    arguments += ["--measure", "box_iou,pointing_game", "--measure", "deletion", "--measure-option", "deletion.steps=4"]
    done = run(*arguments, "--measure-option", "pointing_game.tolerance=0")
    assert done.exit_code == 0, done.output
    lines = {line.split()[0]: line.split() for line in done.output.splitlines()}
    assert lines["box_iou"][3] == "1.0000"
    assert lines["pointing_game"][3] == "1.0000"
    assert lines["box_iou"][-3:] == ["2", "1", "higher"]
    assert lines["deletion"][-3:] == ["3", "0", "lower"]
    again = run(*arguments, "--measure-option", "pointing_game.tolerance=0", "--json-log")
    assert again.exit_code == 0
    assert again.stdout == ""
    report = run("evaluate", "--report", "scores")
    assert report.exit_code == 0, report.output
    assert "report in scores/report.html" in report.output
    assert "box_iou" in (work / "scores" / "report.html").read_text()
    other = run(*arguments)
    assert "holds the results of another run" in sentence(other, 2)


def test_stored_maps_are_measured(work):
    photographs(work)
    assert run("map", "photos", *SMALL, "--layer", "0", "--out", "maps").exit_code == 0
    done = run("evaluate", "maps", "--measure", "box_iou", "--boxes", "boxes.csv", "--out", "scores", "--json-log")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[-1])["rows"] == 3
    assert "1.0000" in run("evaluate", "--report", "scores").output


def test_images_without_a_map_are_code_1(work):
    photographs(work)
    (work / "photos" / "broken.png").write_bytes(b"nothing")
    done = run("evaluate", "photos", *SMALL, "--layer", "0", "--measure", "complexity", "--out", "scores")
    assert done.exit_code == 1
    assert "4 images in scores: 1 without a map" in done.output


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["photos", *SMALL, "--out", "x"], "--measure is missing: one or several of sparseness"),
        (["photos", *SMALL, "--measure", "insertions", "--out", "x"], "--measure must be one of"),
        (["photos", *SMALL, "--measure", "insertion"], "--out is missing: a folder for the values"),
        (["photos", "--measure", "insertion", "--out", "x"], "--model is missing: 'photos' holds no maps"),
        (["photos", *SMALL, "--measure", "box_iou", "--out", "x"], "box_iou compares maps with objects"),
        (["photos", *SMALL, "--measure", "box_iou", "--boxes", "a", "--masks", "b", "--out", "x"], "give one of them"),
        (["photos", *SMALL, "--measure", "box_iou", "--boxes", "none.csv", "--out", "x"], "annotations are a folder"),
        (["photos", *SMALL, "--measure", "deletion", "--measure-option", "steps=4", "--out", "x"],
         "as deletion.steps=50"),
        (["photos", *SMALL, "--measure", "deletion", "--measure-option", "deletion.step=4", "--out", "x"],
         "the measure deletion has no option 'step'; known: steps, baseline, normalize"),
        (["nothing", "--report"], "'nothing' holds no values: there is no run.json"),
        (["maps", "--report"], "'maps' holds maps, but no measured values"),
        (["maps", *SMALL, "--measure", "complexity", "--out", "x"], "holds maps already: leave out --model"),
        (["maps", "--measure", "complexity", "--limit", 2, "--out", "x"], "--limit says how maps are made: 'maps'"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence(work, arguments, text):
    photographs(work)
    if arguments[0] == "maps":
        assert run("map", "photos", *SMALL, "--layer", "0", "--out", "maps").exit_code == 0
    assert text in sentence(run("evaluate", *arguments), 2)
    assert not (work / "x").exists()
