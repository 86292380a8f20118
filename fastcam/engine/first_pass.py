"""The one forward pass over the unchanged images, and the scores to explain."""

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fastcam import targets
from fastcam.devices import all_rows
from fastcam.engine import target_layers
from fastcam.engine.graphs import Graphs
from fastcam.engine.notes import Notes
from fastcam.engine.scorer import Scorer
from fastcam.engine.settings import Reshape, Settings
from fastcam.graph.bias_gradients import BiasGradientRecorder
from fastcam.model import capture, layers
from fastcam.model.batching import Batches
from fastcam.model.elements import ModelOutput, Select
from fastcam.model.few_positions import few_positions
from fastcam.model.inputs import Inputs, in_fast_layout
from fastcam.model.padding import Padding, record_padding
from fastcam.model.region_heads import few_regions
from fastcam.model.split_model import SplitModel
from fastcam.targets.binding import Bound, bind, bind_optional, select_output
from fastcam.targets.one_row import bind_one_row, has_one_row
from fastcam.targets.output_part import implied

_POOLED = ("grad_cam", "grad_cam_pp", "xgrad_cam")  # weights are of whole channels


@dataclass(frozen=True)
class Pass:
    """One forward pass.

    Attributes:
        settings: of the explainer.
        model: the model.
        inputs: N images and the model's other arguments.
        layers: the target layers; empty for methods without one.
        activations: the outputs of the layers, in the graph.
        output: the part of the model's output that is scored.
        bound: the bound target, from an output to scores.
        scores: (N,) or (N, K), in the graph.
        images: (N, C, *S); a leaf of the graph if their gradient is needed.
        scorer: for methods that run copies of the images, otherwise None.
        recorder: of bias gradients for FullGrad, otherwise None.
        padding: that the model adds to the images itself.
        notes: on the model.
    """

    settings: Settings
    model: nn.Module
    inputs: Inputs
    layers: Sequence[capture.Layer]
    activations: Sequence[Tensor]
    output: ModelOutput
    bound: Bound
    scores: Tensor
    images: Tensor
    scorer: Scorer | None
    recorder: BiasGradientRecorder | None
    padding: Padding
    notes: Notes

    @property
    def rows(self) -> Tensor:
        """(N,): every image once."""
        return all_rows(self.images.shape[0])

    def reshape_of(self, index: int) -> Reshape | None:
        """Return the function from a layer's output to its map (N, C, *s); None for the output itself."""
        return self.layers[index].token_map or self.settings.reshape_transform

    def detach_unless_differentiable(self, tensor: Tensor) -> Tensor:
        """Return the tensor detached from the graph, or in it for differentiable maps."""
        return tensor if self.settings.differentiable else tensor.detach()


def first_pass(
    model: nn.Module,
    inputs: Inputs,
    target: targets.Target,
    settings: Settings,
    batches: Batches,
    notes: Notes,
    located: Sequence[capture.Layer] | None = None,
    graphs: Graphs | None = None,
) -> Pass:
    """Run the model once.

    Args:
        model: any module.
        inputs: N images and the model's other arguments.
        target: the target, see :func:`fastcam.targets.binding.bind`.
        settings: of the explainer.
        batches: for methods that run copies of the images.
        notes: told what is found out about the model.
        located: the target layers of an earlier pass, with their runs and token maps; None finds them.
        graphs: of methods that run copies of the images.

    Raises:
        TypeError, ValueError, RuntimeError: for a layer or target that does not fit the model.
    """
    chosen = located
    if chosen is None:
        chosen = target_layers.resolve(model, inputs, target, settings) if settings.has_layer else []

    def run(fast: Inputs) -> Pass:
        found = _run(model, fast, target, settings, batches, chosen, notes, graphs)
        if located is not None:
            return found
        layers = target_layers.with_token_maps(model, found.layers, found.activations, fast, settings, notes)
        return replace(found, layers=layers)

    if "scorer" not in settings.needs:
        return run(inputs)
    with torch.inference_mode(False):  # in the memory layout of all copies of the images
        return in_fast_layout(run, inputs)


