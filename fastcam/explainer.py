"""The engine: the only place that wires capture, targets, methods and post-processing."""

import contextlib
import sys
import threading
import warnings
from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from fastcam import artefacts, postprocess, targets
from fastcam.engine import evidence, image_groups
from fastcam.engine.assembly import Assembly
from fastcam.engine.scorer import Scorer, Select
from fastcam.explanation import Explanation
from fastcam.graph import bias_gradients
from fastcam.methods.registry import Method, Reduction, get_method
from fastcam.model import capture, layers
from fastcam.model.batching import Batches, BatchSize, Block, check_batch_size
from fastcam.model.inputs import Inputs, in_fast_layout
from fastcam.model.progress import Progress, Report
from fastcam.preparation.prepare import Precision, check_preparable, prepare
from fastcam.preparation.prepared import Prepared


class Explainer:
    """Explains one model, batch after batch; everything stays on the model's device.

    Args:
        model: any ``nn.Module``, TorchScript included, or a program of torch.export. It is never changed: no ``.grad``,
            no mode, no buffer, no hook stays behind.
        method: a registry name (``fastcam.list_methods()``) or a :class:`fastcam.Method` of your own, or
            several that share one forward and one backward.
        target_layer: a module, its name, several of either, or None for the last layer with a spatial map. Methods that
            attribute to the input alone have none.
        fuse: for several layers, "mean" or "max" of their normalised maps, or None to return each apart.
        relu: True or False to end with ReLU or to keep the sign; None does as the method's definition says.
        reduce: how attributions become a map: "max_abs", "sum_abs", "sum", "mean", "max" or "norm" over colour; None
            does as the method's definition says.
        reshape_transform: from what the layer returns, and its gradient, to (N, C, *S); ``fastcam.vit_reshape`` and
            ``fastcam.swin_reshape`` are ready. It must only move elements.
        select: the part of the model's output to score: a function, an index, a key or an attribute's name.
        layer_output: which element of a target layer's tuple or dict to explain.
        batch_size: images at a time, and copies at a time for methods that try many copies of an image (masks,
            windows, steps, noise); "auto" begins with what suits the device, or was measured for a prepared model, and
            takes fewer where memory runs out. The maps do not depend on it. Targets that are callables see all images.
        progress: True shows a bar on standard error for what takes more than two seconds; or a function that is
            called with (done, total).
        precision: None takes the model as it is. "fp32", "bf16", "fp16" or "auto" prepares it when it is first called,
            with the images of that call as the example; see :func:`fastcam.prepare`.
        compile: prepares the model too, and compiles it.
        differentiable: keep the graph, so that maps have gradients with respect to the model's parameters and to images
            that require them. Costs the memory of a training step.
        options: keyword options of the method's rule, for example ``window`` of occlusion.

    Raises:
        ValueError, TypeError: for an unknown method, option or value.
    """

    def __init__(
        self,
        model: nn.Module,
        method: str | Method | Sequence[str | Method] = "grad_cam",
        target_layer: layers.TargetLayer = None,
        *,
        fuse: postprocess.Fusion | None = "mean",
        relu: bool | None = None,
        reduce: Reduction | None = None,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        select: Select = None,
        layer_output: int | str | None = None,
        batch_size: BatchSize = "auto",
        progress: bool | Report = False,
        differentiable: bool = False,
        precision: Precision | None = None,
        compile: bool = False,
        **options: Any,
    ) -> None:
        model = artefacts.opened(model)
        if not isinstance(model, nn.Module):
            raise TypeError(f"`model` must be an nn.Module, got {type(model).__name__}")
        if fuse not in ("mean", "max", None):
            raise ValueError(f'`fuse` must be "mean", "max" or None, got {fuse!r}')
        if reduce is not None:
            postprocess.check_reduction(reduce)
        check_batch_size(batch_size)
        # Hooks act on the module itself, not on the code torch.compile made of it.
        self.model: nn.Module = getattr(model, "_orig_mod", model)
        if not isinstance(method, str | Method | list | tuple):
            raise TypeError(f"`method` must be a name or a list of names, got {type(method).__name__}")
        self.one_method = isinstance(method, str | Method)
        self.methods = [get_method(each) for each in ([method] if isinstance(method, str | Method) else method)]
        if not self.methods:
            raise ValueError("`method` must name at least one method, got an empty list")
        self.target_layer = target_layer
        self.fuse: postprocess.Fusion | None = fuse
        self.relu = relu
        self.reduce = reduce
        self.reshape_transform = reshape_transform
        self.select = select
        self.layer_output = layer_output
        self.batch_size: BatchSize = batch_size
        self.progress = Progress(progress)
        self.differentiable = differentiable
        if precision is not None or compile:
            check_preparable(self.model, precision or "fp32")
            if differentiable:
                raise ValueError("differentiable maps are of the model's own parameters: not of a prepared copy's")
        self.precision: Precision | None = "fp32" if compile and precision is None else precision
        self.compile = compile
        self._preparing = threading.Lock()
        self.options = options
        self._check_options()

    def _check_options(self) -> None:
        known = set().union(*(each.all_options(self.options) for each in self.methods))
        for option in self.options:
            if option not in known:
                names = ", ".join(each.name for each in self.methods)
                raise TypeError(f"{names} has no option {option!r}; known: {', '.join(sorted(known)) or 'none'}")

    def __call__(
        self, images: Tensor | tuple[Any, ...], target: targets.Target = None, *, out: Tensor | None = None
    ) -> Any:
        """Maps for a batch.

        Args:
            images: (N, C, *S) floating point input of the model, on its device; for a model of several inputs a tuple
                of its positional arguments, of which the first is explained.
            target: what to explain, per image: None (the highest class), a class index, N of them, N x K for K
                targets an image, "all" classes, one of ``fastcam.targets``, a callable from the output to (N,) or
                (N, K) scores, or N callables. A method that tries copies of the images calls it with any number of
                them.
            out: (N, [K,] *S) to write the ``maps`` into, of one method and layer; see :meth:`.Explanation.write_maps`.

        Returns:
            An :class:`Explanation`; for several methods a dict by method name, for layers returned apart a dict by
            layer name, for both a dict by (method, layer). Methods without a layer have the layer name "".

        Raises:
            ValueError, TypeError, RuntimeError: with a sentence that says what was expected and what came.
        """
        inputs = Inputs.of(images)
        _warn_of_training(self.model)
        self._prepare(inputs)
        batches = self._groups(inputs, target)
        found = self._explained(inputs, target) if batches is None else self._by_groups(inputs, target, batches)
        if out is not None:
            if not isinstance(found, Explanation):
                raise ValueError(f"`out` takes the maps of one method and layer, got {len(found)} of them")
            found.write_maps(out)
        return found

    def _prepare(self, inputs: Inputs) -> None:
        """Prepares the model, once, where that was asked for."""
        if self.precision is None:
            return
        with self._preparing:
            if isinstance(self.model, Prepared):
                return
            self.model = prepare(
                self.model,
                inputs.arguments,
                precision=self.precision,
                compile=self.compile,
                target_layer=self.target_layer,
                reshape_transform=self.reshape_transform,
                select=self.select,
            )

    def _groups(self, inputs: Inputs, target: targets.Target) -> Batches | None:
        """How the images are cut into groups; None for all at once, where they may not be parted or are few."""
        if self.differentiable or not image_groups.is_divisible(target, len(inputs)):
            return None
        if not all(each.is_one_pass for each in self.methods):
            return None  # these cut their work themselves
        start = self._measured_size or image_groups.usual_size(inputs.images)
        batches = Batches(self.batch_size, inputs.images.device, self.progress, start)
        return None if len(inputs) <= batches.limit or capture.is_training(self.model) else batches

    @property
    def _measured_size(self) -> int | None:
        return self.model.batch_size if isinstance(self.model, Prepared) else None

    def _by_groups(self, inputs: Inputs, target: targets.Target, batches: Batches) -> Any:
        """The same as :meth:`_explained`, group by group."""

        def explain_group(block: Block) -> Any:
            return self._explained(*image_groups.part_of(inputs, target, block.images))

        found = []
        for block, part in batches.each(len(inputs.images), 1, explain_group):
            one = next(iter(part.values())) if isinstance(part, dict) else part
            if not image_groups.is_joinable(one.output, len(block)):
                return self._explained(inputs, target)
            found.append(part)
        return image_groups.joined(found, inputs.images.detach())

    def _explained(self, inputs: Inputs, target: targets.Target) -> Any:
        """Maps of all images, in one forward pass."""
        given = inputs.images
        needs = {need for each in self.methods for need in each.needs}
        has_layer = any(each.has_layer for each in self.methods)
        chosen = layers.resolve(self.model, self.target_layer, inputs) if has_layer else []
        run = self._first_pass(inputs, chosen, needs, target)
        with torch.inference_mode(False), torch.enable_grad():
            shared, gathered = evidence.gather(run, needs, self.reshape_transform)
        with torch.inference_mode(False), torch.set_grad_enabled(self.differentiable):
            return self._assembly.explanations(run, shared, gathered, given)

    @property
    def _assembly(self) -> Assembly:
        return Assembly(
            self.methods, self.one_method, self.fuse, self.relu, self.reduce, self.differentiable, self.options
        )

    def __enter__(self) -> Self:
        """The explainer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing to undo: between calls nothing is attached to the model."""

    def _first_pass(
        self, inputs: Inputs, chosen: Sequence[capture.Layer], needs: Set[str], target: targets.Target
    ) -> evidence.Run:
        """The first pass, in the memory layout that all copies of the images will have."""
        if "scorer" not in needs:
            return self._run(inputs, chosen, needs, target)
        with torch.inference_mode(False):
            return in_fast_layout(lambda each: self._run(each, chosen, needs, target), inputs)

    def _run(
        self, inputs: Inputs, chosen: Sequence[capture.Layer], needs: Set[str], target: targets.Target
    ) -> evidence.Run:
        """The one forward pass over the images as they are."""
        at_input = any(need.endswith("_gradients") for need in needs)
        scored = _scored_layer(self.model, target)
        with torch.inference_mode(False):
            images = _start_of_graph(inputs.images, self.differentiable) if at_input else inputs.images
        watch = bias_gradients.Watch(self.differentiable) if "full_gradients" in needs else None
        if watch is not None and isinstance(self.model, Prepared):
            self.model.check_biases()
        with contextlib.nullcontext() if watch is None else watch.over(self.model):
            captured = capture.forward(
                self.model,
                replace(inputs, images=images).arguments,
                [*chosen, *scored],
                with_graph=not needs.isdisjoint(_BEHIND_LAYER),
                from_start=at_input or self.differentiable,
                element=self.layer_output,
            )
        with torch.inference_mode(False), torch.enable_grad():
            output = captured.activations[-1] if scored else targets.select_output(captured.output, self.select)
            if needs == {"activations"}:  # no class is explained
                bound = targets.bind_if_any(output, target, images)
            else:
                bound = targets.bind(output, target, len(images))
            scores = bound(output, torch.arange(len(images)))
        scorer = Scorer(
            self.model,
            inputs,
            bound,
            scores if self.differentiable else scores.detach(),
            Batches(self.batch_size, images.device, self.progress, self._measured_size),
            self.select,
            scored[0] if scored else None,
            self.differentiable,
        )
        activations = captured.activations[: len(chosen)]
        return evidence.Run(
            chosen, activations, output, scores, images, scorer, self.layer_output, self.differentiable, watch
        )


