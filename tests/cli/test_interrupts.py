"""Ctrl-C of real processes while a slow method runs: told at once, obeyed between two blocks of copies."""

import os
import signal
import subprocess
import sys
import time

import pytest

import fastcam.dataset
from tests.cli.command_line import run, square

RISE = ("--method", "rise", "--option", "masks=3000", "--option", "grid=4")
TOLD = "fastcam: stopping; Ctrl-C again to end now\n"
# A model that writes a line at each pass; passes are short until the fourth, that of the signal.
SLOW = """
import itertools, os, time
from small_model_of_a_test import build as quick
def build():
    model = quick()
    passes = itertools.count(1)
    def wait(module, inputs):
        os.write(2, b"pass\\n")
        seconds = float(os.environ.get("SECONDS_OF_A_PASS", 0))
        time.sleep(seconds if next(passes) >= 4 else min(seconds, 0.2))
    model.register_forward_pre_hook(wait)
    return model
"""


@pytest.fixture
def photos(work):
    (work / "slow_model_of_a_test.py").write_text(SLOW)
    for number in range(3):
        square(work / "photos" / "red" / f"{number}.png", (255, 0, 0))
    yield work
    sys.modules.pop("slow_model_of_a_test", None)


def interrupted(number, *arguments, seconds=0.2, shots=1):
    """The exit code, the lines on stderr and the seconds after the signal, sent after the fourth pass."""
    code = "import torch; torch.set_num_threads(1); from fastcam.cli import main; main()"
    command = [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SECONDS_OF_A_PASS": str(seconds)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        before = []
        while before.count("pass\n") < 4:
            before.append(process.stderr.readline().decode())
            assert before[-1], before
        start, after = time.monotonic(), []
        for _ in range(shots):
            process.send_signal(number)
            while TOLD not in after:
                after.append(process.stderr.readline().decode())
                assert after[-1], after
        after += process.stderr.read().decode().splitlines(keepends=True)
        process.wait(timeout=60)
    return process.returncode, after, time.monotonic() - start


MAP = ("map", "photos", "--model", "slow_model_of_a_test:build", "--out", "maps", "--batch-size", 1, "--shard-size", 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_map_stops_between_two_blocks_and_goes_on_later(photos, number):
    code, after, seconds = interrupted(number, *MAP, *RISE)
    assert code == 3
    assert seconds < 20  # of 600 that the work would take: a busy machine needs some
    assert after.count(TOLD) == 1
    assert after.count("pass\n") <= 1  # of 3000 in the batch
    assert "the run was interrupted" in after[-1]
    assert "Traceback" not in "".join(after)
    assert len(fastcam.dataset.open("maps")) == 0


def test_a_run_that_was_stopped_within_an_image_gives_the_same_maps(photos):
    options = (*RISE, "--option", "masks=40")
    assert interrupted(signal.SIGINT, *MAP, *options)[0] == 3
    assert run(*MAP, *options).exit_code == 0
    assert run(*MAP[:5], "whole", *MAP[6:], *options).exit_code == 0
    parts, whole = fastcam.dataset.open("maps"), fastcam.dataset.open("whole")
    assert list(parts) == ["red/0.png", "red/1.png", "red/2.png"]
    assert [parts.rows(name) for name in parts] == [whole.rows(name) for name in whole]


def test_a_second_signal_ends_it_within_a_block(photos):
    code, after, seconds = interrupted(signal.SIGINT, *MAP, *RISE, seconds=30, shots=2)
    assert code == 130
    assert seconds < 20
    assert after.count(TOLD) == 1


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_explain_stops_between_two_blocks(photos, number, expected):
    code, after, seconds = interrupted(number, "explain", "photos", *MAP[2:4], "--batch-size", 1, *RISE)
    assert code == expected
    assert seconds < 20  # of 600 that the work would take: a busy machine needs some
    assert after.count(TOLD) == 1
    assert after.count("pass\n") <= 1
    assert "Traceback" not in "".join(after)
