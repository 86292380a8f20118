"""Recorders of what a function does with tensors that stay in place, to do it again without Python: CUDA graphs."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

WARM_UP_RUNS = 3  # in which libraries choose their algorithms and allocate what they keep


class Recording(Protocol):
    """What a function did."""

    def replay(self) -> None:
        """Do it again: on the present values of the tensors that it read, into the tensors that it returned."""

    def in_turn(self) -> contextlib.AbstractContextManager[None]:
        """Wait, in the context, for what other streams still do with the same tensors."""


Recorder = Callable[[Callable[[], list[Tensor]]], Recording]  # of a function that returns the tensors it writes


def new_recorder(device: torch.device) -> Recorder | None:
    """Return a recorder for a device, or None where nothing is gained by one."""
    return CudaGraphs() if device.type == "cuda" else None


class CudaGraphs:
    """Records kernels as CUDA graphs, which take turns, so that all of them work in the memory of the largest.

    Between two turns nothing of a graph is needed but what it returned, which is copied at once.
    """

    def __init__(self) -> None:
        self._memory = torch.cuda.graph_pool_handle()
        self._last: torch.cuda.Event | None = None

    def __call__(self, function: Callable[[], list[Tensor]]) -> Recording:
        """Capture the function's kernels; replays write the tensors that its last call returns.

        Raises:
            RuntimeError: for a function that cannot be captured, such as one that reads values of tensors.
        """
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_RUNS):
                function()
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            with (
                torch.cuda.stream(current),  # whatever happens, this thread goes on there
                torch.cuda.graph(graph, self._memory, capture_error_mode="thread_local"),  # others may call CUDA
            ):
                function()
        except BaseException:
            self._memory = torch.cuda.graph_pool_handle()  # a failed capture may not have let go of the other
            raise
        return _CudaGraph(graph, self)

    @contextlib.contextmanager
    def in_turn(self) -> Iterator[None]:
        """Wait, in the context, for the graphs that other streams replayed."""
        stream = torch.cuda.current_stream()
        if self._last is not None:
            stream.wait_event(self._last)
        yield
        self._last = stream.record_event()


@dataclass(frozen=True)
class _CudaGraph:
    """A captured graph."""

    graph: torch.cuda.CUDAGraph
    graphs: CudaGraphs

    def replay(self) -> None:
        self.graph.replay()

    def in_turn(self) -> contextlib.AbstractContextManager[None]:
        return self.graphs.in_turn()
