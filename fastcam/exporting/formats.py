"""The kinds of files that programs are written to."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from fastcam.exporting.program import FREE, Program

Format = Literal["pt2", "aoti", "torchscript"]
Run = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]  # from images and classes


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        suffixes: of its names.
        write: a program, with the images and classes it was traced on, to a path.
        load: a file as a function.
    """

    suffixes: tuple[str, ...]
    write: Callable[[Program, Tensor, Tensor, Path], None]
    load: Callable[[Path], Run]


def as_exported(program: Program, images: Tensor, classes: Tensor) -> ExportedProgram:
    """Return the program of torch.export, for any sizes of the free axes."""
    free = {axis: Dim.AUTO for axis, side in enumerate(program.sides) if side is None}
    shapes = (free, {0: Dim.AUTO} if 0 in free else {})
    return torch.export.export(program.graph, (images, classes), dynamic_shapes=shapes)


def _write_pt2(program: Program, images: Tensor, classes: Tensor, path: Path) -> None:
    torch.export.save(as_exported(program, images, classes), path)


def _write_aoti(program: Program, images: Tensor, classes: Tensor, path: Path) -> None:
    from torch._inductor import aoti_compile_and_package

    sides = ",".join(str(FREE if side is None else side) for side in program.sides)
    configuration = {"aot_inductor.metadata": {"images": sides}}  # machine code compares no sizes: whoever runs it can
    aoti_compile_and_package(
        as_exported(program, images, classes), package_path=str(path), inductor_configs=configuration
    )


def _write_torchscript(program: Program, images: Tensor, classes: Tensor, path: Path) -> None:
    from fastcam.exporting.torchscript import scripted

    torch.jit.save(scripted(program), path)


def _load_pt2(path: Path) -> Run:
    return torch.export.load(path).module()


def _load_aoti(path: Path) -> Run:
    from torch._inductor import aoti_load_package

    return aoti_load_package(str(path))


def _load_torchscript(path: Path) -> Run:
    return torch.jit.load(path)


KINDS: dict[Format, Kind] = {
    "pt2": Kind((".pt2",), _write_pt2, _load_pt2),
    "aoti": Kind((".pt2",), _write_aoti, _load_aoti),
    "torchscript": Kind((".pt", ".ts", ".torchscript"), _write_torchscript, _load_torchscript),
}
