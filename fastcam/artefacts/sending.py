"""Models that are files or compiled as bytes, for other processes: pickle takes none of them."""

import copy
import io
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from fastcam.artefacts import exported_programs
from fastcam.artefacts.compiled_programs import CompiledProgram

Kind = Literal["script", "program", "package"]


@dataclass(frozen=True)
class Packed:
    """A model as the bytes of a file.

    Attributes:
        kind: of the file.
        data: its bytes.
    """

    kind: Kind
    data: bytes

    def unpacked(self) -> nn.Module:
        """Return the model, in evaluation mode, on the CPU."""
        if self.kind == "package":
            with tempfile.NamedTemporaryFile(suffix=".pt2") as file:
                file.write(self.data)
                file.flush()
                return CompiledProgram(Path(file.name), self.data)
        file_of_bytes = io.BytesIO(self.data)
        if self.kind == "program":
            return exported_programs.read(torch.export.load(file_of_bytes))
        script: nn.Module = torch.jit.load(file_of_bytes, map_location="cpu")
        for module in script.modules():
            module.training = False
        return script


def packed(model: nn.Module) -> nn.Module | Packed:
    """Return TorchScript, an exported program or a package as bytes, and any other model as it is.

    Raises:
        ValueError: for an exported program whose weights were changed since, or a package whose file is gone.
    """
    file = io.BytesIO()
    if isinstance(model, torch.jit.ScriptModule):
        torch.jit.save(model, file)
        return Packed("script", file.getvalue())
    if isinstance(model, CompiledProgram):
        try:
            return Packed("package", model.data or model.path.read_bytes())
        except OSError as error:
            raise ValueError(f"the package {str(model.path)!r} cannot be read any more: {error.strerror}") from None
    program = exported_programs.program_of(model)
    if program is None:
        return model
    if not _holds_weights_of(model, program):
        raise ValueError("the weights of the exported program were changed since it was loaded")
    torch.export.save(program, file)
    return Packed("program", file.getvalue())


def _holds_weights_of(model: nn.Module, program: ExportedProgram) -> bool:
    """Whether a model has the values and types of its program: it has copies of them."""
    loaded = {**program.state_dict, **program.constants}
    return all(
        loaded[name].dtype == value.dtype and torch.equal(loaded[name].cpu(), value.detach().cpu())
        for name, value in (*model.named_parameters(), *model.named_buffers())
        if isinstance(loaded.get(name), Tensor)
    )


def on_cpu(model: nn.Module) -> nn.Module:
    """Return a copy of a model on the CPU.

    Raises:
        ValueError: as :func:`packed`.
    """
    file = packed(model)
    return file.unpacked() if isinstance(file, Packed) else copy.deepcopy(file).cpu()
