"""Write an explainer to a file, and compare the file with the explainer."""

import contextlib
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from fastcam import targets
from fastcam._extension import has_extension
from fastcam.engine.first_pass import first_pass
from fastcam.engine.notes import Notes
from fastcam.explainer import Explainer, OneMethod
from fastcam.explanation import Explanation
from fastcam.exporting.formats import KINDS, Format, Run
from fastcam.exporting.program import HIGHEST, Program
from fastcam.model.batching import Batches
from fastcam.model.capture import Layer
from fastcam.model.inputs import Inputs, check_images
from fastcam.model.layers import TargetLayer
from fastcam.model.progress import ProgressReporter
from fastcam.model.running import is_training
from fastcam.preparation.prepared import Prepared

# Of maps in [0, 1]: compilers change the order of sums, and a rounding at a kink (a maximum, a ReLU) moves a gradient;
# eager maps in float32 are up to 2e-3 from those in float64. One rounding of bfloat16 is 2^-8.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-2, torch.float16: 5e-2, torch.bfloat16: 1e-1}
_NOT_EXPORTED = ("graph", "differentiable", "progress", "compile", "shared", "explain_input")
SCORES = (targets.Logit, targets.Probability, targets.LogProbability)


@dataclass(frozen=True)
class ExportReport:
    """What was exported.

    Attributes:
        path: of the file.
        format: "pt2", "aoti" or "torchscript".
        method: name of the method.
        layer: name of the target layer; "" for methods without one.
        images: the shape of images that the program takes, None for an axis of any size.
        conditions: on that shape, besides.
        difference: the largest of the maps from those of the explainer, on the example; maps are in [0, 1].
        notes: what was found out about the model.
    """

    path: Path
    format: Format
    method: str
    layer: str
    images: tuple[int | None, ...]
    conditions: tuple[str, ...]
    difference: float
    notes: tuple[str, ...]

    def __str__(self) -> str:
        """A line for the file, and one for each condition and note."""
        letters = {3: "NCL", 4: "NCHW", 5: "NCDHW"}[len(self.images)]
        sides = " x ".join(str(side or letter) for side, letter in zip(self.images, letters, strict=True))
        at = f" at layer {self.layer!r}" if self.layer else ""
        first = f"{self.path}: {self.method}{at} of images {sides}, {self.difference:.0e} from the explainer"
        return "\n".join([first, *(f"only where {each}" for each in self.conditions), *self.notes])


def export(
    model: nn.Module,
    example: Tensor,
    path: str | Path,
    *,
    method: OneMethod = "grad_cam",
    format: Format = "pt2",
    target_layer: TargetLayer = None,
    score: targets.Logit | None = None,
    any_size: bool = False,
    **settings: object,
) -> ExportReport:
    """Write an explainer as a program that runs without Python, and compare it with the explainer.

    The program takes images (N, C, *S), for any N, and class indices (N,) int64, -1 for the highest class of an image;
    TorchScript takes the images alone too. It returns the scores (N,), the maps (N, *S) in [0, 1] and the classes
    explained (N,), -1 for an index that is no class, whose map is NaN. Whoever runs it loads
    :func:`fastcam.library_path` first, or imports ``fastcam.ops`` in Python.

    Args:
        model: in evaluation mode, with images as its only argument and one vector of class scores per image.
        example: (N, C, *S) typical images, on the device that the program is for.
        path: of the file; ".pt2", or for TorchScript ".pt", ".ts" or ".torchscript".
        method: every method of one pass over the images, Score-CAM, occlusion (dense), Integrated Gradients, and
            Ablation-CAM where it has a closed form. ``batch_size`` copies of an image run at a time, in a loop.
        format: "pt2" for a program of torch.export, "aoti" for one that is compiled to machine code by AOTInductor
            (which takes minutes), "torchscript" for programs that still load that; PyTorch has deprecated it.
        target_layer: as for :class:`fastcam.Explainer`.
        score: ``targets.Probability()`` or ``targets.LogProbability()`` in place of the logit.
        any_size: let images of other sizes than the example's be explained too, where the model allows it.
        settings: other arguments of :class:`fastcam.Explainer`, such as ``precision``, ``relu`` or options of the
            method.

    Returns:
        A report: what the program takes, and how far its maps are from the explainer's.

    Raises:
        ValueError, TypeError: for arguments that do not fit, and models or methods that make no such program.
        RuntimeError: if the program's maps are not those of the explainer; then no file is written.
    """
    target = _check(example, format, score, settings)
    destination = _destination(path, format)
    explainer: Explainer[Any] = Explainer(model, cast("Any", method), target_layer, **cast("Any", settings))
    _check_explainer(explainer)
    images = torch.cat([example, example])[:2] if len(example) == 1 else example[:2]
    expected = explainer(images, target)
    if not isinstance(expected, Explanation):
        raise ValueError("a program makes one map per image: fuse= joins the maps of several layers")
    layers, notes = _located(explainer, images, target)
    program = _trace(explainer, layers, target, images, any_size)
    with tempfile.TemporaryDirectory(dir=destination.parent) as folder:
        written = Path(folder, destination.name)
        with _without_warnings():
            KINDS[format].write(program, images, _highest(images), written)
            run = KINDS[format].load(written)
        difference = max(_difference(run, explainer, part, target) for part in _probes(images, program))
        if not difference <= TOLERANCE.get(_dtype(explainer.model, images), TOLERANCE[torch.float32]):
            raise RuntimeError(
                f"the exported program's maps differ by {difference:.2g} from the explainer's, which lie in [0, 1]; "
                "nothing was written"
            )
        os.replace(written, destination)
    return ExportReport(
        destination, format, expected.method, expected.layer, program.sides, program.conditions, difference, notes
    )


