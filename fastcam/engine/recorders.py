"""Recorders of what a function does with tensors that stay in place, to do it again without Python: CUDA graphs."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

MEMORY_SHARE = 0.25  # of a GPU's memory, which the graphs of all explainers may keep
WARM_UP_RUNS = 3  # in which libraries choose their algorithms and allocate what they keep


class Recording(Protocol):
    """What a function did."""

    @property
    def bytes(self) -> int:
        """Of memory that it took for itself, and keeps."""

    def replay(self) -> None:
        """Do it again: on the present values of the tensors that it read, into the tensors that it returned."""

    def in_turn(self) -> contextlib.AbstractContextManager[None]:
        """Wait, in the context, for what other streams still do with the same tensors."""


class Recorder(Protocol):
    """Records functions that return the tensors they write.

    Attributes:
        limit: bytes of memory that all recordings on a device may keep.
        bytes: that those of this recorder keep, also what one keeps for others that went.
    """

    limit: int
    bytes: int

    def __call__(self, function: Callable[[], list[Tensor]]) -> Recording:
        """Record what a function does."""

    def wait(self) -> None:
        """Wait for what was replayed."""


def new_recorder(device: torch.device) -> Recorder | None:
    """Return a recorder for a device, or None where nothing is gained by one."""
    return CudaGraphs(device) if device.type == "cuda" and torch.cuda.is_available() else None


class CudaGraphs:
    """Records kernels as CUDA graphs, which take turns, so that all of them work in the memory of the largest.

    Between two turns nothing of a graph is needed but what it returned, which is copied at once.

    Args:
        device: of the kernels.
    """

    def __init__(self, device: torch.device) -> None:
        self.limit, self.bytes = int(torch.cuda.get_device_properties(device).total_memory * MEMORY_SHARE), 0
        self._device = device
        self._memory = torch.cuda.graph_pool_handle()
        self._last: torch.cuda.Event | None = None

    def __call__(self, function: Callable[[], list[Tensor]]) -> Recording:
        """Capture the function's kernels; replays write the tensors that its last call returns.

        Raises:
            RuntimeError: for a function that cannot be captured, such as one that reads values of tensors.
        """
        with torch.cuda.device(self._device):  # which need not be the caller's
            return self._capture(function)

    def _capture(self, function: Callable[[], list[Tensor]]) -> Recording:
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_RUNS):
                function()
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # On a stream of this device, as torch's own is of the first that captured; other threads may call CUDA.
        capture = torch.cuda.graph(graph, self._memory, stream=side, capture_error_mode="thread_local")
        try:
            with torch.cuda.stream(current), capture:  # whatever happens, this thread goes on with its stream
                before = torch.cuda.memory_reserved()  # here: entering the capture lets go of what is not in use
                function()
                taken = max(0, torch.cuda.memory_reserved() - before)
        except BaseException:
            self._memory = torch.cuda.graph_pool_handle()  # a failed capture may not have let go of the other
            raise
        self.bytes += taken
        return _CudaGraph(graph, self, taken)

    @contextlib.contextmanager
    def in_turn(self) -> Iterator[None]:
        """Work, in the context, on the device, after the graphs that other streams replayed."""
        with torch.cuda.device(self._device):
            stream = torch.cuda.current_stream()
            if self._last is not None:
                stream.wait_event(self._last)
            yield
            self._last = stream.record_event()

    def wait(self) -> None:
        """Wait for what was replayed."""
        if self._last is not None:
            self._last.synchronize()


@dataclass(frozen=True)
class _CudaGraph:
    """A captured graph."""

    graph: torch.cuda.CUDAGraph
    graphs: CudaGraphs
    bytes: int

    def replay(self) -> None:
        self.graph.replay()

    def in_turn(self) -> contextlib.AbstractContextManager[None]:
        return self.graphs.in_turn()
