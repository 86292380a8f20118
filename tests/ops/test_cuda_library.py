"""The file where tensors and CUDA kernels meet, compiled with the headers of the PyTorch that is installed."""

import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import torch
from torch.utils.cpp_extension import include_paths

NEEDED = ("cuda_runtime_api.h", "crt/host_defines.h")
ROOT = Path(__file__).parents[2]
(OLDEST,) = re.findall(r'^OLDEST_TORCH = "(\w+)"', (ROOT / "setup.py").read_text(), re.MULTILINE)  # importing it builds


def cuda_headers() -> Path | None:
    """The folder of CUDA's headers: of the package that torch comes with, or of a toolkit."""
    packages = Path(sysconfig.get_path("purelib")).glob("nvidia/*/include")
    folders = [*packages, Path("/usr/local/cuda/include"), *Path("/usr/local").glob("cuda-*/include")]
    return next((folder for folder in folders if all((folder / name).exists() for name in NEEDED)), None)


@pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")
@pytest.mark.skipif(torch.version.cuda is None or cuda_headers() is None, reason="there are no headers of CUDA")
def test_it_compiles_against_the_oldest_stable_interface(tmp_path):
    includes = [f"-I{path}" for path in (*include_paths(), sysconfig.get_path("include"), cuda_headers())]
    options = ["-std=c++17", "-fsyntax-only", "-DUSE_CUDA", f"-DTORCH_TARGET_VERSION={OLDEST}"]
    names = ["-DTORCH_EXTENSION_NAME=_C_cuda", f"-DPy_LIMITED_API={hex(0x030B0000)}"]
    command = ["c++", *options, *names, *includes, "csrc/library_cuda.cpp"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
