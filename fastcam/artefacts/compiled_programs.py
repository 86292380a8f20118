"""AOTInductor packages: models that are machine code, with scores but without gradients or layers."""

import contextlib
import os
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

# Machine code for other sizes reads beyond its input, and returns numbers. With this it compares the sizes in every
# call; a package reads it in its first.
_CHECK_SIZES = "AOTI_RUNTIME_CHECK_INPUTS"
_ROWS = " at 0, "  # in torch's messages on the number of rows
_environment = threading.Lock()
_SIZES_TO_TRY = (8, 4, 2, 1, 16, 32, 64, 128, 256)


def is_package(path: Path) -> bool:
    """Whether a .pt2 file is machine code rather than a program."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/aotinductor/" in name for name in archive.namelist())


class CompiledProgram(nn.Module):
    """A model that is an AOTInductor package, for any number of images.

    A package is compiled for one number of rows or for a range of them; other numbers are divided, and filled up with
    repetitions.

    Args:
        path: of the package.
        data: its bytes, where the file will be gone.
    """

    def __init__(self, path: Path, data: bytes = b"") -> None:
        from torch._inductor import aoti_load_package

        super().__init__()
        self.training = False
        self.path, self.data = path.absolute(), data
        self._package = aoti_load_package(str(path))
        self._was_run = False
        self._rows: int | None = None  # that it takes, where it did not take what it was given

    def forward(self, *arguments: Any) -> Any:
        """Return what the package returns.

        Raises:
            RuntimeError: where gradients are asked for, and for sizes it was not compiled for.
        """
        if torch.is_grad_enabled() and any(isinstance(each, Tensor) and each.requires_grad for each in arguments):
            raise RuntimeError(
                "an AOTInductor package is machine code, without layers or gradients: occlusion and rise need neither"
            )
        tensors = tuple(each.contiguous() if isinstance(each, Tensor) else each for each in arguments)
        rows = _rows_of(tensors)
        if self._rows is not None and rows is not None:
            return self._run_in_parts(tensors, rows, self._rows)
        try:
            return self._run(*tensors)
        except RuntimeError as error:
            if rows is None:
                raise
            return self._run_in_parts_of_any_size(tensors, rows, error)

    def _run(self, *tensors: Any) -> Any:
        if self._was_run:
            return self._package(*tensors)
        with _checked_sizes():
            self._was_run = True
            return self._package(*tensors)

    def _run_in_parts_of_any_size(self, tensors: tuple[Tensor, ...], rows: int, error: RuntimeError) -> Any:
        for size in _SIZES_TO_TRY:
            try:
                result = self._run_in_parts(tensors, rows, size)
            except RuntimeError as other:
                error = error if _ROWS not in str(error) else other
                continue
            self._rows = size
            return result
        shapes = ", ".join(str(tuple(each.shape)) for each in tensors)
        reason = str(error).strip().partition("\n")[0]
        raise RuntimeError(
            f"the AOTInductor package was not compiled for inputs of shape {shapes}: {reason}"
        ) from error

    def _run_in_parts(self, tensors: tuple[Tensor, ...], rows: int, size: int) -> Any:
        parts = []
        for start in range(0, rows, size):
            chosen = torch.arange(start, start + size).clamp(max=rows - 1)
            parts.append(self._run(*(each[chosen.to(each.device)] for each in tensors)))
        return tree_map(lambda *results: _joined(results, size, rows), *parts)


@contextlib.contextmanager
def _checked_sizes() -> Iterator[None]:
    with _environment:
        before = os.environ.get(_CHECK_SIZES)
        os.environ[_CHECK_SIZES] = "1"
        try:
            yield
        finally:
            if before is None:
                del os.environ[_CHECK_SIZES]
            else:
                os.environ[_CHECK_SIZES] = before


def _rows_of(tensors: tuple[Any, ...]) -> int | None:
    """Return the number of rows that all arguments have; None where they do not."""
    counts = {len(each) if isinstance(each, Tensor) and each.dim() > 0 else None for each in tensors}
    return counts.pop() if len(counts) == 1 else None


def _joined(results: tuple[Any, ...], size: int, rows: int) -> Any:
    if all(isinstance(each, Tensor) and each.dim() > 0 and len(each) == size for each in results):
        return torch.cat(results)[:rows]
    return results[0]
