"""Decoding in processes, and pixels that become floats on the device: the same bytes, and nothing is lost or left."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ImageFile

import fastcam.dataset
from fastcam.classifiers.preprocessing import Preprocessing
from fastcam.dataset.decode import Limits
from fastcam.dataset.decoding_processes import LoaderInProcesses
from fastcam.dataset.job_arguments import make_job
from fastcam.dataset.loading import Loader
from fastcam.dataset.sources import Item
from fastcam.dataset.workers import Workers, usual_count, usual_place
from tests.dataset.small import PREPROCESSING, SETTINGS, contents, folder, jpeg, network, picture

pytestmark = pytest.mark.usefixtures("one_thread")
GREY = Preprocessing(18, (16, 16), mean=(0.4,), std=(0.3,))


def item(content, name="a"):
    return Item(name, name, None, lambda limits: content)


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def children():
    """The processes that decode for this one."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
            command = (status.parent / "cmdline").read_text()
        except OSError:
            continue
        if int(lines["PPid"]) == os.getpid() and "decoding_processes" in command and lines["State"][0] != "Z":
            found.append(int(lines["Pid"]))
    return found


@pytest.fixture
def started():
    """A loader whose process, of this thread, has started."""
    with LoaderInProcesses(Loader(PREPROCESSING, Limits(pixels=10_000), more=(GREY,))) as loader:
        wait_until(loader._process().is_ready)
        yield loader
    assert children() == []


