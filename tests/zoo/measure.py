"""What is measured of one case: the layer that is found, and its map beside plain autograd's."""

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import fastcam
from fastcam.engine import per_image, target_layers
from fastcam.engine.notes import Notes
from fastcam.model import capture
from fastcam.model.inputs import Inputs
from fastcam.targets.binding import bind, select_output
from fastcam.targets.output_part import implied
from tests.zoo.case import Built, Case
from tests.zoo.plain import follows_image, plain_grad_cam

MAX_PARAMETERS = 100_000_000
BOUNDS = {torch.float64: 1e-9, torch.float32: 1e-3}  # of the difference relative to the map's range
METHODS: dict[str, dict[str, Any]] = {
    "layer_cam": {"relu": False},  # all its values may be negative
    "eigen_cam": {"relu": False},
    "integrated_gradients": {"steps": 2},
    "occlusion": {},
}


@dataclass
class Row:
    """A row of the table.

    Attributes:
        model: library and name.
        result: "found", "needed an argument", "wrong", "refused" or "skipped".
        reason: for every result but "found".
        input_size: of the images, without N.
        parameters: of the model.
        target: what is explained.
        layer: that was found.
        map_size: of its map.
        notes: of the engine.
        has_tokens: whether the map is one of tokens, whose places are found and not given.
        needs: the argument that is needed.
        status: of the map.
        difference: from plain autograd, relative to the range of the map.
        dtype: of the comparison.
        inside: see :func:`tests.zoo.plain.follows_image`.
        methods: "ok", the status of the map or what was raised, per method.
        seconds: of the first explanation, which finds the layer.
    """

    model: str
    result: str = "refused"
    reason: str = ""
    input_size: str = ""
    parameters: int | None = None
    target: str = ""
    layer: str = ""
    map_size: str = ""
    notes: str = ""
    has_tokens: bool = False
    needs: str = ""
    status: str = ""
    difference: float | None = None
    dtype: str = ""
    inside: float | None = None
    methods: str = ""
    seconds: float | None = None


def measure(case: Case, size: int | None = None) -> Row:
    """Return the row of a case; whatever is raised becomes its reason."""
    row = Row(case.name, parameters=case.parameters)
    try:
        _fill(row, case, size)
    except Exception as raised:  # a table of everything that can happen
        row.reason = _sentence(raised)
    return row


def _fill(row: Row, case: Case, size: int | None) -> None:
    if not _is_small(row):
        return
    built = case.seeded(size)
    row.parameters = sum(parameter.numel() for parameter in built.model.parameters())
    if not _is_small(row):
        return
    row.input_size = _by(built.pixels.shape[1:])
    row.target = "highest class" if built.target is None else _name(built.target)
    explanation, needs = _explain(row, built)
    row.layer, row.map_size = explanation.layer, _by(explanation.native.shape[1:])
    row.notes, row.status = "; ".join(explanation.notes), ", ".join(sorted(set(map(str, explanation.status))))
    row.methods = "; ".join(f"{name}: {_run(name, built, needs)}" for name in METHODS)
    _compare(row, built, needs)
    _judge(row)


def _is_small(row: Row) -> bool:
    if (row.parameters or 0) <= MAX_PARAMETERS:
        return True
    row.result, row.reason = "skipped", f"more than {MAX_PARAMETERS:,} parameters"
    return False


def _explain(row: Row, built: Built) -> tuple[fastcam.Explanation, dict[str, Any]]:
    """Explain it by itself, and where that is refused with the arguments it needs."""
    started = time.perf_counter()
    needs: dict[str, Any] = {}
    try:
        found = fastcam.explain(built.model, built.images, target=built.target, relu=False)
    except (ValueError, TypeError, RuntimeError) as raised:
        if not built.needs:
            raise
        needs = dict(built.needs)
        row.needs, row.reason = ", ".join(f"{name}={value!r}" for name, value in needs.items()), _sentence(raised)
        found = fastcam.explain(built.model, built.images, target=built.target, relu=False, **needs)
    row.seconds = time.perf_counter() - started
    return found, needs


