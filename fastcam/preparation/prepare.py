"""Prepare a faster model with the same function, once for all explanations made with it."""

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.export.unflatten import UnflattenedModule

from fastcam import artefacts
from fastcam.model import argument_rows, layers
from fastcam.model.elements import ModelOutput, Select
from fastcam.model.inputs import Images, Inputs
from fastcam.model.running import is_training
from fastcam.preparation import speed
from fastcam.preparation.agreement import Difference, Observation, observe
from fastcam.preparation.batch_norm import FoldReport, fold_batch_norms
from fastcam.preparation.compiled_parts import NotCompilableError, Parts, compile_parts
from fastcam.preparation.compute_settings import ComputeSettings
from fastcam.preparation.prepared import Prepared
from fastcam.preparation.report import PreparationReport, PreparationStep
from fastcam.targets.binding import select_output
from fastcam.targets.output_part import implied

Precision: TypeAlias = Literal["fp32", "bf16", "fp16", "auto"]

_HALF_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def prepare(
    model: nn.Module,
    example: Images | Inputs,
    *,
    precision: Precision = "fp32",
    compile: bool = False,
    target_layer: layers.TargetLayer = None,
    reshape_transform: Callable[[Tensor], Tensor] | None = None,
    select: Select = None,
    tolerance: float | None = None,
) -> Prepared:
    """Return a faster copy of a model with the same function, accepted wherever a model is.

    Batch norms are folded into the preceding convolutions, weights are converted to the precision asked for and to the
    fastest memory layout, and the model is compiled on request. Every step is compared with the untouched model on the
    example, timed, and left out where it differs too much or gains nothing; see :meth:`Prepared.report`.

    Args:
        model: in evaluation mode. It is not changed, and later changes to it do not affect the copy.
        example: (N, C, *S) typical images, or all arguments of the model, as for :class:`fastcam.Explainer`. Use real
            ones: the copy is compared with the model on them.
        precision: "fp32" keeps the precision; "bf16" or "fp16" narrows weights and activations; "auto" takes bfloat16
            where it is faster on this machine and the differences stay within the tolerance.
        compile: whether to run passes without an autograd graph through torch.compile, with frozen weights; gradient
            methods run the part up to the target layer this way. Takes up to a minute, and needs a C++ compiler. The
            code is for the example's image size, and for its batch size and the fastest one; any other input runs
            uncompiled.
        target_layer: the layer to explain, as for :class:`fastcam.Explainer`: no batch norm is folded across it, and
            the compiled model is cut there.
        reshape_transform: from the output of the layer to (N, C, *S), as for :class:`fastcam.Explainer`.
        select: the part of the output that is scored, as for :class:`fastcam.Explainer`.
        tolerance: the largest difference allowed. In float32: of outputs and maps as a share of their range (None:
            1e-4; 5e-3 on a GPU whose products are TF32, as PyTorch's convolutions are unless told otherwise). In half
            precision: of outputs (None: 0.1), and 1 minus Spearman's correlation of the maps (None: 0.01).

    Raises:
        ValueError: for a model in training mode, an unknown precision, and for "bf16" or "fp16" where the differences
            exceed the tolerance.
        TypeError: for a model that is not a module or cannot be copied.
    """
    model = getattr(model, "_orig_mod", model)
    check_preparable(model, precision)
    if is_training(model):
        raise ValueError("a model in training mode cannot be prepared: call model.eval() first")
    inputs = example if isinstance(example, Inputs) else Inputs.of(example, model)
    with torch.inference_mode(False):
        rows = argument_rows.find(model, inputs, lambda output: _scored_part(output, select))
        inputs = inputs if rows is None else rows.of(inputs)
        names = _target_layers(model, target_layer, inputs, select)
        layer = names[0] if names else None
        observe_model = functools.partial(observe, inputs=inputs, layer=layer, reshape=reshape_transform, select=select)
        return _Preparation(model, inputs, names, observe_model, tolerance).run(precision, compile)


