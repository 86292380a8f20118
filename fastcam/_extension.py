"""Loads the compiled ops; :func:`build_info` reports why they cannot be loaded."""

import importlib
import importlib.util
import os
import warnings
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch

_reason: str | None = None

if os.environ.get("FASTCAM_REFERENCE") == "1":
    _reason = "FASTCAM_REFERENCE=1 asks for the PyTorch references"
else:
    try:
        importlib.import_module("fastcam._C")
    except ImportError as error:
        _reason = f"the compiled ops could not be loaded ({error}); reinstall with a C++ compiler to have them"


def _load_cuda() -> str | None:
    """Load the CUDA kernels; return the reason if they are unavailable."""
    if _reason is not None:
        return "the compiled ops are not loaded"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is not a CUDA build"
    if importlib.util.find_spec("fastcam._C_cuda") is None:
        return "fastcam was built without them; reinstall with a CUDA toolkit to have them"
    try:
        importlib.import_module("fastcam._C_cuda")
    except ImportError as error:
        return f"they could not be loaded ({error})"
    return None


_cuda_reason = _load_cuda()

if _reason is not None:
    warnings.warn(f"fastcam runs on its PyTorch references: {_reason}", RuntimeWarning, stacklevel=2)


class CompiledRendering(Protocol):
    """The functions of ``fastcam._host``."""

    def to_uint8(self, maps: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
        """See :func:`fastcam.render.to_uint8`."""

    def overlay(
        self,
        images: npt.NDArray[np.uint8],
        maps: npt.NDArray[np.floating],
        colors: npt.NDArray[np.uint8],
        alpha: float,
    ) -> npt.NDArray[np.uint8]:
        """See :func:`fastcam.render.overlay`."""

    def build_info(self) -> dict[str, str]:
        """Return the compiler and the versions at build time."""


def has_extension() -> bool:
    """Whether the compiled ops are loaded."""
    return _reason is None


def library_path() -> Path:
    """Return the shared library of the ops, which any program with libtorch can load to run exported explainers.

    Raises:
        RuntimeError: without the compiled ops.
    """
    if not has_extension():
        raise RuntimeError(f"there is no library of compiled ops: {_reason}")
    return Path(cast("str", importlib.import_module("fastcam._C").__file__))


def host() -> CompiledRendering | None:
    """Return the compiled NumPy rendering, ``fastcam._host``, or None if it was not built."""
    if not has_extension():
        return None
    return cast("CompiledRendering", importlib.import_module("fastcam._host"))


def build_info() -> dict[str, Any]:
    """Return how this installation was built.

    Returns:
        ``extension`` (whether the compiled ops run), ``reason`` (why they do not, or None), ``cuda`` (whether the CUDA
        kernels are loaded; without them the references run on CUDA tensors), ``cuda_reason`` (likewise),
        ``torch`` (running version) and, with the extension, ``compiler``, ``torch_at_build``, ``cuda_at_build`` and
        ``cpu_capability`` ("plain", "AVX2" or "AVX-512", chosen at run time).
    """
    info: dict[str, Any] = {
        "extension": has_extension(),
        "reason": _reason,
        "cuda": _cuda_reason is None,
        "cuda_reason": _cuda_reason,
        "torch": torch.__version__,
    }
    compiled = host()
    return info | (compiled.build_info() if compiled is not None else {})
