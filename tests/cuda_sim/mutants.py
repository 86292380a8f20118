"""Plants bugs in the CUDA kernels, one at a time, and tells which check catches each: ``make cuda-mutants``.

Every bug is a change of a copy of the sources. The checks run in turn until one fails: the op tests, what nvcc makes of
the kernels where there is one, every kernel under ThreadSanitizer, and the op tests under AddressSanitizer and
UndefinedBehaviorSanitizer and in two other thread orders. A bug that none of them catches ends the program with an error.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.cuda import toolkit
from tests.cuda_sim import simulator


@dataclass(frozen=True)
class Mutant:
    """One planted bug.

    Attributes:
        name: what is wrong.
        file: where, in csrc/.
        old: the text that is replaced; it occurs once.
        new: what replaces it.
    """

    name: str
    file: str
    old: str
    new: str

    def plant(self, root: Path) -> None:
        """Changes the copy of the sources."""
        path = root / "csrc" / self.file
        text = path.read_text()
        if text.count(self.old) != 1:
            raise SystemExit(
                f"{self.name}: the text to change must occur once in {self.file}, found {text.count(self.old)}"
            )
        path.write_text(text.replace(self.old, self.new))


PLANES, ROWS, DEVICE, REDUCTION = "cuda/planes.h", "cuda/rows.h", "cuda/device.h", "cuda/reduction.h"
STAGED, STAGING, OWNERS = "cuda/staged_planes.h", "cuda/staging.h", "cuda/plane_owners.h"

MUTANTS = [
    Mutant("copies are not waited for", STAGED, "      wait_for_copies();\n", ""),
    Mutant("one group of copies too few is waited for", DEVICE, "__pipeline_wait_prior(1)", "__pipeline_wait_prior(2)"),
    Mutant("copies belong to no group", STAGED, "      close_copies();\n", ""),
    Mutant(
        "no barrier between the copies and the sums",
        STAGED,
        "      wait_for_copies();\n      __syncthreads();",
        "      wait_for_copies();",
    ),
    Mutant(
        "a stage is overwritten too early",
        STAGED,
        "      __syncthreads();  // the stage is overwritten by the next turn",
        "",
    ),
    Mutant(
        "the other stage is summed",
        STAGED,
        "const T* stage = room + t % kStages * kTensors",
        "const T* stage = room + (t + 1) % kStages * kTensors",
    ),
    Mutant(
        "planes are kept apart where they are read only",
        STAGING,
        "strides.channel, room, tile.channel, count, positions)",
        "strides.channel, room, positions, count, positions)",
    ),
    Mutant(
        "the tail of a copy is missing",
        STAGING,
        "int i = copied + first; i < length;",
        "int i = copied + first; i < 0;",
    ),
    Mutant(
        "copies read and write past the end",
        STAGING,
        "int i = copied + first; i < length;",
        "int i = copied + first; i <= length;",
    ),
    Mutant(
        "wide copies of unaligned lines",
        STAGING,
        "copy_width(addresses | steps)",
        "copy_width(addresses)",
    ),
    Mutant("copies of four bytes at a time", STAGING, "return bits % 16 == 0 ? 16 : ", "return "),
    Mutant("a thread reads its neighbour's channel", OWNERS, "planes.at(c, 0)", "planes.at(c ^ 1, 0)"),
    Mutant(
        "channels past the end of a tile are summed",
        "cuda/column_owner.h",
        "      if (c + i >= count) word.v[i] = T{};\n",
        "",
    ),
    Mutant(
        "a slot of the map goes to another position",
        "cuda/column_owner.h",
        "threadIdx.x % kWarp * kEach + i, p =",
        "threadIdx.x % kWarp + i * kWarp, p =",
    ),
    Mutant("what was summed before is lost", STAGED, "(begins ? Acc(0) : sums[p]) + sum", "Acc(0) + sum"),
    Mutant(
        "a block sums all its channels at once",
        "cuda/channel_reduction.h",
        "          reduction.chunk(),\n",
        "          reduction.block_channels(),\n",
    ),
    Mutant(
        "more shared memory than was asked for",
        "cuda/launch_limits.h",
        "  cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most);",
        "  (void)most;",
    ),
    Mutant(
        "no barrier between the warps' maps and their total",
        OWNERS,
        "    __syncthreads();\n    for (int p = threadIdx.x; p < positions; p += kBlock) {\n      Acc sum = 0;",
        "    for (int p = threadIdx.x; p < positions; p += kBlock) {\n      Acc sum = 0;",
    ),
    Mutant("the warps take no turns", OWNERS, "      if (warp == turn) {", "      {"),
    Mutant(
        "a lane gets the sum of another position",
        OWNERS,
        "threadIdx.x % kWarp * kEach + i] = map[i];",
        "threadIdx.x % kWarp + i * kWarp] = map[i];",
    ),
    Mutant(
        "no barrier before the warps' sums are overwritten",
        ROWS,
        "__syncthreads();  // the parts of an earlier sum may still be read",
        "",
    ),
    Mutant(
        "no barrier before a block's sums are overwritten",
        DEVICE,
        "__syncthreads();  // the parts of an earlier sum may still be read",
        "",
    ),
    Mutant(
        "a plane is one element too long",
        OWNERS,
        "for (int p = 0; p < left; p += kWarp) total",
        "for (int p = 0; p <= left; p += kWarp) total",
    ),
    Mutant("a lane is missing in the mask", DEVICE, "0xffffffffu, value, offset", "0x7fffffffu, value, offset"),
    Mutant("the last step of the warp's sum is missing", DEVICE, "offset > 0; offset /= 2", "offset > 1; offset /= 2"),
    Mutant(
        "16-byte loads of unaligned data",
        DEVICE,
        "if (aligned && count >= Pack<T>::size) return",
        "if (count >= Pack<T>::size && stride == 1) return",
    ),
    Mutant(
        "the chunks of a map share one output",
        REDUCTION,
        "arguments.sizes.targets + target) * arguments.chunks + chunk}",
        "arguments.sizes.targets + target) * arguments.chunks}",
    ),
    Mutant(
        "every lane of a warp writes the output", ROWS, "p < positions && threadIdx.x % kRowLanes == 0", "p < positions"
    ),
    Mutant(
        "lanes past the last position read there",
        ROWS,
        "first + slot < positions ? first + slot : positions - 1",
        "first + slot",
    ),
    Mutant(
        "positions of other lanes are left out",
        ROWS,
        "int offset = kLanes; offset < kWarp",
        "int offset = kWarp; offset < kWarp",
    ),
    Mutant(
        "a chunk that is not full is read as one that is",
        ROWS,
        "if (aligned && task.count == kRowLanes * Pack<T>::size)",
        "if (aligned)",
    ),
    Mutant("a load that is used at once", ROWS, "for_loaded<4>(0, positions", "for_loaded<1>(0, positions"),
    Mutant(
        "the last pack of a plane is left out",
        PLANES,
        "if (whole < positions && threadIdx.x == whole / kSize % kThreads) add(whole, load(whole",
        "if (false) add(whole, load(whole",
    ),
    Mutant(
        "half precision is summed in half precision",
        OWNERS,
        "          map[p] += weight * activation;",
        "          map[p] += weight * activation; if constexpr (sizeof(T) == 2) { T half; narrow(float(map[p]), half); map[p] = widen(half); }",
    ),
    Mutant(
        "image and target strides swapped",
        REDUCTION,
        "task.image * arguments.ws.image + task.target * arguments.ws.target",
        "task.image * arguments.ws.target + task.target * arguments.ws.image",
    ),
    Mutant(
        "an offset in 32 bits",
        REDUCTION,
        "arguments.a + task.image * arguments.as.image + task.first * arguments.as.channel",
        "arguments.a + static_cast<int>(task.image * arguments.as.image) + task.first * arguments.as.channel",
    ),
    Mutant(
        "a channel's offset in 32 bits",
        PLANES,
        "load_pack<kAligned>(a + c * as.channel",
        "load_pack<kAligned>(a + static_cast<int>(c * as.channel)",
    ),
    Mutant("a grid larger than CUDA allows", DEVICE, "tasks < 65535 ? tasks : 65535", "tasks"),
    Mutant("the ReLU is lost where chunks are added", REDUCTION, "= relu ? rectify(sum) : sum;", "= sum;"),
    Mutant("only two corners of an interval are looked at", "cuda/resample.h", "corner < 4", "corner < 2"),
    Mutant(
        "extremes are read before they are there",
        "cuda/resample.h",
        "  __syncthreads();\n  low = lows[0];",
        "  low = lows[0];",
    ),
    Mutant(
        "threads without outputs leave the block before its barriers",
        "cuda/upsample_normalize.cu",
        "if (!kIsSmall && !has_outputs) return;",
        "if (!has_outputs) return;",
    ),
    Mutant(
        "a map whose extremes nobody finds",
        "cuda/kernels.h",
        "return normalize && !is_small_map(height, width) ? 2 * count : 0;",
        "return normalize && height * width > 2048 ? 2 * count : 0;",
    ),
    Mutant(
        "every copy is under the first mask", "cuda/mask_images.cu", "maps + index * y.source", "maps + 0 * y.source"
    ),
    Mutant("a window's first row is missed", "cuda/occlude.cu", "last >= window.start[0]", "last > window.start[0]"),
    Mutant(
        "a patch begins at its first row everywhere",
        "cuda/gather_patches.cu",
        "y.patch_start + row - y.patch.start",
        "row - y.patch.start",
    ),
    Mutant(
        "the colour table is read before it is there",
        "cuda/overlay.cu",
        "table[i] = colors[i];\n  __syncthreads();",
        "table[i] = colors[i];",
    ),
    Mutant(
        "the largest weight of the crop alone",
        "cuda/resize_crop.cu",
        "const Window window(output, source, scale, cubic);",
        "const Window window(first + output % outputs, source, scale, cubic);",
    ),
    Mutant(
        "lines that the crop needs begin at the first",
        "cuda/resize_crop.cu",
        "photograph.height + first + line;",
        "photograph.height + line;",
    ),
    Mutant(
        "the first group's photographs in every group",
        "cuda/resize_crop.cu",
        "resizing.photographs[begin + i]",
        "resizing.photographs[i]",
    ),
    Mutant(
        "loads of one element at a time",
        DEVICE,
        "  if constexpr (kAligned) {\n    return",
        "  if constexpr (false) {\n    return",
    ),
    Mutant(
        "no barrier after a pass over a grid",
        "cuda/impute_neighbours.cu",
        "f(i / columns, i % columns);\n    __syncthreads();",
        "f(i / columns, i % columns);",
    ),
    Mutant(
        "all blocks have the same grids",
        "cuda/impute_neighbours.cu",
        "blockIdx.x * m.workspace_elements",
        "0 * m.workspace_elements",
    ),
    Mutant("the last line has neighbours below", "common/imputation.h", "(y == last)) * Acc", "0) * Acc"),
]


def op_tests(root: Path, order: str, variant: str = "plain") -> bool:
    """Whether the op tests pass on the changed kernels."""
    return simulator.run_op_tests(order, simulator.build(variant, root=root), variant, "-x").returncode == 0


def no_races(root: Path) -> bool:
    """Whether every kernel runs under ThreadSanitizer without a report."""
    return subprocess.run([simulator.build("thread", "races", root)], capture_output=True, check=False).returncode == 0


def wide_loads(root: Path) -> bool:
    """Whether nvcc's machine code still loads 16 bytes at a time."""
    environment = os.environ | {"FASTCAM_CUDA_SOURCES": str(root / "csrc/cuda")}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "nvcc", "tests/cuda/test_compiled.py"]
    done = subprocess.run(command, cwd=simulator.ROOT, env=environment, capture_output=True, check=False)
    return done.returncode == 0