def _run(name: str, built: Built, needs: dict[str, Any]) -> str:
    options = dict(METHODS[name])
    if name == "occlusion":  # four windows
        options |= dict.fromkeys(("window", "stride"), tuple(-(-side // 2) for side in built.pixels.shape[2:]))
    try:
        explanation = fastcam.explain(built.model, built.images, name, built.target, **options, **needs)
    except Exception as raised:
        return _sentence(raised)
    states = {str(status) for status in explanation.status} - {"ok"}
    return ", ".join(sorted(states)) or "ok"


def _compare(row: Row, built: Built, needs: dict[str, Any]) -> None:
    try:
        found = compare(built.double(), needs)
        row.dtype = "float64"
    except (RuntimeError, TypeError):  # parts that are fixed to float32
        built.model.float()
        found = compare(built, needs)
        row.dtype = "float32"
    row.difference, row.inside, row.has_tokens = found.difference, found.inside, found.layer.token_map is not None


@dataclass(frozen=True)
class Comparison:
    """The layer found, Grad-CAM's difference from plain autograd's, relative to its range, and how the map lies."""

    layer: capture.Layer
    map_size: tuple[int, ...]
    difference: float
    inside: float


def compare(built: Built, needs: dict[str, Any]) -> Comparison:
    """Compare the map at the layer that is found with plain autograd's there."""
    explainer = fastcam.Explainer(built.model, relu=False, **needs)
    native = explainer(built.images, built.target).native
    inputs = per_image.checked(
        built.model, Inputs.of(built.images, built.model, None, ()), explainer.settings.select, Notes()
    )
    layer = located_layer(built, inputs, explainer)

    def score(output: Any) -> Tensor:
        part = select_output(output, implied(output, explainer.settings.select, built.target))
        return bind(part, built.target, len(inputs))(part, torch.arange(len(inputs)))

    plain = plain_grad_cam(built.model, inputs, layer, score)
    extent = (plain.max() - plain.min()).item()
    difference = (native - plain).abs().max().item() / (extent or 1)
    return Comparison(layer, tuple(native.shape[1:]), difference, follows_image(built.model, inputs, layer))


def located_layer(built: Built, inputs: Inputs, explainer: fastcam.Explainer[Any]) -> capture.Layer:
    """Return the layer that the explainer found, with the map in its output and its run."""
    notes = Notes()
    chosen = target_layers.resolve(built.model, inputs, built.target, explainer.settings)
    captured = capture.forward(built.model, inputs.arguments, chosen)
    chosen = target_layers.with_runs(built.model, chosen, captured, inputs, notes)
    captured = capture.forward(built.model, inputs.arguments, chosen)
    settings = explainer.settings
    return target_layers.with_token_maps(built.model, chosen, captured.activations, inputs, settings, notes)[0]


def _judge(row: Row) -> None:
    bound = BOUNDS[getattr(torch, row.dtype)]
    faults = []
    if row.difference is None or not row.difference <= bound:
        faults.append(f"differs from plain autograd by {row.difference:.1e}, more than {bound:.0e}")
    if row.status != "ok":
        faults.append(f"the map is {row.status}")
    if row.has_tokens and not (row.inside or 0) > 1:
        faults.append("its positions do not follow the part of the image where they should lie")
    faults += [method for method in row.methods.split("; ") if "Error" in method]
    if faults:
        row.result, row.reason = "wrong", "; ".join([*([row.reason] if row.reason else []), *faults])
    else:
        row.result = "needed an argument" if row.needs else "found"


def _by(sizes: torch.Size) -> str:
    return " x ".join(map(str, sizes))


def _name(target: object) -> str:
    return f"class {target}" if isinstance(target, int) else type(target).__name__


def _sentence(raised: BaseException) -> str:
    return f"{type(raised).__name__}: {' '.join(str(raised).split())[:400]}"
