"""Build of the compiled part; everything else about the package is in pyproject.toml.

Environment:
    FASTCAM_BUILD  ``auto`` (default) compiles where a C++ compiler is found; ``1`` insists; ``0`` installs
                   the pure-Python package, which then runs on its PyTorch references.
    FASTCAM_CUDA   ``auto`` (default) and ``0`` build the CPU kernels; ``1`` asks for CUDA kernels, which
                   this version does not have yet, and says so.
"""

import os
import shutil
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


def extensions() -> list[Extension]:
    """``fastcam._C`` (dispatcher ops, stable ABI) and ``fastcam._host`` (NumPy rendering)."""
    import pybind11
    import torch
    from torch.utils.cpp_extension import CppExtension

    flags = (
        ["/O2", "/std:c++20"]
        if os.name == "nt"
        else ["-O3", "-g0", "-fopenmp-simd", "-fno-trapping-math", "-fno-math-errno", "-fvisibility=hidden"]
    )
    kernels = CppExtension(
        "fastcam._C",
        ["csrc/library.cpp", *sorted(map(str, Path("csrc/cpu").glob("*.cpp")))],
        define_macros=[("TORCH_TARGET_VERSION", OLDEST_TORCH)],
        extra_compile_args=flags,
        py_limited_api=True,
        depends=sorted(map(str, Path("csrc").glob("*/*.h"))),
    )
    host = Extension(
        "fastcam._host",
        ["csrc/host.cpp"],
        language="c++",
        include_dirs=[pybind11.get_include()],
        define_macros=[("FASTCAM_TORCH_VERSION", f'"{torch.__version__}"')],
        extra_compile_args=flags,
        depends=sorted(map(str, Path("csrc").glob("*/*.h"))),
    )
    return [kernels, host]


def build_arguments() -> dict:
    """What setup() needs to compile, or nothing where it is not to."""
    build = choice("FASTCAM_BUILD")
    if choice("FASTCAM_CUDA") == "1":
        sys.exit(
            "FASTCAM_CUDA=1 asks for CUDA kernels, but this version of fastcam has CPU kernels only; use auto or 0"
        )
    if build == "0" or (build == "auto" and compiler_missing()):
        print(f"fastcam: not compiling (FASTCAM_BUILD={build}); the package will use its PyTorch references")
        return {}
    from torch.utils.cpp_extension import BuildExtension

    return {"ext_modules": extensions(), "cmdclass": {"build_ext": BuildExtension}}


setup(**build_arguments())
