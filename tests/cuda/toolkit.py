"""Reads what nvcc made of the kernels, of the extension or of changed sources: registers, stack and machine code."""

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHANGED = os.environ.get("FASTCAM_CUDA_SOURCES")  # a folder of sources to look at in place of the extension
FLAGS = ["-O3", "-std=c++17", "--expt-relaxed-constexpr"]


def architectures() -> list[str]:
    """The architectures that setup.py compiles for."""
    listed = os.environ.get("TORCH_CUDA_ARCH_LIST", "8.0;9.0+PTX")
    return [f"sm_{name.removesuffix('+PTX').replace('.', '')}" for name in listed.split(";")]


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
    """One compiled kernel: its mangled name and what it takes; what is spilled lies in local memory."""

    name: str
    registers: int
    stack: int
    local: int

    def is_a(self, family: str) -> bool:
        """Whether it is this kernel, or an instance of this template."""
        return any(f"{len(family)}{family}{end}" in self.name for end in "IE")


def binaries(architecture: str, folder: Path) -> list[Path]:
    """The built extension, or the changed sources compiled into a folder."""
    if CHANGED is None:
        (extension,) = (ROOT / "fastcam").glob("_C_cuda*.so")
        return [extension]
    with ThreadPoolExecutor(2) as pool:
        sources = sorted(Path(CHANGED).glob("*.cu"))
        return list(pool.map(lambda source: _compile(source, architecture, folder), sources))


def _compile(source: Path, architecture: str, folder: Path) -> Path:
    target = folder / f"{source.stem}.{architecture}.cubin"
    command = [str(nvcc()), *FLAGS, f"-arch={architecture}", "-cubin", str(source), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"nvcc refuses {source.name}:\n{done.stderr}")
    return target


def _read(option: str, binary: Path, architecture: str) -> str:
    command = [str(cuobjdump()), option, *([] if CHANGED else ["-arch", architecture]), str(binary)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def kernels(binary: Path, architecture: str) -> list[Kernel]:
    """The kernels in a binary."""
    found = re.findall(
        r"Function (\S+):\n\s*REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", _read("-res-usage", binary, architecture)
    )
    return [Kernel(name, *map(int, figures)) for name, *figures in found]


def machine_code(binary: Path, architecture: str) -> dict[str, list[tuple[int, str]]]:
    """The instructions of every kernel, as (address, text)."""
    functions: dict[str, list[tuple[int, str]]] = {}
    for line in _read("-sass", binary, architecture).splitlines():
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
