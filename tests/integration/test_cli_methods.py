"""``fastcam explain`` with methods that try copies: their options, what is scored, how far they are."""

import io
import re

import numpy as np
import pytest
from rich.console import Console

import fastcam
from fastcam import cli, targets
from tests.integration.command_line import SMALL, pixels, run, sentence, square


@pytest.fixture
def photo(work):
    """A square in the middle, so that a window or a mask may hide a part of it."""
    return square(work / "photo.png", (200, 90, 30), box=(10, 12, 22, 20))


def expected(photo, method, target=None, **options):
    """What the engine draws of the photograph."""
    from small_model_of_a_test import build

    model = build().eval()
    picture = fastcam.pictures.read_photograph(photo)
    image = model.preprocessing.tensor(picture)[None]
    return fastcam.explain(model, image, method, target, **options).overlay([picture])[0]


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("occlusion", {"window": 6, "stride": 3, "baseline": "blur"}),
        ("rise", {"masks": 40, "grid": 4, "probability": 0.25}),
        ("smooth_grad", {"inner": "input_x_gradient", "samples": 3, "level": 0.3, "kind": "square"}),
        ("integrated_gradients", {"steps": 4, "quadrature": "trapezoid", "baseline": "noise", "seed": 7}),
    ],
)
def test_options_reach_the_method_as_numbers_or_text(photo, method, options):
    given = [each for name, value in options.items() for each in ("--option", f"{name}={value}")]
    done = run("explain", photo, *SMALL, "--method", method, *given)
    assert done.exit_code == 0, done.output
    drawn = pixels(f"explanations/photo.{method}.png")
    assert np.array_equal(drawn, expected(photo, method, **options))
    assert not np.array_equal(drawn, expected(photo, method))


def test_every_method_takes_the_options_that_are_its_own(photo):
    done = run(
        "explain", photo, *SMALL, "--method", "grad_cam", "--method", "rise", "--method", "occlusion",
        "--option", "masks=20", "--option", "window=8",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert np.array_equal(pixels("explanations/photo.grad_cam.png"), expected(photo, "grad_cam"))
    assert np.array_equal(pixels("explanations/photo.rise.png"), expected(photo, "rise", masks=20))
    assert np.array_equal(pixels("explanations/photo.occlusion.png"), expected(photo, "occlusion", window=8))


@pytest.mark.parametrize(
    ("score", "target"),
    [("logit", targets.Logit), ("probability", targets.Probability), ("log-probability", targets.LogProbability)],
)
def test_the_score_is_explained_of_the_highest_and_of_a_given_class(photo, score, target):
    arguments = ("explain", photo, *SMALL, "--method", "rise", "--option", "masks=30", "--score", score)
    for classes, file in [((), "photo.rise"), (("--target", "blue", "--target", 0), "photo.rise.2")]:
        done = run(*arguments, *classes, "--classes", "names.txt") if classes else run(*arguments)
        assert done.exit_code == 0, done.output
        wanted = target([2]) if classes else target()
        assert np.array_equal(pixels(f"explanations/{file}.png"), expected(photo, "rise", wanted, masks=30))


@pytest.fixture(autouse=True)
def names(work):
    (work / "names.txt").write_text("red\ngreen\nblue\n")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--option", "window"], "--option must be NAME=VALUE, got 'window'"),
        (["--option", "=3"], "occlusion has no option ''; known: baseline, seed, stride, window"),
        (["--option", "masks=10"], "occlusion has no option 'masks'; known: baseline, seed, stride, window"),
        (["--option", "progress=1"], "occlusion has no option 'progress'"),
        (["--option", "window=0.5"], "`window` must be a positive whole number or 2 of them, got 0.5"),
        (["--option", "window=33"], r"`window` must fit into images of size \(32, 32\), got \(33, 33\)"),
        (["--option", "baseline=black"], '`baseline` must be a number, a tensor, "blur" or "noise", got \'black\''),
        (["--method", "cam", "--option", "eps=1"], "occlusion, cam has no option 'eps'"),
        (["--method", "smooth_grad", "--option", "inner=magic"], "must be one of cam, .*; got 'magic'"),
        (
            ["--method", "smooth_grad", "--option", "inner=rise"],
            "`inner` must be a method that attributes to",
        ),
    ],
)
def test_mistakes_in_options_are_one_sentence_and_code_2(photo, work, arguments, reason):
    told = sentence(run("explain", photo, *SMALL, "--method", "occlusion", *arguments), 2)
    assert re.search(reason, told), told
    assert not (work / "explanations").exists() or not any((work / "explanations").iterdir())


def test_an_unknown_score_is_wrong_usage(photo):
    done = run("explain", photo, *SMALL, "--score", "entropy")
    assert done.exit_code == 2
    assert "log-probability" in done.stderr


def test_the_second_bar_tells_how_far_a_batch_is_and_goes_when_it_is_done(photo, monkeypatch):
    shown = []
    make = cli._progress

    def watched():
        bars = make()
        update = bars.update
        monkeypatch.setattr(bars, "update", lambda task, **kept: (shown.append(kept), update(task, **kept)))
        return bars

    monkeypatch.setattr(cli, "_progress", watched)
    assert run("explain", photo, *SMALL, "--method", "rise", "--option", "masks=70").exit_code == 0
    assert [each["total"] for each in shown] == [70] * len(shown)
    done = [each["completed"] for each in shown]
    assert done == sorted(set(done))
    assert len(done) > 1
    assert done[-1] == 70
    assert [each["visible"] for each in shown] == [True] * (len(shown) - 1) + [False]


def test_the_second_bar_stands_below_the_first():
    bars = cli.Progress("{task.description}", console=Console(file=io.StringIO(), force_terminal=True, width=40))
    report = cli._second_bar(bars)
    with bars:
        bars.add_task("explaining", total=2)
        report(3, 9)
        assert [(task.description, task.completed, task.total) for task in bars.tasks] == [
            ("explaining", 0, 2),
            ("this batch", 3, 9),
        ]


def test_methods_prints_the_cost():
    done = run("methods")
    rows = [line.split("│") for line in done.stdout.splitlines() if line.startswith("│")]
    costs = {row[1].strip(): row[3].strip() for row in rows}
    assert costs == {each.name: each.cost for each in fastcam.list_methods()}
    assert costs["full_grad"] == "3"