def _check(example: object, format: str, score: targets.Logit | None, settings: dict[str, object]) -> targets.Logit:
    """Check the arguments, and return the score of the highest class."""
    if format not in KINDS:
        raise ValueError(f"`format` must be one of {', '.join(KINDS)}, got {format!r}")
    if not has_extension():
        raise RuntimeError("the compiled ops, which an exported program calls, are missing: see fastcam.build_info()")
    for name in _NOT_EXPORTED:
        if name in settings:
            raise TypeError(f"`{name}` is no part of an exported program")
    if not isinstance(example, Tensor):
        raise TypeError(f"`example` must be a tensor (N, C, ...) of images, got {type(example).__name__}")
    check_images(example)
    if score is None:
        return targets.Logit()
    if type(score) not in SCORES or score.classes is not None:
        names = ", ".join(f"targets.{each.__name__}()" for each in SCORES)
        raise ValueError(f"`score` must be one of {names}: the classes are an argument of the program")
    return score


def _check_explainer(explainer: Explainer[Any]) -> None:
    if is_training(explainer.model):
        raise ValueError("the model is in training mode: call model.eval() before it is exported")
    if isinstance(explainer.model, Prepared) and explainer.model._parts is not None:
        raise ValueError('a compiled model is not exported: prepare it without compile; format="aoti" compiles all')


def _destination(path: str | Path, format: Format) -> Path:
    destination, suffixes = Path(path), KINDS[format].suffixes
    if destination.suffix not in suffixes:
        raise ValueError(f"a file of format {format!r} must end in {' or '.join(suffixes)}, got {destination.name!r}")
    if not destination.parent.is_dir():
        raise ValueError(f"there is no folder {str(destination.parent)!r}")
    return destination


def _located(
    explainer: Explainer[Any], images: Tensor, target: targets.Logit
) -> tuple[Sequence[Layer], tuple[str, ...]]:
    """Return the target layers with their runs and token maps, and what was found out about the model."""
    notes = Notes(explainer.settings.strict)
    inputs = Inputs.of(images, explainer.model, None, (), explainer.settings.channel_axis)
    batches = Batches("auto", images.device, ProgressReporter(False))
    run = first_pass(explainer.model, inputs, target, explainer.settings, batches, notes)
    return run.layers, tuple(notes.texts)


def _trace(
    explainer: Explainer[Any], layers: Sequence[Layer], target: targets.Logit, images: Tensor, any_size: bool
) -> Program:
    """Return the program for any number of images, and on request for any size."""
    # Both take a second to import.
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

    from fastcam.exporting.tracing import Traceable, trace

    settings = explainer.settings
    if any_size and any(layer.token_map is not None for layer in layers):
        raise ValueError("the places of a transformer's tokens are those of one image size: any_size= does not apply")
    if any_size and not settings.is_one_pass:
        raise ValueError("copies of images are made for one image size: any_size= does not apply")
    if any("engine" in method.options for method in settings.methods):  # the map is the same, the way is the host's
        settings = replace(settings, options={**settings.options, "engine": "dense"})
    free = [0, *range(2, images.dim())] if any_size else [0]
    try:
        with _without_warnings():
            explanation = Traceable(explainer.model, settings, layers, target)
            program = trace(explanation, images, _highest(images), free)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        hint = "; try it without any_size=" if any_size else ""
        names = ", ".join(method.name for method in settings.methods)
        reads = isinstance(error, GuardOnDataDependentSymNode)
        reason = "what it does depends on values of tensors" if reads else str(error).strip().partition("\n")[0]
        raise ValueError(f"{names} of this model cannot be exported: {reason}{hint}") from error
    if program.sides[0] is not None:
        raise ValueError(f"the model cannot be exported for any number of images: it fixes it to {program.sides[0]}")
    return program


def _highest(images: Tensor) -> Tensor:
    return torch.full((len(images),), HIGHEST, device=images.device)


def _probes(images: Tensor, program: Program) -> Iterator[Tensor]:
    """Return images to compare on: the example, one image, four, and where any size fits a larger one."""
    yield images
    yield images[:1]
    yield torch.cat([images, images.flip(-1)])
    free = [axis for axis in range(2, images.dim()) if program.sides[axis] is None]
    if free:
        larger = images
        for axis in free:  # by half, in steps that a network with strides takes
            added = images.shape[axis] // 2 // 32 * 32
            larger = torch.cat([larger, larger.flip(axis).narrow(axis, 0, added)], axis)
        yield larger


def _difference(run: Run, explainer: Explainer[Any], images: Tensor, target: targets.Logit) -> float:
    """Return the largest difference of the maps, NaN where one alone has a NaN."""
    expected = explainer(images, target)
    with torch.no_grad():
        _, maps, classes = run(images, _highest(images))
    if not torch.equal(classes, expected.targets):
        raise RuntimeError(
            f"the exported program explains classes {classes.tolist()}, the explainer {expected.targets.tolist()}: "
            "nothing was written"
        )
    both = maps.isnan() & expected.maps.isnan()
    return float((maps - expected.maps).masked_fill(both, 0).abs().max())


def _dtype(model: nn.Module, images: Tensor) -> torch.dtype:
    """Return the narrowest floating dtype that the model computes in."""
    dtypes = {images.dtype, *(each.dtype for each in model.parameters() if each.is_floating_point())}
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
