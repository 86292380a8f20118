"""What nvcc makes of the kernels: registers, spills, and 16-byte loads where the data streams through."""

import re

import pytest

from tests.cuda import toolkit

pytestmark = [
    pytest.mark.nvcc,
    pytest.mark.skipif(toolkit.nvcc() is None, reason="there is no CUDA compiler"),
    pytest.mark.skipif(toolkit.cuobjdump() is None, reason="there is no cuobjdump to read machine code with"),
]

# Registers of the largest instance, rounded up to what an allocation holds; nothing may spill. 128 is what leaves room
# for two blocks of 256 threads on a multiprocessor. Blocks of staged planes are smaller, or keep a large map.
MOST_REGISTERS = {
    "staged_planes": 232,
    "large_planes": 120,
    "plane_weights": 112,
    "rows": 128,
    "add_chunks": 40,
    "moment_planes": 72,
    "moment_rows": 72,
    "rectify_values": 24,
    "find_extremes": 48,
    "resample": 128,
    "mask_planes": 112,
    "occlude_planes": 72,
    "gather_windows": 64,
    "impute_planes": 128,
    "overlay_pixels": 64,
    "find_weights": 56,
    "resize_across": 72,
    "resize_down": 80,
}
# How the hot loops read memory: into registers, or past them into shared memory.
STREAMING = {"staged_planes": "LDGSTS", "large_planes": "LDG", "plane_weights": "LDG", "rows": "LDG"}


@pytest.fixture(scope="module", params=toolkit.architectures())
def compiled(request, tmp_path_factory):
    """(kernel, its instructions) of every kernel, for one architecture."""
    read = []
    for binary in toolkit.binaries(request.param, tmp_path_factory.mktemp(request.param)):
        code = toolkit.machine_code(binary, request.param)
        read += [(kernel, code[kernel.name]) for kernel in toolkit.kernels(binary, request.param)]
    return read


def test_registers_and_spills(compiled):
    largest = dict.fromkeys(MOST_REGISTERS, 0)
    for kernel, _ in compiled:
        (family,) = [name for name in MOST_REGISTERS if kernel.is_a(name)]
        assert (kernel.stack, kernel.local) == (0, 0), kernel
        assert kernel.registers <= MOST_REGISTERS[family], kernel
        largest[family] = max(largest[family], kernel.registers)
    assert all(largest.values()), "a family of kernels was not compiled"


# Of kernels that load into registers: loads of 16 bytes on their way at once, and what must not stand between them.
TOGETHER = {"large_planes": 4, "plane_weights": 4, "rows": 4}
USES = re.compile(r"\b[DF](ADD|MUL|FMA)\b|\bSHFL\b|\bSTG\b|\bBAR\b|\bMUFU\b")


def test_loads_are_on_their_way_together(compiled):
    """A load that is used at once leaves memory idle: what a multiprocessor has in flight is what it gets."""
    for kernel, code in compiled:
        most = [least for family, least in TOGETHER.items() if kernel.is_a(family)]
        run = longest = 0
        for _, instruction in code if most else []:
            run = 0 if USES.search(instruction) else run + ("LDG.E.128" in instruction)
            longest = max(longest, run)
        assert not most or longest >= most[0], kernel


def test_streams_are_read_in_16_bytes(compiled):
    seen = set()
    for kernel, code in compiled:
        for family in (name for name in STREAMING if kernel.is_a(name)):
            seen.add(family)
            is_wide = re.compile(rf"{STREAMING[family]}\.E\S*\.128").search
            assert any(any(map(is_wide, loop)) for loop in toolkit.loops(code)), (
                f"no loop of {kernel.name} loads 16 bytes at a time"
            )
    assert seen == set(STREAMING)
