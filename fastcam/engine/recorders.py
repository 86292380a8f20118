"""Recorders of what a function does with tensors that stay in place, to do it again without Python: CUDA graphs."""

import contextlib
from collections.abc import Callable, Iterator
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


def recorder_for(device: torch.device) -> Recorder | None:
    """Return the recorder of a device, or None where nothing is gained by one."""
    return record_cuda_graph if device.type == "cuda" else None


def record_cuda_graph(function: Callable[[], list[Tensor]]) -> Recording:
    """Capture the function's kernels as one CUDA graph; replays write the tensors that its last call returns.

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
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may go on calling CUDA
        function()
    return _CudaGraph(graph)


class _CudaGraph:
    """A captured graph, whose replays on several streams take turns."""

    def __init__(self, graph: torch.cuda.CUDAGraph) -> None:
        self.graph = graph
        self.last: torch.cuda.Event | None = None

    def replay(self) -> None:
        self.graph.replay()

    @contextlib.contextmanager
    def in_turn(self) -> Iterator[None]:
        stream = torch.cuda.current_stream()
        if self.last is not None:
            stream.wait_event(self.last)
        yield
        self.last = stream.record_event()
