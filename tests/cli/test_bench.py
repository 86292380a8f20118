"""``fastcam bench``: what it prints, keeps and refuses."""

import json

import pytest
import torch

import fastcam
from fastcam import ops
from fastcam.bench import methods, op_cases, peers, tables
from tests.cli.command_line import SMALL, run, sentence

QUICK = (*SMALL, "--seconds", 0.001)
# A model on which the definitions of all tools agree.
RECTIFIED = """
from torch import nn
from fastcam.classifiers import Preprocessing
def build():
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)]
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), *tail)
    model.preprocessing = Preprocessing(32, (32, 32))
    return model
"""


@pytest.fixture
def small_ops(monkeypatch):
    """Batches with which the ops take no time."""
    monkeypatch.setitem(op_cases.BATCHES, "cpu", (op_cases.Batch(2),))


def columns(done):
    """The cells of every row."""
    lines = [line for line in done.stdout.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines]


def test_every_op_and_every_method_is_in_the_tables_and_in_the_file(work, small_ops):
    (work / "rectified_model_of_a_test.py").write_text(RECTIFIED)
    model = "rectified_model_of_a_test:build"
    done = run("bench", "--model", model, "--seconds", 0.001, "--json", "found.json", "--batch", 2)
    assert done.exit_code == 0, done.output
    rows = columns(done)
    assert {row[0] for row in rows if row[1][:1].isdigit()} == set(ops.__all__)
    shown = [row[0].split(",")[0] for row in rows if row[0] and row[1] == "fastcam"]
    assert shown == [method.name for method in fastcam.list_methods()]
    found = json.loads((work / "found.json").read_text())
    assert found["hardware"]["torch"] == torch.__version__
    assert found["hardware"]["threads"] == torch.get_num_threads()
    assert found["hardware"]["device"] == "cpu"
    assert found["hardware"]["processor"] in done.stdout
    assert found["tools"] == {tool.name: tool.version for tool in peers.installed()}
    assert (found["model"], found["layer"], found["batch"]) == (model, "2", 2)
    assert {row["op"] for row in found["ops"]} == set(ops.__all__)
    own = [row for row in found["methods"] if row["tool"] == "fastcam"]
    assert [row["method"] for row in own] == shown
    for row in found["methods"]:
        assert row["batch"] == 2
        assert (row["milliseconds"] is None) == bool(row["refused"])
    assert [row["method"] for row in own if row["refused"]] == ["gmp_cam"]
    assert "Not timed: guided_backprop by pytorch-grad-cam: takes one image at a time" in done.stdout
    assert "Not timed: gmp_cam by fastcam: this method needs a model in which global max pooling" in done.stdout


def test_only_what_is_asked_for_is_measured(work, small_ops):
    done = run("bench", *QUICK, "--only", "grad_cam", "--only", "overlay")
    assert done.exit_code == 0, done.output
    tools = [name for name in ("pytorch-grad-cam", "torch-cam", "captum") if name in done.stdout]
    assert tools == [tool.name for tool in peers.installed()]
    assert [row[0] for row in columns(done)] == ["grad_cam", "overlay", "grad_cam", *[""] * len(tools)]
    done = run("bench", *QUICK, "--only", "rise")
    assert [(row[0], row[1]) for row in columns(done)] == [("rise, 100 masks", "fastcam")]


def test_a_tool_that_is_not_installed_is_not_in_the_table_and_can_be_installed(work, monkeypatch):
    monkeypatch.setitem(peers._TOOLS, "captum", ("no_such_module", "captum==0.9.0"))
    peers.installed.cache_clear()
    try:
        done = run("bench", *QUICK, "--only", "saliency")
    finally:
        peers.installed.cache_clear()
    assert done.exit_code == 0, done.output
    assert [row[1] for row in columns(done)] == ["fastcam"]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("To compare with more tools: ")]
    assert "captum==0.9.0" in line


def test_where_a_definition_differs_the_tool_is_named_and_code_1(work):
    """pytorch-grad-cam's Ablation-CAM sets a channel to the minimum less 1e7, at a layer that is not rectified."""
    told = sentence(run("bench", *QUICK, "--only", "ablation_cam"), 1)
    assert told.startswith("fastcam: not timed: ablation_cam by pytorch-grad-cam: differs from fastcam by ")


def test_a_tool_that_differs_is_named_and_code_1(work, monkeypatch):
    def wrong(case, at):
        (own,) = methods.with_fastcam(case, at)
        return [methods.Contestant(lambda: 1 - own.call())]

    monkeypatch.setattr(methods, "installed", lambda: (peers.Tool("another", "1.0", {"cam": wrong}),))
    done = run("bench", *QUICK, "--only", "cam")
    told = sentence(done, 1)
    assert told.startswith("fastcam: not timed: cam by another: differs from fastcam by 1.0e+00 of the range")
    assert [(row[1], row[5]) for row in columns(done)] == [("fastcam", ""), ("another", "1e+00: not timed")]


def test_an_op_that_differs_is_named_and_code_1(work, monkeypatch):
    right = ops.upsample_normalize
    monkeypatch.setattr(ops, "upsample_normalize", lambda *arguments: right(*arguments) + 0.25)
    told = sentence(run("bench", *QUICK, "--only", "upsample_normalize"), 1)
    assert told.startswith("fastcam: not timed: upsample_normalize on 32x7x7 to 224x224 differs from eager PyTorch")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--only", "grad_can"], "--only must be the name of an op or of a method, got 'grad_can'; did you mean grad_"),
        (["--model", "resnet18"], "a model is torchvision:NAME, timm:NAME or package.module:factory, got 'resnet18'"),
        (["--weights", "none.pth"], "there is no weights file 'none.pth'"),
        (["--layer", "layer9"], "the model has no layer named 'layer9'"),
        (["--json", "nowhere/found.json"], "nowhere/found.json"),
        (["--device", "warp"], "device 'warp' cannot be used"),
        (["--model", "torchvision:fcn_resnet50"], "a classifier is measured, whose output is (N, classes)"),
    ],
)
def test_mistakes_are_one_sentence_and_code_2(work, arguments, reason):
    told = sentence(run("bench", *QUICK, *arguments), 2)
    assert told.startswith("fastcam: ")
    assert reason in told


@pytest.mark.parametrize("arguments", [["--seconds", 0], ["--batch", 0], ["photo.png"]])
def test_wrong_usage_is_code_2(work, arguments):
    done = run("bench", *SMALL, *arguments)
    assert done.exit_code == 2
    assert "Traceback" not in done.stderr


def test_tables_are_readable_in_100_columns(work, capsys):
    from rich.console import Console

    row = {
        "method": "integrated_gradients",
        "case": "20 steps",
        "tool": "pytorch-grad-cam",
        "setting": "16 at a time",
        "milliseconds": 12345.6,
        "spread": 1234.5,
        "times_forward": 345.67,
        "rounds": 50,
        "difference": 1e-6,
        "note": "",
        "refused": "",
    }
    Console(width=100).print(tables.method_table([row, row | {"milliseconds": None, "difference": 0.25}], "title"))
    text = capsys.readouterr().out
    for whole in ("12345.6", "617.2", "345.67", "1e-06", "integrated_gradients", "pytorch-grad-cam"):
        assert whole in text
    assert max(map(len, text.splitlines())) <= 100
