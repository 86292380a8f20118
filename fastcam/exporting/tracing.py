"""An explainer as a program: the operations of one explanation, traced for any number of images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import sympy
import torch
from torch import Tensor, fx, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.fx.node import has_side_effect
from torch.utils._sympy.interp import sympy_interp
from torch.utils._sympy.reference import PythonReferenceAnalysis

from fastcam import targets
from fastcam.engine.assembly import explain
from fastcam.engine.first_pass import first_pass
from fastcam.engine.notes import Notes
from fastcam.engine.settings import Settings
from fastcam.explanation import Explanation
from fastcam.exporting.loop import Loop, Looped, divide
from fastcam.exporting.program import HIGHEST, Program
from fastcam.model.batching import INITIAL_BATCH_SIZE, Batches
from fastcam.model.capture import Layer
from fastcam.model.elements import ModelOutput
from fastcam.model.inputs import Inputs
from fastcam.targets.binding import Bound
from fastcam.targets.class_indices import class_scores, unread

_TORCH = Path(torch.__file__).parent


class GivenClasses(targets.Logit):
    """The score of the classes in a tensor (N,), whose values are not known yet; ``HIGHEST`` takes the highest."""

    def __init__(self, score: targets.Logit, classes: Tensor) -> None:
        super().__init__()
        self.score, self.given = score, classes

    def bind(self, output: ModelOutput, count: int) -> Bound:
        """Bind the classes as those of a tensor on a GPU are: without reading them."""
        scores = class_scores(output, count)
        classes = torch.where(self.given == HIGHEST, scores.detach().argmax(1), self.given)
        return self.score.bind_to(unread(classes, scores.shape[1]))


@dataclass(frozen=True)
class Traceable:
    """An explanation to trace.

    Attributes:
        model: in evaluation mode.
        settings: of the explainer, with one method.
        layers: the target layers, with their runs and token maps.
        score: of a class.
    """

    model: nn.Module
    settings: Settings
    layers: Sequence[Layer]
    score: targets.Logit

    def __call__(self, images: Tensor, classes: Tensor, batches: Batches) -> list[Tensor]:
        """Return scores, maps and classes."""
        inputs = Inputs.of(images, self.model, self.settings.explain_input, (), self.settings.channel_axis)
        target = GivenClasses(self.score, classes)
        run = first_pass(self.model, inputs, target, self.settings, batches, Notes(), self.layers)
        explanation = explain(run, images)
        assert isinstance(explanation, Explanation)
        assert explanation.targets is not None
        return [explanation.scores, explanation.maps, explanation.targets]


def trace(explanation: Traceable, example: Tensor, classes: Tensor, free: Sequence[int]) -> Program:
    """Return the program of an explanation.

    The engine itself runs on tensors without values, and every operation, those of the backward pass among them, is
    recorded. What the sizes of the images decided on the way becomes a condition of the program.

    Args:
        explanation: what is traced.
        example: (N, C, *S).
        classes: (N,), int64.
        free: the axes of the images whose size may vary.
    """
    sizes = ShapeEnv(duck_shape=False)
    mode = FakeTensorMode(shape_env=sizes, allow_non_fake_inputs=True)
    images = _without_values(example, free, mode)
    indices = _without_values(classes, [0] if 0 in free else [], mode)
    loop = Loop(_copies_of(explanation.settings, example.device), example.device)

    def run(images: Tensor, classes: Tensor) -> list[Tensor]:
        loop.step = None
        results = explanation(images, classes, loop)
        step = loop.step
        return results if step is None else [*results, step.index, *step.results, *step.collected]

    with mode, enable_python_dispatcher(), torch.no_grad():
        graph = make_fx(run)(images, indices)
        if loop.step is not None:  # parts of the trace can be told apart where nothing is written in place
            graph = make_fx(torch.func.functionalize(graph))(images, indices)
    conditions = _insert_conditions(graph, _decisions(sizes), images, sizes)
    for name, weight in list(graph.named_parameters()):  # the same memory, but not the model's own parameters
        setattr(graph, name, nn.Parameter(weight.detach(), requires_grad=False))
    graph.graph.eliminate_dead_code()
    graph.recompile()
    sides = tuple(_size(side, sizes) for side in images.shape)
    if loop.step is None:
        return Program(graph, sides, conditions)
    if conditions:
        raise ValueError(f"it decides by the number of images, {' and '.join(conditions)}")
    return Program(Looped(divide(graph, loop.step)), sides, ())


def _copies_of(settings: Settings, device: torch.device) -> int:
    """Return the number of copies of an image that run at a time."""
    return INITIAL_BATCH_SIZE.get(device.type, 16) if settings.batch_size == "auto" else settings.batch_size


@has_side_effect  # it is no dead code
def require(condition: bool, text: str) -> None:
    """Raise unless a condition on the sizes holds."""
    if not condition:
        raise RuntimeError(text)


def _without_values(tensor: Tensor, free: Sequence[int], mode: FakeTensorMode) -> Tensor:
    axes = [DimDynamic.DYNAMIC if axis in free else DimDynamic.STATIC for axis in range(tensor.dim())]
    return mode.from_tensor(tensor, symbolic_context=StatelessSymbolicContext(axes))


def _size(side: int | torch.SymInt, sizes: ShapeEnv) -> int | None:
    """Return the size of an axis; None where any fits."""
    known = sizes.replace(_symbol(side))
    return int(known) if known.is_number else None


def _symbol(side: int | torch.SymInt) -> sympy.Expr:
    return side.node.expr if isinstance(side, torch.SymInt) else sympy.Integer(side)


def _decisions(sizes: ShapeEnv) -> list[sympy.Basic]:
    """Return what was true of the sizes where code outside torch asked.

    torch's own code asks too, for memory layouts and the choice among equal kernels, and does so again whenever the
    program runs.
    """
    expressions = dict.fromkeys(
        sizes.simplify(guard.expr)
        for guard in sizes.guards
        if guard.sloc.framework_loc is None or not _is_torch(str(guard.sloc.framework_loc))
    )
    return [each for each in expressions if each is not sympy.true]


def _is_torch(place: str) -> bool:
    return f"{_TORCH}/" in place and f"{_TORCH / 'nn'}/" not in place


def _insert_conditions(
    graph: fx.GraphModule, conditions: Sequence[sympy.Basic], images: Tensor, sizes: ShapeEnv
) -> tuple[str, ...]:
    """Check the conditions at the beginning of the graph, and return them as text."""
    nodes = graph.graph
    placeholders = [node for node in nodes.nodes if node.op == "placeholder"]
    axes = {sizes.replace(_symbol(side)): axis for axis, side in enumerate(images.shape) if _size(side, sizes) is None}
    texts = []
    first = next(node for node in nodes.nodes if node.op != "placeholder")
    with nodes.inserting_before(first):
        tracer = fx.proxy.GraphAppendingTracer(nodes)
        values = {
            symbol: fx.Proxy(nodes.call_function(torch.ops.aten.sym_size.int, (placeholders[0], axis)), tracer)
            for symbol, axis in axes.items()
        }
        for condition in conditions:
            if not condition.free_symbols <= set(values):
                continue
            text = str(condition.subs({symbol: sympy.Symbol(f"images.shape[{axis}]") for symbol, axis in axes.items()}))
            holds = sympy_interp(PythonReferenceAnalysis, values, condition)
            nodes.call_function(require, (holds.node, f"this program was exported for images of which {text}"))
            texts.append(text)
    return tuple(texts)