def _run(
    model: nn.Module,
    inputs: Inputs,
    target: targets.Target,
    settings: Settings,
    batches: Batches,
    chosen: Sequence[capture.Layer],
    notes: Notes,
    graphs: Graphs | None,
) -> Pass:
    at_input, differentiable = settings.needs_input_gradients, settings.differentiable
    scored = _scored_layer(model, target)
    with torch.inference_mode(False):
        images = _start_of_graph(inputs.images, differentiable) if at_input else inputs.images
    recorder = BiasGradientRecorder(differentiable) if "full_gradients" in settings.needs else None
    if recorder is not None and isinstance(model, SplitModel):
        model.check_biases()

    with record_padding(model) as padding:
        forward = functools.partial(_forward, model, inputs.replace_images(images), target, settings, recorder)
        captured = forward([*chosen, *scored], at_input or differentiable)
        located = target_layers.with_runs(model, chosen, captured, inputs, notes)
        if located != chosen:
            chosen = located
            captured = forward([*chosen, *scored], at_input or differentiable)
        select = settings.select if scored else _select(captured.output, settings, target, notes)
        if settings.needs_graph and not scored and not _has_graph(select_output(captured.output, select)):
            # The model sets the grad mode itself, and ended the one that the layer's hook had begun.
            captured = forward([*chosen, *scored], True)
    with torch.inference_mode(False), torch.enable_grad():
        output = captured.activations[-1] if scored else select_output(captured.output, select)
        bound = _bind(output, target, images, settings, notes)
        if settings.strict:
            bound.check_classes()
        _remark_on_pooling(bound, settings, notes)
        scores = bound(output, all_rows(images.shape[0]))
    scorer = None
    if not settings.is_one_pass:
        layer = scored[0] if scored else None
        clean = scores if differentiable else scores.detach()
        scorer = Scorer(model, inputs, bound, clean, batches, select, layer, differentiable, padding.cover, graphs)
    activations = captured.activations[: len(chosen)]
    return Pass(
        settings, model, inputs, chosen, activations, output, bound, scores, images, scorer, recorder, padding, notes
    )


def _forward(
    model: nn.Module,
    inputs: Inputs,
    target: targets.Target,
    settings: Settings,
    recorder: BiasGradientRecorder | None,
    captured_layers: Sequence[capture.Layer],
    from_start: bool,
) -> capture.Captured:
    with contextlib.ExitStack() as stack:
        if recorder is not None:
            stack.enter_context(recorder.recording(model))
        if settings.needs_graph and not settings.differentiable and not settings.needs_input_gradients:
            stack.enter_context(few_regions(model, [layer.module for layer in captured_layers]))
            if isinstance(target, targets.Detections):
                stack.enter_context(few_positions(model))
        return capture.forward(
            model,
            inputs.arguments,
            captured_layers,
            with_graph=settings.needs_graph,
            from_start=from_start,
            element=settings.layer_output,
        )


def _select(output: ModelOutput, settings: Settings, target: targets.Target, notes: Notes) -> Select:
    """Return the part of the output that is scored, and note it if the user did not say."""
    found = implied(output, settings.select, target)
    if settings.select is None and found is not None:
        part = f"{found.__name__} of" if callable(found) else f"the part {found!r} of"
        notes.say(f"{part} the model's output, a {type(output).__name__}, is scored")
    return found


def _bind(output: ModelOutput, target: targets.Target, images: Tensor, settings: Settings, notes: Notes) -> Bound:
    """Return the target, bound to the output."""
    count = images.shape[0]
    if settings.needs == {"activations"}:  # no class needed
        return bind_optional(output, target, images)
    if not has_one_row(output, target, count):
        return bind(output, target, count)
    if not settings.is_one_pass:
        names = ", ".join(method.name for method in settings.methods if not method.is_one_pass)
        raise ValueError(
            f"the model's output has one row for all {count} images, so that they are frames of one input, and {names} "
            "runs copies of single images; wrap the model to take inputs (N, T, C, H, W) and pass channel_axis=2"
        )
    notes.say(f"the model's output has one row for all {count} images, which are taken as frames of one input")
    return bind_one_row(output, target, count)


def _remark_on_pooling(bound: Bound, settings: Settings, notes: Notes) -> None:
    """Say that a mean over all positions loses a detection, which has a gradient at few of them."""
    pooled = [method.name for method in settings.methods if method.name in _POOLED]
    if bound.is_found is not None and pooled:
        notes.say(
            f"{', '.join(pooled)} averages the gradient over the whole map, and a detection's is zero nearly "
            "everywhere: layer_cam and hires_cam keep its place"
        )


def _has_graph(output: ModelOutput) -> bool:
    if isinstance(output, Tensor):
        return output.requires_grad
    return any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree_leaves(output))


def _scored_layer(model: nn.Module, target: targets.Target) -> list[capture.Layer]:
    """Return the layer that the target scores instead of the output, if any."""
    name = target.layer if isinstance(target, targets.Score) else None
    return [] if name is None else [layers.get_layer(model, name)]


def _start_of_graph(images: Tensor, differentiable: bool) -> Tensor:
    """Return the images as a tensor to differentiate by, in the caller's graph for differentiable maps."""
    return images.clone() if differentiable and images.requires_grad else images.detach().requires_grad_()
