"""No public name of the three tools is forgotten: all are here, with the same parameters, or listed with a reason."""

from pathlib import Path

import pytest

from tests.compat.conformance import NOT_HERE, PACKAGES, TOOLS, listed, paths

# Tested through the classes that are made from them, or by what returns them.
BASES = {
    "AveragerAcrossThresholds",
    "GradientAttribution",
    "PerturbationAttribution",
    "PerturbationConfidenceMetric",
    "PredictionExplanation",
    "RemoveLeastRelevantFirst",
    "RemoveMostRelevantFirst",
}
TESTS = "".join(each.read_text() for each in Path(__file__).parent.glob("test_*.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name(package):
    lines = list(listed(package))
    assert len(lines) >= 3
    odd = [each for each in lines if each.state not in ("same", "the tool's own") and not each.reason]
    assert not odd, "\n".join(f"{each.name}: {each.state}" for each in odd)
    own = [each.name for each in lines if each.state == "the tool's own"]
    assert not own or package.startswith("captum")


@pytest.mark.parametrize("tool", TOOLS)
def test_every_path(tool):
    lines = list(paths(tool))
    assert len(lines) > 40
    odd = [each for each in lines if each.state not in ("same", "the tool's own") and not each.reason]
    assert not odd, "\n".join(f"{each.name}: {each.state}" for each in odd)
    own = {each.name for each in lines if each.state == "the tool's own"}
    assert tool == "captum" or own <= {"torchcam.version"}  # from the standard library


@pytest.mark.parametrize(
    "name",
    [
        "captum.__version__",
        "captum.attr.DeepLift",
        "captum.concept._core.tcav",
        "captum.attr._core.noise_tunnel.NoiseTunnelType",
        "pytorch_grad_cam.sobel_cam",
        "pytorch_grad_cam.finer_cam.DEFAULT_COMPARISON_CATEGORIES",
        "torchcam.version",
    ],
)
def test_modules_exports_and_constants_are_looked_at(name):
    assert name in {each.name for each in paths(name.partition(".")[0])}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_class_and_function_is_called_in_a_test(package):
    names = {each.name.rpartition(".")[2] for each in listed(package) if each.state == "same" and not each.reason}
    classes = {name for name in names if name[0].isupper()}
    assert not {name for name in classes - BASES if name not in TESTS}


def test_reasons_are_of_something():
    lines = [each for package in PACKAGES for each in listed(package)]
    lines += [each for tool in TOOLS for each in paths(tool)]
    used = {each.reason for each in lines if each.state != "same"}
    assert used >= set(NOT_HERE.values())
