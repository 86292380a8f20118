"""Runs on several devices of this machine: real processes, which are killed, stopped and fail."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import fastcam.dataset
from fastcam import features
from fastcam.cli import app
from fastcam.dataset import Devices
from fastcam.evaluate import datasets
from fastcam.features import neurons
from tests.dataset.nodes import Deadly, Slow, as_kind
from tests.dataset.small import SETTINGS, contents, folder, network

pytestmark = pytest.mark.usefixtures("one_thread")
TWO = ("cpu", "cpu")
ROOT = Path(__file__).parents[2]


def run(source, out, model=None, **options):
    return fastcam.dataset.run(source, model or network(), out, **{**SETTINGS, "devices": TWO, **options})


def test_the_same_files_as_one_process(tmp_path):
    """By the command line, with its summary; a second run has nothing to do."""
    source = folder(tmp_path / "in", 30)
    arguments = ["map", str(source), "--model", "tests.dataset.small:network", "--layer", "features", "--size", "16"]
    arguments += ["--shard-size", "4"]

    def map_to(out, *more):
        return CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / out), *more])

    assert map_to("alone").exit_code == 0
    done = map_to("out", "--device", "cpu,cpu")
    assert done.exit_code == 0, done.output
    assert "30 images in" in done.stdout
    assert "limited by" in done.stdout  # as the processes tell
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")
    made = run(source, tmp_path / "new")
    assert made.new == 30
    assert (made.stages.processes, made.stages.workers) == (2, 2)
    assert 0 < made.stages.images <= 30
    assert made.stages.explain > 0
    assert run(source, tmp_path / "new").new == 0


def test_processes_that_decode_belong_to_those_that_explain(tmp_path):
    """Each process has its own, which end with it."""
    source = folder(tmp_path / "in", 30)
    run(source, tmp_path / "alone", devices=None)
    assert run(source, tmp_path / "out", decode_in="processes", workers=1).new == 30
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")
    assert not [
        each for each in psutil.Process().children(recursive=True) if "decoding_processes" in str(each.cmdline())
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_torchscript_model(tmp_path):
    """It is sent as the bytes of its file."""
    source, model = folder(tmp_path / "in", 8), torch.jit.trace(network(), torch.rand(2, 3, 16, 16))
    run(source, tmp_path / "alone", model, devices=None)
    assert run(source, tmp_path / "out", model).new == 8
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")


@pytest.mark.slow  # seven times two processes that import torch
def test_measures_features_and_neurons(tmp_path):
    source, settings = folder(tmp_path / "in", 10), {"shard_size": 4, "batch_size": 3}
    for name, devices in (("alone", None), ("two", TWO)):
        made = {**settings, "preprocessing": SETTINGS["preprocessing"], "devices": devices}
        assert features.run(source, network(), tmp_path / f"features-{name}", **made).new == 10
        assert neurons.run(source, network(), tmp_path / f"neurons-{name}", k=2, target=0, **made).new == 10
        options = {**SETTINGS, "devices": devices, "measure_options": {"deletion": {"steps": 3}}}
        assert datasets.run(source, network(), tmp_path / f"measures-{name}", ["deletion"], **options).new == 10
    for kind in ("features", "neurons", "measures"):
        assert contents(tmp_path / f"{kind}-two") == contents(tmp_path / f"{kind}-alone")


def test_an_image_that_kills_its_process(tmp_path):
    """It becomes a row that says so; the other images of its shard have their maps."""
    source = folder(tmp_path / "in", 12)
    Image.new("RGB", (40, 40), "white").save(source / "cats" / "003.jpg")
    done = run(source, tmp_path / "out", as_kind(Deadly))
    assert (done.new, done.failed) == (12, 1)
    maps = fastcam.dataset.open(tmp_path / "out")
    statuses = {name: maps.rows(name)[0]["status"] for name in maps}
    assert statuses.pop("cats/003.jpg") == "the process died on this image, 2 times"
    assert set(statuses.values()) == {"ok"}


PROGRAM = """
import sys
from pathlib import Path
import fastcam.dataset
from tests.dataset.nodes import Slow, as_kind
from tests.dataset.small import SETTINGS
import torch

if __name__ == "__main__":
    torch.set_num_threads(1)
    fastcam.dataset.run(Path(sys.argv[1]), as_kind(Slow), sys.argv[2], devices=["cpu", "cpu"], **SETTINGS)
"""


def started(tmp_path, source):
    """A program with two processes that have made a shard, and these."""
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, str(tmp_path / "program.py"), str(source), str(tmp_path / "out")]
    program = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "out" / "commits").glob("part-*")):
        assert program.poll() is None, program.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = [each for each in psutil.Process(program.pid).children() if "spawn_main" in " ".join(each.cmdline())]
    assert len(children) == 2
    return program, children


def goes_on(tmp_path, source):
    """The maps after another run are those of one process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Slow, "seconds", 0)
        run(source, tmp_path / "out", as_kind(Slow), devices=None)
        run(source, tmp_path / "alone", as_kind(Slow), devices=None)
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_a_program_that_is_stopped(tmp_path, number):
    """Its processes end with it, and what is committed stays."""
    source = folder(tmp_path / "in", 40)
    program, children = started(tmp_path, source)
    program.send_signal(number)
    errors = program.communicate(timeout=60)[1]
    assert program.returncode != 0
    if number == signal.SIGINT:
        assert "the run was interrupted: committed shards are kept" in errors
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []
    goes_on(tmp_path, source)


def test_a_process_that_is_killed(tmp_path):
    source = folder(tmp_path / "in", 40)
    program, children = started(tmp_path, source)
    children[0].kill()
    errors = program.communicate(timeout=120)[1]
    assert program.returncode == 0, errors
    goes_on(tmp_path, source)


class Unpicklable(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.local = network(), lambda images: images

    def forward(self, images):
        return self.inner(self.local(images))


def test_what_is_refused(tmp_path):
    source = folder(tmp_path / "in", 4)
    with pytest.raises(ValueError, match=r"cannot be sent to other processes: .*lambda"):
        run(source, tmp_path / "out", Unpicklable(), target_layer="inner.features")
    with pytest.raises(ValueError, match="device 'cuda:7' cannot be used"):
        run(source, tmp_path / "out", devices=[7])
    with pytest.raises(ValueError, match="there is none"):
        run(source, tmp_path / "out", devices="all")
    for wrong in ("cuda", [], (), 2):
        with pytest.raises(ValueError, match="`devices` must be a list of devices"):
            run(source, tmp_path / "out", devices=wrong)
    with pytest.raises(ValueError, match="not on both"):
        run(source, tmp_path / "out", ray="auto")
    (tmp_path / "out2").mkdir()
    done = CliRunner().invoke(app, ["map", str(source), "--model", "m:f", "--out", "x", "--device", "cpu,tpu"])
    assert done.exit_code == 2


def test_an_error_of_a_process_is_raised(tmp_path, monkeypatch):
    """As that of the device it happened on."""
    source = folder(tmp_path / "in", 4)
    model = as_kind(Slow)
    monkeypatch.setattr(torch.nn.Module, "__reduce_ex__", _broken)
    with pytest.raises(RuntimeError, match="device cpu: ModuleNotFoundError: No module named 'not_there'"):
        run(source, tmp_path / "out", model)


def _broken(self, protocol):
    return _import_nothing, ()


def _import_nothing():
    import not_there  # noqa: F401


def test_names():
    assert Devices.of([torch.device("cpu"), "cpu"]).names == TWO
    assert Devices.of(Devices(TWO)).names == TWO