# What the graph behind the layers is for.
_BEHIND_LAYER = {"gradients", "mean_pool_classifier", "max_pool_classifier", "ablated_scores"}


def _scored_layer(model: nn.Module, target: targets.Target) -> list[capture.Layer]:
    """The layer that the target scores in place of the output, if it does."""
    name = target.layer if isinstance(target, targets.Score) else None
    return [] if name is None else [layers.named(model, name)]


def _start_of_graph(images: Tensor, differentiable: bool) -> Tensor:
    """A tensor of the images to differentiate with respect to, still in the caller's graph where that is wanted."""
    return images.clone() if differentiable and images.requires_grad else images.detach().requires_grad_()


def explain(
    model: nn.Module,
    images: Tensor | tuple[Any, ...],
    method: str | Method | Sequence[str | Method] = "grad_cam",
    target: targets.Target = None,
    target_layer: layers.TargetLayer = None,
    *,
    fuse: postprocess.Fusion | None = "mean",
    relu: bool | None = None,
    reduce: Reduction | None = None,
    reshape_transform: Callable[[Tensor], Tensor] | None = None,
    select: Select = None,
    layer_output: int | str | None = None,
    batch_size: BatchSize = "auto",
    progress: bool | Report = False,
    differentiable: bool = False,
    **options: Any,
) -> Any:
    """Maps for a batch in one call; the arguments are those of :class:`Explainer` and of its call.

    Example:
        >>> explanation = fastcam.explain(model, images)
        >>> explanation.maps  # (N, H, W) in [0, 1]
    """
    explainer = Explainer(
        model,
        method,
        target_layer,
        fuse=fuse,
        relu=relu,
        reduce=reduce,
        reshape_transform=reshape_transform,
        select=select,
        layer_output=layer_output,
        batch_size=batch_size,
        progress=progress,
        differentiable=differentiable,
        **options,
    )
    return explainer(images, target)


def _warn_of_training(model: nn.Module) -> None:
    if not capture.is_training(model):
        return
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals["__name__"] == __name__:  # to whoever called the package
        level, frame = level + 1, frame.f_back
    warnings.warn(
        "the model is in training mode: batch norm mixes the images of a batch and dropout is active; "
        "call model.eval() for maps of single images",
        UserWarning,
        stacklevel=level,
    )