def check_preparable(model: object, precision: str) -> None:
    """Refuse models and precisions that :func:`prepare` does not support.

    Raises:
        ValueError: for an unknown precision.
        TypeError: for an unsupported model.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"`precision` must be one of {', '.join(get_args(Precision))}, got {precision!r}")
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be an nn.Module, got {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule | artefacts.Script | UnflattenedModule) or "forward" in vars(model):
        raise TypeError(
            "only a model that runs its class's own forward can be prepared, no scripted or patched one and no program"
        )
    if isinstance(model, Prepared):
        raise TypeError("the model is prepared already: prepare the one it was made from")


def _scored_part(output: ModelOutput, select: Select) -> ModelOutput:
    """Return the part of an output that is scored; all of it if none is implied."""
    try:
        return select_output(output, implied(output, select, None))
    except (TypeError, ValueError):
        return output


def _target_layers(model: nn.Module, target_layer: layers.TargetLayer, inputs: Inputs, select: Select) -> list[str]:
    """Return the names of the layers to explain; empty where the user named none and none can be found."""
    scoring = layers.Scoring(lambda output: select_output(output, implied(output, select, None)))
    try:
        return [layer.name for layer in layers.resolve(model, target_layer, inputs, scoring)]
    except ValueError:
        if target_layer is not None:
            raise
        return []


class _Observe(Protocol):
    def __call__(self, model: nn.Module, *, classes: Tensor | None = None) -> Observation: ...


@dataclass
class _Preparation:
    """The search of one call of :func:`prepare`, from the untouched model to the best of those tried.

    Attributes:
        model: the untouched model.
        inputs: the example.
        names: names of the target layers.
        observe: returns a model's outputs and maps for the example.
        tolerance: the user's.
        settings: of the best model so far.
        steps: all steps tried so far.
    """

    model: nn.Module
    inputs: Inputs
    names: list[str]
    observe: _Observe
    tolerance: float | None
    settings: ComputeSettings = field(default_factory=ComputeSettings)
    steps: list[PreparationStep] = field(default_factory=list)

    def run(self, precision: Precision, compile: bool) -> Prepared:
        """Try one step after another and return the best model."""
        self.untouched = self.observe(self.model)
        self.best = self._build(self.settings)
        self._fold()
        if precision == "auto":
            self._narrow_if_faster()
        elif precision != "fp32":
            self._narrow(precision, min_gain=0.0)
        self._use_channels_last()
        size = speed.fastest_batch_size(self.best, self.inputs)
        if compile:
            self._compile(size)
        gain, difference = speed.gain(self.model, self.best, self.inputs), self._difference(self.best)
        self.best.batch_size = size
        self.best._report = PreparationReport(tuple(self.steps), gain, difference, size)
        return self.best

    def _fold(self) -> None:
        trial = self._build(replace(self.settings, fold=True))
        count, remaining = trial._fold_report.count, trial._fold_report.remaining
        if not count:
            self._refuse("fold", "no batch norm follows a convolution that nothing else uses")
            return
        stay = f"; {remaining} stay" if remaining else ""
        self._try("fold", trial, f"{count} batch norms folded into the convolutions before them{stay}", 0.0)

    def _narrow_if_faster(self) -> None:
        if _has_fast_bfloat16(self.inputs.images.device):
            self._narrow("bf16", min_gain=speed.NOISE_MARGIN)
        else:
            self._refuse("bf16", "this device has no instructions for bfloat16")

    def _narrow(self, precision: str, min_gain: float) -> None:
        dtype = _HALF_DTYPES[precision]
        pure = self._build(replace(self.settings, dtype=dtype))
        done = self._try(precision, pure, "weights and activations", min_gain)
        if not done and self.steps[-1].gain is not None and self._has_convolutions:  # right, and not faster
            both = self._build(replace(self.settings, dtype=dtype, channels_last=True))
            name = f"{precision}, channels_last"
            done = self._try(name, both, "weights and activations, channels side by side in memory", min_gain)
        if not done and self.steps[-1].gain is None:  # it fails or differs too much
            autocast = self._build(replace(self.settings, autocast=dtype))
            done = self._try(f"{precision} autocast", autocast, "products; all else as it was", min_gain)
        if not done and min_gain == 0.0:
            raise ValueError(f"the model cannot be prepared in {precision}: {self.steps[-1].detail}")

    @property
    def _has_convolutions(self) -> bool:
        return any(parameter.dim() in (4, 5) for parameter in self.model.parameters())

    def _use_channels_last(self) -> None:
        if self.settings.channels_last:
            return
        if not self._has_convolutions:
            self._refuse("channels_last", "the model has no convolution in 2-D or 3-D")
            return
        trial = self._build(replace(self.settings, channels_last=True))
        self._try("channels_last", trial, "channels side by side in memory", 1.0)

    def _compile(self, size: int) -> None:
        trial = self._build(self.settings)
        try:
            trial._parts, description = self._compile_parts({size, len(self.inputs.images)})
        except Exception as error:  # tracing runs the model's own code, and the compiler may fail on it
            self._refuse("compile", _first_line(error))
            return
        self._try("compile", trial, f"passes without a graph, weights frozen, {description}", 1.0)

    def _compile_parts(self, sizes: set[int]) -> tuple[Parts, str]:
        """Return the compiled parts of the best model so far, and a description with the place of the cut."""
        copied, _ = self._copy_model(self.settings)
        converted = self.inputs.with_arguments(self.settings.convert(self.inputs.arguments))
        images = f"{' or '.join(map(str, sorted(sizes)))} images at a time"
        with self.settings.autocast_context(converted.images.device):
            if len(self.names) != 1:
                return compile_parts(copied, converted, None, sizes), f"{images}, uncut for {len(self.names)} layers"
            try:
                return compile_parts(copied, converted, self.names[0], sizes), f"{images}, cut after {self.names[0]}"
            except NotCompilableError as error:
                return compile_parts(copied, converted, None, sizes), f"{images}, uncut, since {error}"

    def _try(self, name: str, trial: Prepared, detail: str, min_gain: float) -> bool:
        """Keep a step if the differences are within the tolerance and the speedup is at least ``min_gain``."""
        try:
            difference = self._difference(trial)
        except Exception as error:  # the model's own code may not support the precision or layout
            self._refuse(name, _first_line(error))
            return False
        rounding = trial._compute_settings.rounding(self.inputs.images.device)
        excess = difference.excess(self.tolerance, rounding)
        if excess is not None:
            self.steps.append(PreparationStep(name, False, excess, None, difference))
            return False
        gain = speed.gain(self.best, trial, self.inputs)
        done = gain >= min_gain
        self.steps.append(
            PreparationStep(name, done, detail if done else f"{detail}: not faster here", gain, difference)
        )
        if done:
            self.best, self.settings = trial, trial._compute_settings
        return done

    def _refuse(self, name: str, reason: str) -> None:
        self.steps.append(PreparationStep(name, False, reason))

    def _difference(self, trial: nn.Module) -> Difference:
        return self.untouched.compare(self.observe(trial, classes=self.untouched.classes))

    def _build(self, settings: ComputeSettings) -> Prepared:
        copied, fold_report = self._copy_model(settings)
        return Prepared.of(copied, self.model, settings, fold_report, self.inputs)

    def _copy_model(self, settings: ComputeSettings) -> tuple[nn.Module, FoldReport]:
        """Return a copy of the untouched model, its weights converted to the settings, and the folding report."""
        try:
            copied = copy.deepcopy(self.model)
        except Exception as error:
            raise TypeError(f"the model cannot be copied: {_first_line(error)}") from error
        keep = [copied.get_submodule(name) for name in self.names]
        fold_report = fold_batch_norms(copied, self.inputs, keep) if settings.fold else FoldReport()
        if settings.dtype is not None:
            copied.to(settings.dtype)
        for parameter in copied.parameters():
            parameter.data = settings.to_layout(parameter.data)
        return copied, fold_report


def _has_fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: " + (str(error).strip().split("\n", maxsplit=1)[0] or "no message")
