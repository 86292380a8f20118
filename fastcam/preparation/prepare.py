"""A faster model with the same function: prepared once, for everything that is then explained with it."""

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.export.unflatten import UnflattenedModule

from fastcam import artefacts
from fastcam.model import capture, layers
from fastcam.model.inputs import Inputs
from fastcam.preparation import speed
from fastcam.preparation.agreement import Difference, Observation, observe
from fastcam.preparation.batch_norm import Folded, fold_batch_norms
from fastcam.preparation.compiled_parts import NotCompilableError, Parts, compile_parts
from fastcam.preparation.prepared import Form, Prepared, Report, Step

Precision = Literal["fp32", "bf16", "fp16", "auto"]

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def prepare(
    model: nn.Module,
    example: Tensor | tuple[Any, ...],
    *,
    precision: Precision = "fp32",
    compile: bool = False,
    target_layer: layers.TargetLayer = None,
    reshape_transform: Callable[[Tensor], Tensor] | None = None,
    select: Callable[[Any], Any] | int | str | None = None,
    tolerance: float | None = None,
) -> Prepared:
    """A faster copy of a model with the same function, accepted wherever a model is.

    Batch norms are folded into the convolutions in front of them, weights narrowed where asked for, laid out as the
    processor likes them, and compiled where asked for. Every step is compared with the untouched model on the example,
    timed, and left out where it differs too much or gains nothing; :meth:`Prepared.report` tells.

    Args:
        model: in evaluation mode. It is not changed, and what is done to it later does not reach the copy.
        example: (N, C, *S) images as they will come, or a tuple of the model's arguments that begins with them. Take
            real ones: on them it is decided whether the function is the same.
        precision: "fp32" leaves the precision as it is; "bf16" or "fp16" narrows weights and activations; "auto" takes
            bfloat16 where that is faster here and differs little enough.
        compile: whether passes without a graph run as torch.compile makes them, with frozen weights; the gradient
            methods run the part in front of the target layer so. Takes up to a minute, and needs a C++ compiler. It
            fits as many images of that size as the example has, and as many as are fastest here at a time; any other
            number runs uncompiled.
        target_layer: what will be explained, as for :class:`fastcam.Explainer`: no batch norm is folded across it, and
            the compiled model is cut there.
        reshape_transform: from what the layer returns to (N, C, *S), as for :class:`fastcam.Explainer`.
        select: the part of the output that is scored, as for :class:`fastcam.Explainer`.
        tolerance: the largest difference allowed. In float32 that of outputs and maps as a share of their range (None:
            1e-4); in half precision that of outputs (None: 0.1) and of the ranks of the maps, 1 less Spearman's
            correlation (None: 0.01).

    Raises:
        ValueError: for a model in training mode, an unknown precision, and for "bf16" or "fp16" where the function
            would change by more than that.
        TypeError: for what is no module, or cannot be copied.
    """
    inputs = Inputs.of(example)
    model = getattr(model, "_orig_mod", model)
    check_preparable(model, precision)
    if capture.is_training(model):
        raise ValueError("a model in training mode cannot be prepared: call model.eval() first")
    with torch.inference_mode(False):
        names = _target_layers(model, target_layer, inputs)
        layer = names[0] if names else None
        look = functools.partial(observe, inputs=inputs, layer=layer, reshape=reshape_transform, select=select)
        return _Preparation(model, inputs, names, look, tolerance).run(precision, compile)


