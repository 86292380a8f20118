"""``fastcam activations``, ``neurons`` and ``filters``: numbers and pictures from photographs."""

import csv

import pytest

from tests.cli.command_line import SMALL, pixels, run, sentence, square

pytestmark = pytest.mark.usefixtures("one_thread")


def squares(work):
    """Squares of three colours in different places."""
    for name, box in {"red": (0, 0, 16, 16), "lime": (16, 8, 32, 24), "blue": (4, 16, 20, 32)}.items():
        square(work / "photos" / f"{name}.png", name, box=box)


def test_neurons(work):
    """The channels of the small model are the colours of the photographs."""
    squares(work)
    (work / "photos" / "zzz.png").write_bytes(b"nothing")
    done = run("neurons", "photos", *SMALL, "--layer", "0", "-k", 2, "--channels", "0-1,2", "--projection", "saliency")
    assert done.exit_code == 1, done.output
    assert "zzz.png: " in done.stderr
    assert "neurons/0.png: 3 of 3 channels" in done.stdout
    rows = list(csv.DictReader((work / "neurons" / "neurons.csv").open()))
    best = {row["channel"]: row for row in rows if row["rank"] == "0"}
    assert [best[str(channel)]["image"] for channel in range(3)] == [
        f"photos/{name}.png" for name in ("red", "lime", "blue")
    ]
    assert [best["1"][name] for name in ("row", "column", "left", "top", "right", "bottom")] == [
        "8", "16", "16", "8", "17", "9",
    ]  # fmt: skip
    assert float(best["0"]["value"]) == 1.0
    drawn = pixels(work / "neurons" / "0.png")
    for colour in ([255, 0, 0], [0, 255, 0], [0, 0, 255]):
        assert (drawn == colour).all(-1).any()


def test_activations(work):
    squares(work)
    done = run("activations", "photos", *SMALL, "--layer", "0", "--layer", "3", "--out", "pictures")
    assert done.exit_code == 0, done.output
    assert "3 images" in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if "│ 0 " in line]
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert cells[:2] == ["0", "3"]
    assert float(cells[2]) == pytest.approx(0.25 / 3, rel=1e-3)  # a quarter of each photograph, one colour of three
    assert cells[5] == "91.7%"
    assert {each.name for each in (work / "pictures").iterdir()} == {
        f"{name}.{kind}.png" for name in ("blue", "lime", "red") for kind in ("0", "stages")
    }


def test_filters(work):
    done = run("filters", "--model", "torchvision:resnet18", "--out", "f.png")
    assert done.exit_code == 0, done.output
    assert "f.png: the filters of conv1" in done.stdout
    assert pixels(work / "f.png").shape == (8 * 42 + 7 * 2, 8 * 42 + 7 * 2, 3)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["neurons", "nothing", *SMALL], "none of the pictures can be read"),
        (["neurons", "photos", *SMALL, "--channels", "a-b"], "--channels must be numbers and ranges, as 0-15,40"),
        (["neurons", "photos", *SMALL, "--projection", "x"], "--projection must be one of guided_backprop"),
        (["activations", "photos", *SMALL, "--layer", "9"], "the model has no layer named '9'"),
        (["filters", *SMALL, "--layer", "3"], "layer '3' has no filters (O, I, h, w)"),
    ],
)
def test_mistakes_are_one_sentence(work, arguments, text):
    squares(work)
    done = run(*arguments)
    assert done.exit_code == 2
    assert text in done.stderr.strip().splitlines()[-1]
    if arguments[1] != "nothing":
        assert text in sentence(done, 2)