CHECKS: dict[str, Callable[[Path], bool]] = {
    "op tests, forward": lambda root: op_tests(root, "forward"),
    **({"machine code": wide_loads} if toolkit.nvcc() and toolkit.cuobjdump() else {}),
    "ThreadSanitizer": no_races,
    "AddressSanitizer": lambda root: op_tests(root, "forward", "address"),
    "op tests, reverse": lambda root: op_tests(root, "reverse"),
    "op tests, random": lambda root: op_tests(root, "7"),
}


def first_catch(mutant: Mutant, folder: Path) -> str | None:
    """The first check that fails on the planted bug."""
    mutant.plant(folder)
    return next((name for name, check in CHECKS.items() if not check(folder)), None)


def main() -> None:
    """Plants the bugs whose names hold the words given, or all, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", help="only bugs whose name holds all of these")
    words = parser.parse_args().words
    console = Console(width=120)
    table = Table("planted bug", "file", "first caught by")
    survivors = 0
    for mutant in (each for each in MUTANTS if all(word in each.name for word in words)):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for part in ("csrc", "tests/cuda_sim"):
                shutil.copytree(simulator.ROOT / part, folder / part)
            caught = first_catch(mutant, folder)
        survivors += caught is None
        console.print(f"{mutant.name}: {caught or 'NOT CAUGHT'}")
        table.add_row(mutant.name, mutant.file, caught or "[red]nothing[/]")
    console.print(table)
    sys.exit(f"{survivors} planted bugs were not caught" if survivors else 0)


if __name__ == "__main__":
    main()
