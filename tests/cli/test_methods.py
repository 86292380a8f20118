"""Methods and their options on the command line."""

import sys

import numpy as np
import pytest
import torch

import fastcam
from fastcam.cli.options import METHODS
from tests.cli.command_line import SMALL, pixels, run, sentence, square


@pytest.mark.parametrize("method", ["saliency", "occlusion", "score_cam", "ablation_cam", "full_grad", "smooth_grad"])
def test_methods_write_overlays(work, method):
    file = square(work / "red.png", "red")
    done = run("explain", file, *SMALL, "--method", method, "--out", work / "out")
    assert done.exit_code == 0, done.output
    assert (work / "out" / f"red.{method}.png").exists()


def test_options_of_a_method(work):
    file, drawn = square(work / "red.png", "red"), {}
    for window in (4, (16, 2)):
        name = str(window).replace(" ", "")
        options = ["--option", f"window={name}", "--option", "stride=4", "--option", "baseline=blur"]
        done = run("explain", file, *SMALL, "--method", "occlusion", *options, "--out", work / name)
        assert done.exit_code == 0, done.output
        drawn[window] = pixels(work / name / "red.occlusion.png")
    assert np.abs(drawn[4] - drawn[16, 2]).max() > 20


def test_score_of_a_class(work):
    """Green has a logit that red hardly moves, and a probability that rises where red is hidden."""
    file, drawn = square(work / "red.png", "red"), {}
    for score in ("logit", "probability", "log-probability"):
        options = ["--method", "occlusion", "--score", score, "--target", "1", "--alpha", "1", "--out", work / score]
        done = run("explain", file, *SMALL, *options)
        assert done.exit_code == 0, done.output
        model = sys.modules["small_model_of_a_test"].build()
        image = torch.from_numpy(pixels(file)).permute(2, 0, 1)[None].float() / 255
        target = getattr(fastcam.targets, "".join(map(str.capitalize, score.split("-"))))(1)
        expected = fastcam.explain(model.eval(), image, "occlusion", target).overlay(alpha=1.0)[0]
        drawn[score] = pixels(work / score / "red.occlusion.png")
        assert np.abs(drawn[score] - expected.astype(int)).max() <= 8  # the levels of jet, for a rounding in the map


@pytest.mark.parametrize("precision", ["fp32", "bf16", "auto"])
def test_prepared(work, precision):
    file = square(work / "red.png", "red")
    for name, options in (("plain", []), (precision, ["--precision", precision])):
        done = run("explain", file, *SMALL, *options, "--out", work / name)
        assert done.exit_code == 0, done.output
    plain, prepared = (pixels(work / name / "red.grad_cam.png").astype(int) for name in ("plain", precision))
    assert np.abs(plain - prepared).mean() < 3


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("window", "--option must be name=value, got 'window'"),
        ("height=3", "occlusion has no option 'height'; known: baseline, engine, refine, seed, stride, window"),
        ("window=0", "`window` must be a positive whole number or 2 of them, got 0"),
        ("window=0.5", "`window` must be a positive whole number or 2 of them, got 0.5"),
    ],
)
def test_mistakes_in_options(work, option, text):
    file = square(work / "red.png", "red")
    done = run("explain", file, *SMALL, "--method", "occlusion", "--option", option, "--out", work / "out")
    assert text in sentence(done, 2)


def test_costs_are_listed():
    output = run("methods").output
    for method in fastcam.list_methods():
        assert any(method.name in line and method.cost in line for line in output.splitlines())


def test_the_command_line_knows_the_registry_without_loading_it():
    assert [each.name for each in fastcam.list_methods()] == list(METHODS)
