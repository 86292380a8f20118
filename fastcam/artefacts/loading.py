"""Models that are files: TorchScript, torch.export programs, AOTInductor packages. Loading one runs code in it."""

from pathlib import Path

import torch
from torch import nn

from fastcam.artefacts import exported_programs
from fastcam.artefacts.compiled_programs import CompiledProgram, is_package

SUFFIXES = (".pt", ".ts", ".torchscript", ".pt2")


def load(file: str | Path, trust: bool = False) -> nn.Module:
    """Return the model in a file, in evaluation mode, on the CPU.

    Args:
        file: TorchScript (.pt, .ts or .torchscript), or a program saved by torch.export or compiled by AOTInductor
            (.pt2).
        trust: whether you trust the file: loading runs code that is in it.

    Raises:
        ValueError: without trust, and for a file that is missing or holds no model.
    """
    path = Path(file)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"a model file must end in {', '.join(SUFFIXES)}, got {path.name!r}")
    if not path.is_file():
        raise ValueError(f"there is no model file {str(path)!r}")
    if not trust:
        raise ValueError(
            f"{path.name!r} holds code as well as weights, and whoever made it decides what loading it does: pass "
            "`trust=True` if you know where it comes from"
        )
    is_program = path.suffix == ".pt2"
    try:
        model = _load_program(path) if is_program else torch.jit.load(path, map_location="cpu")
    except Exception as error:  # either loader may raise anything for malformed bytes
        hint = "" if is_program else "; a state dict is loaded into an architecture, as its weights"
        reason = str(error).strip().split("\n", maxsplit=1)[0].split(". ")[0] or type(error).__name__
        raise ValueError(f"{path.name!r} holds no model that torch can load: {reason}{hint}") from error
    for module in model.modules():
        module.training = False  # `eval` of an exported program raises: export fixes the mode
    return model


def _load_program(path: Path) -> nn.Module:
    return CompiledProgram(path) if is_package(path) else exported_programs.read(torch.export.load(path))
