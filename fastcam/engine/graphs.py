"""Work on tensors of a form that was seen before, replayed as one recorded graph.

The whole of a one-pass explanation, from the images to the maps, or of what a method asks of a block of copies, is
recorded with tensors that stay in place: images and classes are copied into them, the graph is replayed, and its
results are copied out. It is recorded when a form is seen for the second time, with other images, and used if its
results for the images themselves agree with those of the same work without it: work that is no part of the recording,
such as that of another device, shows in this.
"""

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from fastcam.engine.graph_keys import CallKey
from fastcam.engine.model_state import ModelState, has_hooks, side_effects
from fastcam.engine.notes import warn
from fastcam.engine.recorders import Recorder, Recording, new_recorder
from fastcam.model.cancellation import raise_if_cancelled
from fastcam.model.elements import ModelOutput
from fastcam.model.out_of_memory import add_keeper
from fastcam.model.running import is_training
from fastcam.targets.class_indices import ClassIndices

SECONDS_OF_REPLAYS = 1  # of other threads, that are waited for before graphs are given up
MAX_GRAPHS = 8  # kept by an explainer; of more, the one that was not used for longest goes

Result = TypeVar("Result")
GraphUse = bool | Literal["auto"]


class Call(Protocol[Result]):
    """Work that can be done by a graph, which calls of the same key share."""

    @property
    def key(self) -> CallKey:
        """Which other calls one graph serves."""

    @property
    def tensors(self) -> list[Tensor]:
        """What the work reads; the first has a row for each image or copy."""

    def run(self) -> Result:
        """Do the work without a graph."""

    def run_on(self, tensors: Sequence[Tensor], indices: ClassIndices | None) -> Result:
        """Do the work on other tensors, and classes."""

    def output_of(self, result: Result) -> ModelOutput:
        """Return of a result what :meth:`indices` need."""

    def indices(self, output: ModelOutput) -> ClassIndices | None:
        """Return the call's classes."""

    def take_apart(self, result: Result) -> object:
        """Return a result as a tree of tensors."""

    def put_together(self, taken: object, indices: ClassIndices | None) -> Result:
        """Return the result of this call, of these classes, from such a tree."""

    def agree(self, replayed: Result, expected: Result) -> bool:
        """Whether results with and without a graph are the same."""


@dataclass(frozen=True)
class GraphReport:
    """What became of one form of call.

    Attributes:
        work: "explanation", or what a method asks of a block of copies: "scores of copies", "predictions of copies" or
            "gradients of copies".
        shape: of the images, or copies.
        target: the form of the target, "highest", "all", "indices (N,)" or "indices (N, 3)".
        state: "seen" once, "recorded", or why there is no graph.
        bytes: of memory that stays reserved for the graph, beyond that which it shares with earlier ones.
    """

    work: str
    shape: tuple[int, ...]
    target: str
    state: str
    bytes: int


_living: "weakref.WeakSet[Graphs]" = weakref.WeakSet()  # of all explainers, which share the memory of the devices


def _bytes_kept(device: torch.device) -> int:
    """Return the bytes that all recordings on a device keep."""
    recorders = [graphs._recorders.get(device) for graphs in list(_living)]
    return sum(recorder.bytes for recorder in recorders if recorder is not None)


