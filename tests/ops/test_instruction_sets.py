"""Every instruction set gives the formula's numbers; one process for each, since the choice is made once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastcam

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("wish", "name"), [("plain", "plain"), ("avx2", "AVX2")])
def test_numbers(wish, name):
    if fastcam.build_info()["cpu_capability"] == "plain":
        name = "plain"  # a wish lowers the choice and never raises it
    environment = os.environ | {"FASTCAM_CPU_CAPABILITY": wish}
    command = [sys.executable, "-m", "tests.ops.calls"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    info = json.loads(done.stdout.splitlines()[-1])
    assert info["extension"]
    assert info["cpu_capability"] == name
