"""Build of the compiled part; everything else about the package is in pyproject.toml.

Environment:
    FASTCAM_BUILD  ``auto`` (default) compiles where a C++ compiler is found; ``1`` insists; ``0`` installs
                   the pure-Python package, which then runs on its PyTorch references.
    FASTCAM_CUDA   ``auto`` (default) compiles the CUDA kernels too where there is a GPU, torch is a CUDA build and a
                   toolkit of the same major version is found; ``1`` insists, with or without a GPU; ``0`` leaves them
                   out.
    CUDA_HOME      the toolkit, where it is in none of the usual places.
    TORCH_CUDA_ARCH_LIST  the architectures to compile for, "8.0;9.0+PTX" unless said otherwise.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup

OLDEST_TORCH = "0x020a000000000000"  # the stable ABI of PyTorch 2.10


def choice(name: str) -> str:
    """The value of a switch, one of auto, 0 and 1."""
    value = os.environ.get(name, "auto")
    if value not in ("auto", "0", "1"):
        sys.exit(f"{name} must be auto, 0 or 1, got {value!r}")
    return value


def compiler_missing() -> bool:
    """Whether no C++ compiler can be called."""
    return os.name != "nt" and shutil.which(os.environ.get("CXX", "c++").split()[0]) is None


def cuda_home() -> Path | None:
    """The root of the CUDA toolkit: the folder that holds both the compiler and the headers."""
    found = shutil.which("nvcc")
    places = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), found and Path(found).resolve().parents[1]]
    places += ["/usr/local/cuda", *sorted(Path("/usr/local").glob("cuda-*"), reverse=True), "/opt/cuda"]
    for place in map(Path, filter(None, places)):
        if (place / "bin/nvcc").is_file() and (place / "include/cuda_runtime.h").is_file():
            return place
    return None


def why_no_cuda(home: Path | None) -> str | None:
    """Why the CUDA kernels cannot be compiled, or None where they can."""
    import torch

    if torch.version.cuda is None:
        return f"torch {torch.__version__} is not a CUDA build"
    if home is None:
        return "no CUDA toolkit was found (bin/nvcc and include/cuda_runtime.h below CUDA_HOME or /usr/local/cuda)"
    text = subprocess.run([home / "bin/nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"release (\d+)\.(\d+)", text)
    if version is None or version[1] != torch.version.cuda.split(".", maxsplit=1)[0]:
        found = version[0] if version else text
        return f"the CUDA toolkit in {home} is {found}, but torch was built with CUDA {torch.version.cuda}"
    return None


def wants_cuda() -> bool:
    """Whether to compile the CUDA kernels; ends the build where they are insisted on and cannot be."""
    import torch

    wish = choice("FASTCAM_CUDA")
    if wish == "0":
        return False
    home = cuda_home()
    reason = why_no_cuda(home)
    if wish == "auto" and reason is None and not torch.cuda.is_available():
        reason = "there is no GPU (FASTCAM_CUDA=1 compiles them all the same)"
    if reason is None:
        os.environ["CUDA_HOME"] = str(home)
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "8.0;9.0+PTX")
        return True
    if wish == "1":
        sys.exit(f"FASTCAM_CUDA=1 asks for the CUDA kernels, but {reason}")
    print(f"fastcam: no CUDA kernels: {reason}")
    return False


HEADERS = sorted(str(path) for path in Path("csrc").rglob("*.h"))
STABLE_ABI = {"define_macros": [("TORCH_TARGET_VERSION", OLDEST_TORCH)], "py_limited_api": True, "depends": HEADERS}
FLAGS = (
    ["/O2", "/std:c++20"]
    if os.name == "nt"
    else ["-O3", "-g0", "-fopenmp-simd", "-fno-trapping-math", "-fno-math-errno", "-fvisibility=hidden"]
)


def cpu_ops() -> Extension:
    """``fastcam._C``: the schemas and the CPU kernels, on the stable ABI."""
    from torch.utils.cpp_extension import CppExtension

    sources = ["csrc/library.cpp", *sorted(map(str, Path("csrc/cpu").glob("*.cpp")))]
    return CppExtension("fastcam._C", sources, extra_compile_args=FLAGS, **STABLE_ABI)


def cuda_ops() -> Extension:
    """``fastcam._C_cuda``: the CUDA kernels of the same ops; loaded where torch has CUDA."""
    from torch.utils.cpp_extension import CUDAExtension

    sources = ["csrc/library_cuda.cpp", *sorted(map(str, Path("csrc/cuda").glob("*.cu")))]
    flags = {"cxx": [*FLAGS, "-DUSE_CUDA"], "nvcc": ["-O3", "-std=c++17", "--expt-relaxed-constexpr"]}
    return CUDAExtension("fastcam._C_cuda", sources, extra_compile_args=flags, **STABLE_ABI)


def host(with_cuda: bool) -> Extension:
    """``fastcam._host``: build information and rendering on NumPy arrays."""
    import pybind11
    import torch

    macros = [("FASTCAM_TORCH_VERSION", f'"{torch.__version__}"'), ("FASTCAM_WITH_CUDA", str(with_cuda).lower())]
    return Extension(
        "fastcam._host",
        ["csrc/host.cpp"],
        language="c++",
        include_dirs=[pybind11.get_include()],
        define_macros=macros,
        extra_compile_args=FLAGS,
        depends=HEADERS,
    )


def build_arguments() -> dict:
    """What setup() needs to compile, or nothing where it is not to."""
    build = choice("FASTCAM_BUILD")
    if build == "0" or (build == "auto" and compiler_missing()):
        print(f"fastcam: not compiling (FASTCAM_BUILD={build}); the package will use its PyTorch references")
        return {}
    with_cuda = wants_cuda()  # before torch looks for the toolkit itself
    from torch.utils.cpp_extension import BuildExtension

    extensions = [cpu_ops(), host(with_cuda), *([cuda_ops()] if with_cuda else [])]
    return {"ext_modules": extensions, "cmdclass": {"build_ext": BuildExtension}}


setup(**build_arguments())
