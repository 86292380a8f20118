"""Explanations of a shape that was seen before, replayed as one recorded graph.

The whole of a one-pass explanation, from the images to the maps, is recorded with tensors that stay in place: images
and classes are copied into them, the graph is replayed, and its results are copied out. It is recorded when a shape is
seen for the second time, and used if its results agree with those of the explanation that was made without it.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from fastcam import targets
from fastcam.engine.assembly import Explanations
from fastcam.engine.graph_calls import Call, CallKey
from fastcam.engine.model_state import ModelState, has_hooks, side_effects
from fastcam.engine.notes import warn
from fastcam.engine.recorders import Recorder, Recording, recorder_for
from fastcam.engine.settings import Settings
from fastcam.explanation import Explanation
from fastcam.model.elements import ModelOutput
from fastcam.model.inputs import Inputs
from fastcam.model.running import is_training
from fastcam.targets.binding import Bound
from fastcam.targets.class_indices import ClassIndices

MAX_GRAPHS = 8  # kept by an explainer; of more, the one that was not used for longest goes
TOLERANCE = 1e-2  # of maps in [0, 1], and relative for scores: libraries may choose other algorithms for a graph

Explain = Callable[[Inputs, targets.Target], Explanations]


@dataclass(frozen=True)
class GraphReport:
    """What became of one form of call.

    Attributes:
        shape: of the images.
        target: the form of the target, "highest", "all", "indices (N,)" or "indices (N, 3)".
        state: "seen" once, "recorded", or why there is no graph.
    """

    shape: tuple[int, ...]
    target: str
    state: str


class Graphs:
    """The recorded explanations of one explainer.

    Args:
        settings: of the explainer.
        recorder_for: from a device to its recorder, or to None.
    """

    def __init__(
        self, settings: Settings, recorder_for: Callable[[torch.device], Recorder | None] = recorder_for
    ) -> None:
        self.settings, self.recorder_for = settings, recorder_for
        self._entries: OrderedDict[CallKey, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def explain(self, model: nn.Module, inputs: Inputs, target: targets.Target, explain: Explain) -> Explanations:
        """Return what ``explain`` does, replayed if it was recorded."""
        recorder = self.recorder_for(inputs.images.device)
        call = None if recorder is None else Call.of(inputs, target)
        if recorder is None or call is None or not self._is_recordable(model):
            return explain(inputs, target)
        state = ModelState.of(model)
        if state is None:
            return explain(inputs, target)
        with self._lock:
            entry = self._entries.get(call.key)
            if entry is None or entry.state != state:
                self._remember(call.key, _Entry(state))
            elif entry.graph is not None:
                self._entries.move_to_end(call.key)
                return entry.graph.replay(call)
            elif not entry.refusal:
                return self._record(recorder, model, call, entry, explain)
        return explain(inputs, target)

    def report(self) -> list[GraphReport]:
        """Return what became of every form of call, the latest last."""
        with self._lock:
            return [GraphReport(key.shape, key.target, entry.described) for key, entry in self._entries.items()]

    def _is_recordable(self, model: nn.Module) -> bool:
        settings = self.settings
        return settings.is_one_pass and not settings.differentiable and not is_training(model) and not has_hooks(model)

    def _remember(self, key: CallKey, entry: "_Entry") -> None:
        self._entries[key] = entry
        self._entries.move_to_end(key)
        while len(self._entries) > MAX_GRAPHS:
            self._entries.popitem(last=False)

    @staticmethod
    def _record(recorder: Recorder, model: nn.Module, call: Call, entry: "_Entry", explain: Explain) -> Explanations:
        """Explain without a graph, and record the same."""
        before = side_effects(model, call.inputs.images.device)
        expected = explain(call.inputs, call.target)
        if before != side_effects(model, call.inputs.images.device):
            entry.refuse("the model draws random numbers or changes its buffers")
            return expected
        try:
            graph = _Graph.record(recorder, call, expected, explain)
        except (RuntimeError, TypeError, ValueError) as error:  # it reads values of tensors, for example
            entry.refuse(str(error).partition("\n")[0])
            return expected
        if _agree(graph.replay(call), expected):
            entry.graph = graph
        else:
            entry.refuse("the recorded explanation differs from the one before it")
        return expected


def _agree(replayed: Explanations, expected: Explanations) -> bool:
    def singles(result: Explanations) -> list[Explanation]:
        return [result] if isinstance(result, Explanation) else list(result.values())

    pairs = [
        pair
        for one, other in zip(singles(replayed), singles(expected), strict=True)
        for pair in ((one.maps, other.maps), (one.scores, other.scores))
    ]
    return all(torch.allclose(one, other, TOLERANCE, TOLERANCE, equal_nan=True) for one, other in pairs)


@dataclass
class _Entry:
    """What became of a key: seen, refused or recorded."""

    state: ModelState
    graph: "_Graph | None" = None
    refusal: str = ""

    @property
    def described(self) -> str:
        return self.refusal or ("seen" if self.graph is None else "recorded")

    def refuse(self, reason: str) -> None:
        """Note why there is no graph, and warn."""
        self.refusal = reason
        warn(f"explanations of this shape are not made by a recorded graph: {reason}")


class _StaticClasses(targets.Logit):
    """The score of class indices in tensors that stay in place, which every replay reads."""

    def __init__(self, score: targets.Logit, indices: ClassIndices) -> None:
        super().__init__()
        self.score, self.indices = score, indices

    def bind(self, output: ModelOutput, count: int) -> Bound:
        return self.score.bind_to(self.indices)


@dataclass(frozen=True)
class _Results:
    """Explanations as tensors, and how to make explanations of other tensors."""

    tensors: list[Tensor]
    leaves: list[object]
    structure: TreeSpec

    @classmethod
    def of(cls, result: Explanations) -> "_Results":
        """Take explanations with their maps apart."""
        singles = {None: result} if isinstance(result, Explanation) else result
        taken = {
            key: ({each.name: getattr(single, each.name) for each in fields(single)}, single.maps)
            for key, single in singles.items()
        }
        leaves, structure = tree_flatten(taken)
        return cls([leaf for leaf in leaves if isinstance(leaf, Tensor)], leaves, structure)

    def explanations(self, images: Tensor) -> Explanations:
        """Return explanations of copies of the tensors, for these images."""
        copies = iter([tensor.clone() for tensor in self.tensors])
        leaves = [next(copies) if isinstance(leaf, Tensor) else leaf for leaf in self.leaves]
        result: dict[object, Explanation] = {}
        for key, (values, maps) in tree_unflatten(leaves, self.structure).items():
            result[key] = Explanation(**{**values, "images": images})
            result[key].__dict__["maps"] = maps
        return cast("Explanations", result.get(None, result))


@dataclass(frozen=True)
class _Graph:
    """A recorded explanation.

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
    def record(cls, recorder: Recorder, call: Call, expected: Explanations, explain: Explain) -> "_Graph":
        """Record a call, whose explanations without a graph are known."""
        first = expected if isinstance(expected, Explanation) else next(iter(expected.values()))
        results: list[_Results] = []
        with torch.inference_mode(False):
            inputs = [tensor.detach().clone() for tensor in call.tensors]
            indices = call.indices(first.output)
            static = None if indices is None else indices.static()
            target = call.target if static is None else _StaticClasses(call.score, static)

            def run() -> list[Tensor]:
                results[:] = [_Results.of(explain(call.with_tensors(inputs), target))]
                return results[0].tensors

            recording = recorder(run)
        return cls(recording, inputs, static, first.output, results[0])

    def replay(self, call: Call) -> Explanations:
        """Return the explanations of a call of the same key."""
        indices = call.indices(self.output)
        with torch.inference_mode(False), torch.no_grad(), self.recording.in_turn():
            for static, tensor in zip(self.inputs, call.tensors, strict=True):
                static.copy_(tensor, non_blocking=True)
            if self.indices is not None and indices is not None:
                self.indices.write(indices)
            self.recording.replay()
            return self.results.explanations(call.inputs.images.detach())
