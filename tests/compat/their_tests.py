"""The tests in pytorch-grad-cam's source distribution, on the package here: ``python -m tests.compat.their_tests``.

The distribution comes from the package index. In its tests the import is exchanged, weights are random, and the picture
that the distribution leaves out is a photograph that scikit-image brings along. Arguments go to pytest.
"""

import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import skimage.data
from PIL import Image

RELEASE, OURS = "grad-cam==1.5.7", "fastcam.compat.pytorch_grad_cam"
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


def main() -> None:
    """Fetches, rewrites and runs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--dest", name]
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *options, RELEASE], check=True)
        with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
            archive.extractall(folder, filter="data")
        (root,) = (each.parent for each in folder.glob("*/tests"))
        for each in (root / "tests").glob("test_*.py"):
            text = re.sub(
                r"^import pytorch_grad_cam$", f"import {OURS} as pytorch_grad_cam", each.read_text(), flags=re.M
            )
            each.write_text(re.sub(r"^from pytorch_grad_cam\b", f"from {OURS}", text, flags=re.M))
        (root / "tests" / "conftest.py").write_text(CONFTEST)
        (root / "pytorch_grad_cam").rename(root / "left_out")  # so that nothing of it is found
        (root / "examples").mkdir()
        Image.fromarray(skimage.data.astronaut()).resize((224, 224)).save(root / "examples" / "both.png")
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--no-header",
            *sys.argv[1:],
            "tests",
        ]
        sys.exit(subprocess.run(command, cwd=root, check=False).returncode)


if __name__ == "__main__":
    main()