class Graphs:
    """The recorded work of one explainer.

    Args:
        new_recorder: from a device to a recorder, or to None; called once for each device.
        warns: whether a form that cannot be recorded is warned of; the report has it all the same.
    """

    def __init__(
        self, new_recorder: Callable[[torch.device], Recorder | None] = new_recorder, *, warns: bool = True
    ) -> None:
        self._new_recorder, self._warns = new_recorder, warns
        self._recorders: dict[torch.device, Recorder | None] = {}
        self._entries: OrderedDict[CallKey, _Entry] = OrderedDict()
        self._lock = threading.RLock()  # a model may ask for the report
        _living.add(self)
        add_keeper(self)

    def record_on(self, device: torch.device) -> bool:
        """Whether work on a device is recorded."""
        return self._recorder(device) is not None

    def run(self, model: nn.Module, call: Call[Result]) -> Result:
        """Return the result of a call, replayed if it was recorded."""
        recorder = self._recorder(call.tensors[0].device)
        state = None if recorder is None or is_training(model) or has_hooks(model) else ModelState.of(model)
        if recorder is None or state is None:
            return call.run()
        with self._lock:
            entry = self._entries.get(call.key)
            if entry is None or not entry.state.is_like(state):
                self._remember(call.key, _Entry(state.kept()))
            elif entry.graph is not None:
                self._entries.move_to_end(call.key)
                return entry.graph.replay(call)
            elif not entry.refusal:
                return self._record(recorder, model, call, entry)
        return call.run()

    def report(self) -> list[GraphReport]:
        """Return what became of every form of call, the latest last."""
        with self._lock:
            return [
                GraphReport(key.work, key.shape, key.target, entry.described, entry.bytes)
                for key, entry in self._entries.items()
            ]

    def give_up(self) -> bool:
        """Refuse, from now on, all forms that were seen, if any is recorded; returns whether one was.

        Not while another thread records or replays: it may want the memory of the caller's graphs.
        """
        if not self._lock.acquire(timeout=SECONDS_OF_REPLAYS):
            return False
        try:
            if all(entry.graph is None for entry in self._entries.values()):
                return False
            self._let_go()
            for key, entry in self._entries.items():
                self._refuse(key, entry, "memory ran out")
        finally:
            self._lock.release()
        return True

    def _let_go(self) -> None:
        """Forget all recordings, and the memory that they share."""
        self._wait()
        for entry in self._entries.values():
            entry.graph = None
        self._recorders = {}

    def _recorder(self, device: torch.device) -> Recorder | None:
        with self._lock:
            if device not in self._recorders:
                self._recorders[device] = self._new_recorder(device)
            return self._recorders[device]

    def _remember(self, key: CallKey, entry: "_Entry") -> None:
        self._entries[key] = entry
        self._entries.move_to_end(key)
        while len(self._entries) > MAX_GRAPHS:
            self._wait()
            self._entries.popitem(last=False)

    def _wait(self) -> None:
        """Wait for replays, in other streams, of what goes."""
        for recorder in self._recorders.values():
            if recorder is not None:
                recorder.wait()

    def _record(self, recorder: Recorder, model: nn.Module, call: Call[Result], entry: "_Entry") -> Result:
        """Do the work without a graph, and record the same."""
        device = call.tensors[0].device
        before = side_effects(model, device)
        expected = call.run()
        if before != side_effects(model, device):
            self._refuse(call.key, entry, "the model draws random numbers or changes its buffers")
            return expected
        try:
            graph = _Graph.record(recorder, call, expected)
            agrees = call.agree(graph.replay(call), expected)
        except Exception as error:  # whatever it is, the explanation is there; it reads values of tensors, for example
            raise_if_cancelled()
            self._refuse(call.key, entry, str(error).partition("\n")[0] or type(error).__name__)
            return expected
        if not agrees:
            self._refuse(call.key, entry, f"the recorded {call.key.work} differs from the one before it")
        elif (kept := _bytes_kept(device)) > recorder.limit:
            self._let_go()  # smaller ones are recorded again
            sizes = f"{kept / 2**30:.2g} GiB of memory, more than {recorder.limit / 2**30:.2g}"
            self._refuse(call.key, entry, f"with it all graphs of the device would keep {sizes}")
        else:
            entry.graph = graph
        return expected

    def _refuse(self, key: CallKey, entry: "_Entry", reason: str) -> None:
        entry.refusal = reason
        if self._warns:
            warn(f"there is no recorded graph for the {key.work} of shape {key.shape}: {reason}")


def _others(images: Tensor) -> Tensor:
    """Return other images of the same kind: mirrored and, since some are symmetric, brighter to one side."""
    ramp = torch.linspace(0, 1, images.shape[-1], device=images.device) if images.is_floating_point() else 0
    return images.flip(-1) + ramp


@dataclass
class _Entry:
    """What became of a key: seen, refused or recorded."""

    state: ModelState
    graph: "_Graph[Any] | None" = None
    refusal: str = ""

    @property
    def described(self) -> str:
        return self.refusal or ("seen" if self.graph is None else "recorded")

    @property
    def bytes(self) -> int:
        return 0 if self.graph is None else self.graph.bytes


@dataclass(frozen=True)
class _Results:
    """The tensors of a result, and the tree that they stand in."""

    tensors: list[Tensor]
    leaves: list[object]
    structure: TreeSpec

    @classmethod
    def of(cls, taken: object) -> "_Results":
        leaves, structure = tree_flatten(taken)
        return cls([leaf for leaf in leaves if isinstance(leaf, Tensor)], leaves, structure)

    def copied(self) -> object:
        """Return the tree with copies of the tensors."""
        copies = iter([tensor.clone() for tensor in self.tensors])
        return tree_unflatten(
            [next(copies) if isinstance(leaf, Tensor) else leaf for leaf in self.leaves], self.structure
        )


@dataclass(frozen=True)
class _Graph(Generic[Result]):
    """Recorded work.

    Attributes:
        recording: of it.
        inputs: the tensors that it reads in place of the call's.
        indices: the classes that it reads, if any.
        output: the model's output, for the number of classes.
        results: what it writes.
    """

    recording: Recording
    inputs: list[Tensor]
    indices: ClassIndices | None
    output: ModelOutput
    results: _Results

    @classmethod
    def record(cls, recorder: Recorder, call: Call[Result], expected: Result) -> "_Graph[Result]":
        """Record a call, whose result without a graph is known."""
        output = call.output_of(expected)
        results: list[_Results] = []
        with torch.inference_mode(False):
            inputs = [tensor.detach().clone() for tensor in call.tensors]
            inputs[0].copy_(_others(inputs[0]))  # the first replay sees the images as they are
            indices = call.indices(output)
            static = None if indices is None else indices.static()

            def run() -> list[Tensor]:
                results[:] = [_Results.of(call.take_apart(call.run_on(inputs, static)))]
                return results[0].tensors

            recording = recorder(run)
        return cls(recording, inputs, static, output, results[0])

    @property
    def bytes(self) -> int:
        """Of memory that stays reserved."""
        return self.recording.bytes + sum(tensor.nbytes for tensor in self.inputs)

    def replay(self, call: Call[Result]) -> Result:
        """Return the result of a call of the same key."""
        indices = call.indices(self.output)
        with torch.inference_mode(False), torch.no_grad(), self.recording.in_turn():
            for static, tensor in zip(self.inputs, call.tensors, strict=True):
                static.copy_(tensor, non_blocking=True)
            if self.indices is not None and indices is not None:
                self.indices.write(indices)
            self.recording.replay()
            return call.put_together(self.results.copied(), indices)