def check_preparable(model: Any, precision: str) -> None:
    """Refuses what :func:`prepare` cannot work on, whatever the example.

    Raises:
        ValueError, TypeError: with a sentence.
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


def _target_layers(model: nn.Module, target_layer: layers.TargetLayer, inputs: Inputs) -> list[str]:
    """The names of the layers to explain; none where the user named none and none can be found."""
    try:
        return [each.name for each in layers.resolve(model, target_layer, inputs)]
    except ValueError:
        if target_layer is not None:
            raise
        return []


@dataclass
class _Preparation:
    """The work of one call of :func:`prepare`: from the untouched model to the best of those tried.

    Attributes:
        model: the untouched one.
        inputs: the example.
        names: of the target layers.
        look: what a model says of the example.
        tolerance: the user's.
        form: of the best model so far.
        steps: what was tried so far.
    """

    model: nn.Module
    inputs: Inputs
    names: list[str]
    look: Callable[..., Observation]
    tolerance: float | None
    form: Form = field(default_factory=Form)
    steps: list[Step] = field(default_factory=list)

    def run(self, precision: Precision, compile: bool) -> Prepared:
        """Tries step after step."""
        self.untouched = self.look(self.model)
        self.best = self._built(self.form)
        self._fold()
        if precision == "auto":
            self._narrow_if_faster()
        elif precision != "fp32":
            self._narrow(precision, at_least=0.0)
        self._lay_out()
        size = speed.fastest_size(self.best, self.inputs)
        if compile:
            self._compile(size)
        gain, difference = speed.gain(self.model, self.best, self.inputs), self._difference(self.best)
        self.best.batch_size = size
        self.best._report = Report(tuple(self.steps), gain, difference, size)
        return self.best

    def _fold(self) -> None:
        trial = self._built(replace(self.form, fold=True))
        count, left = trial._folded.count, trial._folded.left
        if not count:
            self._refuse("fold", "no batch norm follows a convolution that nothing else uses")
            return
        stay = f"; {left} stay" if left else ""
        self._try("fold", trial, f"{count} batch norms folded into the convolutions in front of them{stay}", 0.0)

    def _narrow_if_faster(self) -> None:
        if _has_fast_bfloat16(self.inputs.images.device):
            self._narrow("bf16", at_least=speed.CLEARLY)
        else:
            self._refuse("bf16", "this device has no instructions for bfloat16")

    def _narrow(self, precision: str, at_least: float) -> None:
        dtype = _HALF[precision]
        pure = self._built(replace(self.form, dtype=dtype))
        done = self._try(precision, pure, "weights and activations", at_least)
        if not done and self.steps[-1].gain is None:  # it does not run, or differs too much
            products = self._built(replace(self.form, autocast=dtype))
            done = self._try(f"{precision} autocast", products, "products; all else as it was", at_least)
        if not done and at_least == 0.0:
            raise ValueError(f"the model cannot be prepared in {precision}: {self.steps[-1].detail}")

    def _lay_out(self) -> None:
        if not any(parameter.dim() in (4, 5) for parameter in self.model.parameters()):
            self._refuse("channels_last", "the model has no convolution in 2-D or 3-D")
            return
        trial = self._built(replace(self.form, channels_last=True))
        self._try("channels_last", trial, "channels side by side in memory", 1.0)

    def _compile(self, size: int) -> None:
        trial = self._built(self.form)
        try:
            trial._parts, where = self._compiled({size, len(self.inputs.images)})
        except Exception as error:  # whatever the model's code makes of what is no tensor, or the compiler of it
            self._refuse("compile", _sentence(error))
            return
        self._try("compile", trial, f"passes without a graph, weights frozen, {where}", 1.0)

    def _compiled(self, sizes: set[int]) -> tuple[Parts, str]:
        """The compiled parts of the best model so far, and where it was cut."""
        copied, _ = self._copied(self.form)
        adapted = Inputs.of(self.form.arguments(self.inputs.arguments))
        images = f"{' or '.join(map(str, sorted(sizes)))} images at a time"
        with self.form.products(adapted.images.device):
            if len(self.names) != 1:
                return compile_parts(copied, adapted, None, sizes), f"{images}, uncut for {len(self.names)} layers"
            try:
                return compile_parts(copied, adapted, self.names[0], sizes), f"{images}, cut behind {self.names[0]}"
            except NotCompilableError as error:
                return compile_parts(copied, adapted, None, sizes), f"{images}, uncut, since {error}"

    def _try(self, name: str, trial: Prepared, detail: str, at_least: float) -> bool:
        """Keeps a step where the function is the same, and the model at least so many times faster."""
        try:
            difference = self._difference(trial)
        except Exception as error:  # the model's own code, in a precision or layout it was not written for
            self._refuse(name, _sentence(error))
            return False
        excess = difference.excess(self.tolerance, trial._form.is_half)
        if excess is not None:
            self.steps.append(Step(name, False, excess, None, difference))
            return False
        gain = speed.gain(self.best, trial, self.inputs)
        done = gain >= at_least
        self.steps.append(Step(name, done, detail if done else f"{detail}: not faster here", gain, difference))
        if done:
            self.best, self.form = trial, trial._form
        return done

    def _refuse(self, name: str, reason: str) -> None:
        self.steps.append(Step(name, False, reason))

    def _difference(self, trial: nn.Module) -> Difference:
        return self.untouched.compare(self.look(trial, classes=self.untouched.classes))

    def _built(self, form: Form) -> Prepared:
        copied, folded = self._copied(form)
        return Prepared.of(copied, self.model, form, folded, self.inputs)

    def _copied(self, form: Form) -> tuple[nn.Module, Folded]:
        """A copy of the untouched model with its weights as the form says, and what was folded."""
        try:
            copied = copy.deepcopy(self.model)
        except Exception as error:
            raise TypeError(f"the model cannot be copied: {_sentence(error)}") from error
        keep = [copied.get_submodule(name) for name in self.names]
        folded = fold_batch_norms(copied, self.inputs, keep) if form.fold else Folded()
        if form.dtype is not None:
            copied.to(form.dtype)
        for parameter in copied.parameters():
            parameter.data = form.layout(parameter.data)
        return copied, folded


def _has_fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: " + (str(error).strip().split("\n", maxsplit=1)[0] or "no message")
