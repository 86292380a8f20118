"""The simulator against kernels that are right and kernels with planted bugs: every bug is found, by the tool named."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "kernels" / "program.cpp"
COMPILER = os.environ.get("CXX", "g++").split()
FLAGS = {
    "plain": ["-O2"],
    "address": ["-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"],
    "thread": ["-O1", "-g1", "-fsanitize=thread"],
}
ORDERS = ["forward", "reverse", "1", "2", "3"]
RUNS = [("plain", order) for order in ORDERS] + [("address", "forward"), ("thread", "forward"), ("thread", "4")]


def refusal() -> str | None:
    """Why nothing can be compiled here; None if it can."""
    if shutil.which(COMPILER[0]) is None:
        return f"there is no compiler {COMPILER[0]}"
    source = "#include <source_location>\n#include <atomic>\nint i; std::atomic_ref<int> a(i);"
    probe = [*COMPILER, "-std=c++20", "-fsyntax-only", "-x", "c++", "-"]
    done = subprocess.run(probe, input=source, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"{COMPILER[0]} does not know C++20"


pytestmark = pytest.mark.skipif(refusal() is not None, reason=str(refusal()))


def launcher(program: Path) -> list[str]:
    """What runs a program that holds a sanitizer: without random addresses where these are in the sanitizer's way.

    A program that starts neither way is kept; its tests fail and show what it says.
    """
    fixed = ["setarch", os.uname().machine, "-R"]
    for prefix in [], fixed if shutil.which("setarch") else []:
        done = subprocess.run([*prefix, program, "nothing"], capture_output=True, text=True, check=False)
        if "there is no case nothing" in done.stdout:
            return [*prefix, str(program)]
    return [str(program)]


def compile_variant(variant: str, folder: Path) -> list[str]:
    """Compiles the program and returns the command that runs it."""
    target = folder / variant
    command = [*COMPILER, "-std=c++20", *FLAGS[variant], str(PROGRAM), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return launcher(target)


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Future[list[str]]]:
    """The programs, compiled two at a time; one that does not compile fails the tests that run it."""
    folder = tmp_path_factory.mktemp("cuda_sim")
    with ThreadPoolExecutor(2) as pool:
        return {variant: pool.submit(compile_variant, variant, folder) for variant in FLAGS}


@pytest.fixture
def run(commands) -> Callable[..., tuple[int, str]]:
    """Runs a case under a variant in an order; returns the exit status and everything said."""

    def call(case: str, variant: str = "plain", order: str = "forward", **environment: str) -> tuple[int, str]:
        settings = {"FASTCAM_SIM_ORDER": order, "TSAN_OPTIONS": "halt_on_error=1", **environment}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("FASTCAM_SIM")}
        command = [*commands[variant].result(), case]
        done = subprocess.run(
            command, env=inherited | settings, capture_output=True, text=True, check=False, timeout=60
        )
        return done.returncode, done.stdout + done.stderr

    return call


@pytest.mark.parametrize(("variant", "order"), RUNS)
def test_correct_kernels_are_right(run, variant, order):
    status, said = run("correct", variant, order)
    assert status == 0, said
    assert said.count("right: ") == 12, said
    assert "wrong" not in said


# What the simulator finds in every build and order, and the sentence that says so.
ALWAYS = {
    "divergent_barrier": r"different __syncthreads\n.*row_sums.*\n  threads 0 to 63 .*:\d+\n  threads 64 to 127 ",
    "waits_for_both": r"deadlock: .*\n.*kernel row_sums, block \(0, 0, 0\).*\n  threads 0 to 23 wait at a shuffle",
    "exited_lanes": r"lane 8 of warp 0 reads lane 24, which takes no part",
    "mask_without_caller": r"lane 24 of warp 0 calls a warp operation with the mask 0x00ffffff, which leaves it out",
    "two_operations": r"lanes of warp 0 with the same mask 0xffffffff are at different warp operations",
    "bad_width": r"a shuffle has width 12; a power of two",
    "nested_launch": r"a kernel launches a kernel",
    "too_many_threads": r"refuses this launch: 1056 threads a block, at most 1024",
    "block_too_deep": r"refuses this launch: its block is \(1, 1, 65\)",
    "grid_too_high": r"refuses this launch: its grid is \(1, 65536, 1\)",
    "no_threads": r"refuses this launch: its block is \(32, 0, 1\)",
    "no_blocks": r"refuses this launch: its grid is \(0, 1, 1\)",
    "too_much_dynamic_shared": r"refuses this launch: 49153 bytes of dynamic shared memory, .*48 KiB",
    "too_much_static_shared": r"49153 bytes of shared memory, static and dynamic; .*48 KiB",
    "large_static_shared": r"49153 bytes of static shared memory; .*48 KiB",
    "large_shared_not_allowed": r"refuses this launch: 65536 bytes of dynamic shared memory, at most 49152 \(48 KiB\)",
    "larger_than_allowed": r"refuses this launch: 65568 bytes of dynamic .*, at most 65536 \(cudaFuncSetAttribute\)",
    "too_much_large_shared": r"232449 bytes of shared memory, static and dynamic; .*227 KiB",
    "asked_for_too_much": r"asked for 199681 bytes of dynamic .* beside 32768 static ones; CUDA allows 232448",
    "copy_of_twelve": r"an asynchronous copy of 12 bytes; .*\n.*staged_sums.*\n.*last seen at .*staged_sums.cu:\d+",
    "copy_misaligned": r"the source of an asynchronous copy of 16 bytes lies 4 bytes behind a multiple of 16",
    "copy_target_misaligned": r"the target of an asynchronous copy of 16 bytes lies 8 bytes behind a multiple of 16",
    "copy_to_global": r"the target of an asynchronous copy of 4 bytes does not lie inside one shared array",
    "copy_past_shared": r"the target of an asynchronous copy of 16 bytes does not lie inside one shared array",
}


@pytest.mark.parametrize("case", ALWAYS)
def test_always_found(run, case):
    status, said = run(case)
    assert status == -6, said  # abort
    assert re.search(r"fastcam simulator: .*" + ALWAYS[case], said), said


@pytest.mark.parametrize("variant", ["address", "thread"])
@pytest.mark.parametrize("case", ["divergent_barrier", "waits_for_both", "exited_lanes", "copy_of_twelve"])
def test_always_found_under_sanitizers(run, case, variant):
    _, said = run(case, variant)
    assert re.search(r"fastcam simulator: .*" + ALWAYS[case], said), said


# Copies that have not landed when they are read, in no order.
TOO_EARLY = ["no_wait", "weak_wait", "no_commit"]

# Wrong numbers: (case, an order that shows them, what they look like).
WRONG = [
    ("missing_barrier", "forward", r"wrong: row sums\[0\] is -?nan"),
    ("missing_last_barrier", "reverse", r"wrong: row sums\[0\] is \d+"),
    ("missing_syncwarp", "forward", r"wrong: warp values"),
    ("one_output", "forward", r"wrong: row sums"),
    ("uninitialised", "forward", r"wrong: histogram"),
    ("uninitialised", "reverse", r"wrong: histogram"),
    ("no_barrier_after_wait", "reverse", r"wrong: staged sums\[0\] is -?nan"),
    ("barrier_before_wait", "reverse", r"wrong: staged sums\[0\] is -?nan"),
    ("no_barrier_before_fetch", "forward", r"wrong: staged sums\[0\] is -?nan"),
    *((case, order, r"wrong: staged sums\[0\] is -?nan") for case in TOO_EARLY for order in ORDERS),
]


@pytest.mark.parametrize(("case", "order", "message"), WRONG)
def test_wrong_numbers(run, case, order, message):
    status, said = run(case, order=order)
    assert status == 1, said
    assert re.search(message, said), said


@pytest.mark.parametrize("case", TOO_EARLY)
def test_copies_end_with_their_block(run, case):
    """What a block has not waited for does not land in the memory of the next one."""
    status, said = run(case, "address")
    assert status == 1, said
    assert re.search(r"wrong: staged sums\[0\] is -?nan", said), said


@pytest.mark.parametrize(("setting", "count"), [({}, 2), ({"FASTCAM_SIM_MULTIPROCESSORS": "132"}, 132)])
def test_device(run, setting, count):
    status, said = run("device", **setting)
    assert status == 0, said
    assert said == f"{count} multiprocessors\n"


@pytest.mark.parametrize("value", ["0", "-1", "many", "2x"])
def test_multiprocessors_that_are_none(run, value):
    status, said = run("device", FASTCAM_SIM_MULTIPROCESSORS=value)
    assert status == -6, said
    assert f"FASTCAM_SIM_MULTIPROCESSORS must be a number from 1 to 1024, not {value}" in said


# What AddressSanitizer and UndefinedBehaviorSanitizer say.
ADDRESS = {
    "global_bounds": r"heap-buffer-overflow(.|\n)*transposed\.cu",
    "shared_bounds": r"heap-buffer-overflow(.|\n)*transposed\.cu(.|\n)*shared_memory\.h",
    "copy_past_source": r"heap-buffer-overflow(.|\n)*READ of size 16(.|\n)*staged_sums\.cu",
    "shared_after_block": r"heap-use-after-free(.|\n)*keeps_shared",
    "misaligned": r"misaligned address .* for type 'const struct float4', which requires 16 byte alignment",
    "shared_misaligned": r"misaligned address .* for type 'const struct float4', which requires 16 byte alignment",
}


@pytest.mark.parametrize("case", ADDRESS)
def test_found_by_address_sanitizer(run, case):
    status, said = run(case, "address")
    assert status != 0
    assert re.search(ADDRESS[case], said), said


# Races, with the source that ThreadSanitizer names: it finds them in every order, also where the numbers are right.
RACES = {
    "missing_barrier": "row_sums.cu",
    "missing_last_barrier": "row_sums.cu",
    "race_after_barrier": "transposed.cu",
    "missing_syncwarp": "warp_values.cu",
    "no_atomic": "histogram.cu",
    "blocks_race": "histogram.cu",
    "one_output": "row_sums.cu",
    "no_barrier_after_wait": "staged_sums.cu",
    "barrier_before_wait": "staged_sums.cu",
    "no_barrier_before_fetch": "staged_sums.cu",
}


def racing_lines(said: str) -> list[str]:
    """The two lines of a race, in kernels: a copy is made in a function of the simulator that the kernel calls."""
    accesses = re.findall(r"(?:Read|Write|read|write) of size \d.*\n((?: +#\d.*\n)+)", said)[:2]
    return [next(line for line in stack.splitlines() if "runtime/pipeline.h" not in line) for stack in accesses]


@pytest.mark.parametrize("order", ["forward", "reverse", "5"])
@pytest.mark.parametrize("case", RACES)
def test_found_by_thread_sanitizer(run, case, order):
    status, said = run(case, "thread", order)
    assert status != 0
    assert "ThreadSanitizer: data race" in said, said
    first, second = racing_lines(said)
    assert RACES[case] in first, said
    assert RACES[case] in second, said
    assert re.search(r"Thread T\d+ 'CUDA thread \d+ of block", said), said


@pytest.mark.parametrize("case", ["race_after_barrier", "no_atomic", "blocks_race"])
def test_numbers_do_not_show_every_race(run, case):
    assert {run(case, order=order)[0] for order in ORDERS} == {0}


@pytest.mark.parametrize("variant", FLAGS)
def test_errors_as_exceptions(run, variant):
    status, said = run("throw", variant)
    assert status == 0, said
    assert said.count("fastcam simulator: ") == 8
    assert said.count("right: ") == 16


def test_an_order_that_is_none(run):
    status, said = run("correct", order="backward")
    assert status == -6, said
    assert "FASTCAM_SIM_ORDER must be forward, reverse or a number" in said


def test_speed(run):
    """Far below what is usual: a fiber switched by system calls would not reach it."""
    status, said = run("speed")
    assert status == 0, said
    rates = [float(rate) for rate in re.findall(r"([\d.]+) million thread steps", said)]
    assert len(rates) == 2
    assert min(rates) > 1, said
