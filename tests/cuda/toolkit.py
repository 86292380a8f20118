"""Compiles the kernels with nvcc and reads what came out: ptxas's figures and the machine code."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = sorted(Path(os.environ.get("FASTCAM_CUDA_SOURCES", ROOT / "csrc/cuda")).glob("*.cu"))
FLAGS = ["-O3", "-std=c++17", "--expt-relaxed-constexpr", "-Xptxas", "-v"]


def nvcc() -> str | None:
    """The CUDA compiler, or None."""
    homes = [os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    found = [path for home in homes if home and (path := Path(home, "bin/nvcc")).is_file()]
    return str(found[0]) if found else shutil.which("nvcc")


def cuobjdump() -> str | None:
    """The reader of compiled kernels: the toolkit's, or the one that Triton brings along with torch."""
    compiler = nvcc()
    if compiler and (path := Path(compiler).resolve().with_name("cuobjdump")).is_file():
        return str(path)
    try:
        import triton
    except ImportError:
        return shutil.which("cuobjdump")
    path = Path(triton.__file__).with_name("backends") / "nvidia/bin/cuobjdump"
    return str(path) if path.is_file() else shutil.which("cuobjdump")


@dataclass(frozen=True)
class Kernel:
    """One compiled kernel: its mangled name and what ptxas says of it."""

    name: str
    registers: int
    stack: int
    spills: int
    shared: int

    def is_a(self, family: str) -> bool:
        """Whether it is an instance of this kernel template."""
        return f"{len(family)}{family}I" in self.name


def compile_kernels(source: Path, architecture: str, folder: Path) -> tuple[Path, list[Kernel]]:
    """The object of one source file for one architecture, and its kernels."""
    target = folder / f"{source.stem}.{architecture}.cubin"
    command = [str(nvcc()), *FLAGS, f"-arch={architecture}", "-cubin", str(source), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"nvcc refuses {source.name}:\n{done.stderr}")
    return target, list(_kernels(done.stdout + done.stderr))


def _kernels(text: str):
    for part in re.split(r"Compiling entry function ", text)[1:]:
        name = re.match(r"'(\S+)'", part)[1]
        stack, stores, loads = re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part
        ).groups()
        shared = re.search(r"(\d+) bytes smem", part)
        registers = int(re.search(r"Used (\d+) registers", part)[1])
        yield Kernel(name, registers, int(stack), int(stores) + int(loads), int(shared[1]) if shared else 0)


def machine_code(binary: Path) -> dict[str, list[tuple[int, str]]]:
    """The instructions of every kernel, as (address, text)."""
    done = subprocess.run([str(cuobjdump()), "-sass", str(binary)], capture_output=True, text=True, check=True)
    functions: dict[str, list[tuple[int, str]]] = {}
    for line in done.stdout.splitlines():
        if match := re.match(r"\s*Function : (\S+)", line):
            current = functions.setdefault(match[1], [])
        elif match := re.match(r"\s*/\*([0-9a-f]+)\*/\s+(.*?);", line):
            current.append((int(match[1], 16), match[2]))
    return functions


def loops(code: list[tuple[int, str]]) -> list[list[str]]:
    """The instructions between every backward branch and its target."""
    found = []
    for address, text in code:
        match = re.search(r"BRA\S*\s+.*?(0x[0-9a-f]+)", text)
        if match and int(match[1], 16) < address:
            found.append([inside for at, inside in code if int(match[1], 16) <= at <= address])
    return found
