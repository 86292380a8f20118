"""The tools' kinds of cases on the packages here, counted for each tool: ``python -m tests.compat.their_tests``.

pytorch-grad-cam's source distribution brings its tests. It comes from the package index; in its tests the import is
exchanged, weights are random, and the picture that the distribution leaves out is a photograph that scikit-image brings
along; two of its files need psutil. The distributions of Captum and torch-cam have no tests: the files here compare the
same kinds of calls with the installed tools. Arguments go to pytest, for each of the three. The exit status is 0 if
nothing failed but what ``KNOWN`` names.
"""

import re
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path

import skimage.data
from PIL import Image

RELEASE, OURS = "grad-cam==1.5.7", "fastcam.compat.pytorch_grad_cam"

# Documented differences: a test's name, and the reason why it fails here.
KNOWN = {
    "test_finer_cam_correctness::test_finercam_htcore_is_single_underscore": "reads the tool's source text",
}

CONFTEST = '''"""Random weights in the place of downloaded ones, the same each time."""

import pytest
import torch
import torchvision
from torch import nn


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    load = nn.Module.load_state_dict

    def load_or_leave(self, state, *arguments, **options):
        return load(self, state, *arguments, **options) if state else None

    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", lambda self, **options: {})
    monkeypatch.setattr(nn.Module, "load_state_dict", load_or_leave)
    torch.manual_seed(0)
'''


def main() -> int:
    """Run all three and print how many passed."""
    with tempfile.TemporaryDirectory() as name:
        here, theirs = Path(__file__).parent, fetched(Path(name))
        counts = {
            "pytorch-grad-cam": run(theirs, ["tests"]),
            "captum": run(here.parents[1], map(str, sorted(here.glob("test_captum*.py")))),
            "torch-cam": run(here.parents[1], map(str, sorted(here.glob("test_torchcam*.py")))),
        }
    for tool, (passed, failed, _) in counts.items():
        print(f"{tool}: {passed} of {passed + len(failed)} passed")
        for case in failed:
            print(f"  {case}: {KNOWN.get(case, 'failed')}")
    return int(any(broken or not KNOWN.keys() >= set(failed) for _, failed, broken in counts.values()))


def fetched(folder: Path) -> Path:
    """Fetch and rewrite pytorch-grad-cam's distribution; return its root."""
    options = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--dest", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *options, RELEASE], check=True)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    (root,) = (each.parent for each in folder.glob("*/tests"))
    for each in (root / "tests").glob("test_*.py"):
        text = re.sub(r"^import pytorch_grad_cam$", f"import {OURS} as pytorch_grad_cam", each.read_text(), flags=re.M)
        each.write_text(re.sub(r"^from pytorch_grad_cam\b", f"from {OURS}", text, flags=re.M))
    (root / "tests" / "conftest.py").write_text(CONFTEST)
    (root / "pytorch_grad_cam").rename(root / "left_out")  # so that nothing of it is found
    (root / "examples").mkdir()
    Image.fromarray(skimage.data.astronaut()).resize((224, 224)).save(root / "examples" / "both.png")
    return root


def run(root: Path, tests: Iterable[str]) -> tuple[int, list[str], bool]:
    """Return how many tests passed, the names of those that failed, and whether pytest came to no end."""
    with tempfile.TemporaryDirectory() as name:
        report = Path(name) / "report.xml"
        options = ["-q", "-p", "no:cacheprovider", "--no-header", "--continue-on-collection-errors"]
        options += [f"--junitxml={report}", *sys.argv[1:]]
        status = subprocess.run([sys.executable, "-m", "pytest", *options, *tests], cwd=root, check=False).returncode
        cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
    outcomes = [({part.tag for part in case}, case) for case in cases]
    failed = [
        f"{case.get('classname', '').split('.')[-1]}::{case.get('name')}".removeprefix("::")
        for tags, case in outcomes
        if tags & {"failure", "error"}
    ]
    passed = sum(not tags & {"failure", "error", "skipped"} for tags, _ in outcomes)
    return passed, failed, status not in (0, 1, 5)  # 5: the arguments select nothing


if __name__ == "__main__":
    sys.exit(main())
