"""What the console says of a map that shows nothing."""

import pytest

from fastcam.cli.console import status_text
from tests.cli.command_line import SMALL, run, square


def cells(done):
    rows = [line.split("│") for line in done.stdout.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in row[1:-1]] for row in rows]


@pytest.mark.parametrize(
    ("status", "cause", "text"),
    [
        ("ok", "", "ok"),
        ("non-finite", "non-finite", "non-finite"),
        ("constant map", "all negative", "constant map (all negative)"),
        ("constant map", "", "constant map"),
    ],
)
def test_the_text(status, cause, text):
    assert status_text(status, cause) == text


def test_explain_says_why(work):
    square(work / "black.png", (0, 0, 0))
    square(work / "red.png", (255, 0, 0))
    done = run("explain", "black.png", "red.png", *SMALL, "--method", "grad_cam", "--target", "0", "--target", "1")
    assert done.exit_code == 0, done.output
    said = [(row[0], row[3], row[4]) for row in cells(done)]
    assert said == [
        ("black.png", "0", "constant map (no gradient)"),
        ("black.png", "1", "constant map (no gradient)"),
        ("red.png", "0", "ok"),
        ("red.png", "1", "constant map (all negative)"),
    ]