def assert_same(found, expected):
    assert (found.reason, found.sha256, found.size) == (expected.reason, expected.sha256, expected.size)
    if expected.tensor is None:
        assert found.tensor is None
        return
    for one, other in zip((found.tensor, *found.more), (expected.tensor, *expected.more), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def test_what_a_process_returns(started):
    loader = started.loader
    large = picture("RGB", (101, 100))
    for content in (jpeg(0), jpeg(1), jpeg(2)[:200], b"", b"no picture", "text", picture("RGB"), torch.ones(3, 4, 4)):
        assert_same(started(item(content)), loader(item(content)))
    refused = started(item(_png(large)))
    assert "10,100 pixels, more than 10,000" in refused.reason
    seconds = started(item(jpeg(3))).seconds
    assert len(seconds) == 3
    assert min(seconds) > 0


def _png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_a_process_that_is_killed_costs_nothing(started):
    (pid,) = children()
    os.kill(pid, signal.SIGKILL)
    assert_same(started(item(jpeg(0))), started.loader(item(jpeg(0))))
    assert len(children()) == 1
    assert children() != [pid]


def test_an_image_on_which_two_processes_die_is_a_row(started, monkeypatch):
    def die(process):
        process._connection.recv_bytes()
        os.kill(process._process.pid, signal.SIGKILL)

    (pid,) = children()
    os.kill(pid, signal.SIGKILL)
    with monkeypatch.context() as patched:
        patched.setattr("fastcam.dataset.decoding_processes._Process.wait_until_ready", die)
        assert started(item(jpeg(0))).reason == "the process that decoded this image died, with Killed"
    assert_same(started(item(jpeg(1))), started.loader(item(jpeg(1))))  # while another one starts
    wait_until(started._process().is_ready)
    assert children() != [pid]
    assert_same(started(item(jpeg(2))), started.loader(item(jpeg(2))))


def test_what_asks_a_job_to_end_is_for_the_run_alone(started):
    """Batch systems send SIGTERM to every process: no image fails by it before the run has ended."""
    (pid,) = children()
    os.kill(pid, signal.SIGTERM)
    assert_same(started(item(jpeg(0))), started.loader(item(jpeg(0))))
    assert children() == [pid]
    assert os.getsid(pid) != os.getsid(0)  # nor does Ctrl-C reach it


def test_what_a_program_changed_about_pillow_counts(started, monkeypatch):
    truncated = _png(picture("RGB", (90, 80)))[:-60]
    assert "truncated" in started(item(truncated)).reason
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    found = started(item(truncated))
    assert found.reason == ""
    assert_same(found, started.loader(item(truncated)))


def test_files_of_the_working_folder_are_not_run(tmp_path, monkeypatch):
    for name in ("fastcam", "torch", "random"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    with LoaderInProcesses(Loader(PREPROCESSING, Limits())) as loader:
        wait_until(loader._process().is_ready)
        assert_same(loader(item(jpeg(0))), loader.loader(item(jpeg(0))))


class OwnPreprocessing(Preprocessing):
    """What cannot be sent."""

    def __reduce__(self):
        raise TypeError("cannot be sent")


@pytest.mark.parametrize("case", ["no interpreter", "no pickle"])
def test_where_no_process_can_be_started_threads_decode(case, monkeypatch):
    if case == "no interpreter":
        monkeypatch.setattr(sys, "executable", "/there/is/none")
    own = OwnPreprocessing(18, (16, 16)) if case == "no pickle" else PREPROCESSING

    def load():
        loader = LoaderInProcesses(Loader(own, Limits()))
        for index in range(3):
            assert_same(loader(item(jpeg(index))), loader.loader(item(jpeg(index))))

    with pytest.warns(UserWarning, match="images are decoded in threads: no process could be started"):
        load()
    assert children() == []


def test_threads_have_processes_of_their_own():
    loader = Loader(PREPROCESSING, Limits())
    contents = [jpeg(index) for index in range(12)]
    both = threading.Barrier(2)

    def begin(content):
        both.wait(60)  # or one thread might do it all
        return processes(item(content))

    with LoaderInProcesses(loader) as processes, ThreadPoolExecutor(2) as threads:
        list(threads.map(begin, contents[:2]))
        wait_until(lambda: all(each.is_ready() for each in processes._processes))
        assert len(processes._processes) == 2
        found = list(threads.map(lambda content: processes(item(content)), contents))
    for one, content in zip(found, contents, strict=True):
        assert_same(one, loader(item(content)))
    assert children() == []


def test_after_the_end_threads_decode_themselves():
    with LoaderInProcesses(Loader(PREPROCESSING, Limits())) as loader:
        pass
    assert_same(loader(item(jpeg(0))), loader.loader(item(jpeg(0))))
    assert children() == []


@pytest.mark.parametrize("preprocessing", [PREPROCESSING, GREY], ids=["colour", "grey"])
def test_pixels_become_the_same_floats(preprocessing):
    images = [picture("RGB", (30, 40)), picture("L", (50, 21)), picture("RGBA", (18, 18))]
    pixels = torch.stack([preprocessing.pixels(np.array(image.convert("RGB"))) for image in images])
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (3, 16, 16, len(preprocessing.mean))
    expected = torch.stack([preprocessing(np.array(image.convert("RGB"))) for image in images])
    assert torch.equal(preprocessing.normalized(pixels), expected)


def run(source, out, model=None, **options):
    return fastcam.dataset.run(source, model or network(), out, **{**SETTINGS, **options})


def mixed_folder(path):
    """Photographs, other formats, and files that are none."""
    folder(path, 10)
    (path / "cats" / "damaged.jpg").write_bytes(jpeg(3)[:150])
    (path / "dogs" / "empty.png").write_bytes(b"")
    (path / "dogs" / "other.png").write_bytes(_png(picture("P")))
    return path


@pytest.mark.parametrize("options", [{}, {"decoder": "scaled"}, {"decoder": "pillow", "workers": 3}])
def test_runs_write_the_same_bytes(tmp_path, options, monkeypatch):
    source = mixed_folder(tmp_path / "in")
    expected = run(source, tmp_path / "threads", **options)
    monkeypatch.setattr("fastcam.dataset.decoding_processes._Process.is_ready", _wait_for_it)
    found = run(source, tmp_path / "processes", decode_in="processes", **options)
    assert (found.new, found.failed) == (expected.new, expected.failed) == (13, 2)
    assert contents(tmp_path / "processes") == contents(tmp_path / "threads")
    assert children() == []


def _wait_for_it(process):
    """In place of ``is_ready``: every image is decoded by a process, from the first on."""
    if not process._is_ready:
        process._is_ready = process._connection.recv_bytes() == b"ready"
    return True


def test_runs_with_pixels_write_the_same_bytes(tmp_path, monkeypatch):
    """As for a model on a GPU; several models see an image each in its own way."""
    source = mixed_folder(tmp_path / "in")
    models, sizes = {"a": network(), "b": network(-1)}, {"a": PREPROCESSING, "b": Preprocessing(30, (20, 24))}
    seen = []
    load = Loader.__call__
    for out in ("floats", "pixels"):
        run(source, tmp_path / out)
        run(source, tmp_path / f"{out} of two", models, preprocessing=sizes)
        monkeypatch.setattr(Loader, "__call__", lambda loader, *rest: load(replace(loader, pixels=True), *rest))
        monkeypatch.setattr(Preprocessing, "normalized", _counting(Preprocessing.normalized, seen))
    assert len(seen) > 10
    for out in ("", " of two"):
        assert contents(tmp_path / f"pixels{out}") == contents(tmp_path / f"floats{out}")


def _counting(normalized, seen):
    def count(preprocessing, pixels):
        seen.append(len(pixels))
        return normalized(preprocessing, pixels)

    return count


def test_the_default_of_a_machine():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert usual_place(cpu, "pillow", 64) == usual_place(gpu, "pillow", 2) == usual_place(gpu, "gpu", 64) == "threads"
    assert usual_place(gpu, "torchcodec", 3) == usual_place(gpu, "scaled", 64) == "processes"
    assert [usual_count("threads", cores) for cores in (2, 8, 64)] == [2, 8, 8]
    assert [usual_count("processes", cores) for cores in (2, 16, 64)] == [2, 16, 32]


def test_settings_take_precedence(tmp_path):
    job = make_job(
        folder(tmp_path / "in", 2), network(), tmp_path / "out", workers=5, decode_in="processes", **SETTINGS
    )
    assert job.workers_on(16) == Workers(5, "processes")
    assert replace(job, workers=None).workers_on(64) == Workers(32, "processes")
    assert replace(job, workers=None, decode_in=None).workers_on(64) == Workers(8, "threads")
    with pytest.raises(ValueError, match="`decode_in` must be threads or processes, got 'ray'"):
        run(tmp_path / "in", tmp_path / "out", decode_in="ray")


def test_an_interrupted_run_leaves_no_process(tmp_path):
    source = folder(tmp_path / "in", 60)

    def interrupt(progress):
        if progress.new > 20:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(fastcam.dataset.InterruptedRunError):
        run(source, tmp_path / "out", decode_in="processes", workers=2, report=interrupt)
    assert children() == []


KILLED = """
import os, signal, sys
from fastcam.classifiers.preprocessing import Preprocessing
from fastcam.dataset.decode import Limits
from fastcam.dataset.decoding_processes import LoaderInProcesses
from fastcam.dataset.loading import Loader
process = LoaderInProcesses(Loader(Preprocessing(), Limits()))._process()
print(process._process.pid, flush=True)
sys.stdin.read(1)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_processes_end_with_the_one_they_work_for():
    with subprocess.Popen([sys.executable, "-c", KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as victim:
        pid = int(victim.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        victim.communicate(b"x")

    def has_ended():
        status = Path(f"/proc/{pid}/status")
        return not status.exists() or "State:\tZ" in status.read_text()

    wait_until(has_ended)
