"""``fastcam methods``, ``doctor`` and ``demo``, and the command in odd installations."""

import os
import subprocess
import sys

import pytest
import torch

import fastcam
from tests.cli.command_line import run, sentence

pytest.importorskip("efficientnet_lite_pytorch")


def test_methods_lists_the_whole_registry():
    done = run("methods")
    assert done.exit_code == 0
    rows = {line.split("│")[1].strip(): line for line in done.stdout.splitlines() if line.startswith("│")}
    assert list(rows) == [method.name for method in fastcam.list_methods()]
    for method in fastcam.list_methods():
        assert method.summary in rows[method.name]
        assert method.paper in rows[method.name]
    assert "eps=1e-07" in rows["xgrad_cam"]


def test_doctor_tells_versions_and_passes():
    done = run("doctor")
    assert done.exit_code == 0, done.output
    for word in (fastcam.__version__, torch.__version__, "CPU capability", "threads", "devices", "safetensors"):
        assert word in done.stdout
    assert done.stdout.count(" ok ") == len(fastcam.ops.__all__)


def test_doctor_fails_where_an_op_is_wrong(monkeypatch):
    right = fastcam.ops.grad_cam
    monkeypatch.setattr(fastcam.ops, "grad_cam", lambda *arguments: right(*arguments) + 1e-3)
    done = run("doctor")
    assert "the self check failed" in sentence(done, 1)
    assert done.stdout.count("FAILED") == 1
    assert done.stdout.count(" ok ") == len(fastcam.ops.__all__) - 1


def test_doctor_says_why_there_is_no_extension():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "from fastcam.cli import main; main()", "doctor"],
        env={**os.environ, "FASTCAM_REFERENCE": "1", "PYTHONIOENCODING": "utf-8"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "not loaded: FASTCAM_REFERENCE=1 asks for the PyTorch references" in done.stdout


def test_demo_runs_into_the_folder_and_a_folder_that_cannot_be_is_one_sentence(work, monkeypatch):
    folders = []
    monkeypatch.setattr("fastcam.cli.demo.run", folders.append)
    assert run("demo", "--out", "shown").exit_code == 0
    assert run("demo").exit_code == 0
    assert [str(each) for each in folders] == ["shown", "fastcam_demo"]
    monkeypatch.undo()
    (work / "file").touch()
    assert str(work / "file") in sentence(run("demo", "--out", work / "file"), 2)


def test_version():
    assert run("--version").stdout == f"fastcam {fastcam.__version__}\n"


def test_without_typer_the_package_works_and_the_command_says_what_to_install():
    code = (
        "import sys; sys.modules['typer'] = sys.modules['rich'] = None\n"
        "import fastcam; print('works', fastcam.__version__, flush=True)\n"
        "from fastcam.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("works")
    assert done.returncode == 1
    assert done.stderr == 'fastcam: the command line needs typer and rich: pip install "fastcam[cli]"\n'
