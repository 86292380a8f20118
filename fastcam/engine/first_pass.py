"""The one forward pass over the unchanged images, and the scores to explain."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fastcam import targets
from fastcam.engine.scorer import Scorer
from fastcam.engine.settings import Settings
from fastcam.graph.bias_gradients import BiasGradientRecorder
from fastcam.model import capture, layers
from fastcam.model.batching import Batches
from fastcam.model.elements import ModelOutput
from fastcam.model.inputs import Inputs, in_fast_layout
from fastcam.model.split_model import SplitModel
from fastcam.targets.binding import Bound, bind, bind_optional, select_output


@dataclass(frozen=True)
class Pass:
    """One forward pass.

    Attributes:
        settings: of the explainer.
        layers: the target layers; empty for methods without one.
        activations: the outputs of the layers, in the graph.
        output: the part of the model's output that is scored.
        bound: the bound target, from an output to scores.
        scores: (N,) or (N, K), in the graph.
        images: (N, C, *S); a leaf of the graph if their gradient is needed.
        scorer: for methods that run copies of the images, otherwise None.
        recorder: of bias gradients for FullGrad, otherwise None.
    """

    settings: Settings
    layers: Sequence[capture.Layer]
    activations: Sequence[Tensor]
    output: ModelOutput
    bound: Bound
    scores: Tensor
    images: Tensor
    scorer: Scorer | None
    recorder: BiasGradientRecorder | None

    @property
    def rows(self) -> Tensor:
        """(N,): every image once."""
        return torch.arange(len(self.images))

    def detach_unless_differentiable(self, tensor: Tensor) -> Tensor:
        """Return the tensor detached from the graph, or in it for differentiable maps."""
        return tensor if self.settings.differentiable else tensor.detach()


def first_pass(model: nn.Module, inputs: Inputs, target: targets.Target, settings: Settings, batches: Batches) -> Pass:
    """Run the model once.

    Args:
        model: any module.
        inputs: N images and the model's other arguments.
        target: the target, see :func:`fastcam.targets.binding.bind`.
        settings: of the explainer.
        batches: for methods that run copies of the images.

    Raises:
        TypeError, ValueError, RuntimeError: for a layer or target that does not fit the model.
    """
    chosen = layers.resolve(model, settings.target_layer, inputs) if settings.has_layer else []
    if "scorer" not in settings.needs:
        return _run(model, inputs, target, settings, batches, chosen)
    with torch.inference_mode(False):  # in the memory layout of all copies of the images
        return in_fast_layout(lambda fast: _run(model, fast, target, settings, batches, chosen), inputs)


def _run(
    model: nn.Module,
    inputs: Inputs,
    target: targets.Target,
    settings: Settings,
    batches: Batches,
    chosen: Sequence[capture.Layer],
) -> Pass:
    at_input, differentiable = settings.needs_input_gradients, settings.differentiable
    scored = _scored_layer(model, target)
    with torch.inference_mode(False):
        images = _start_of_graph(inputs.images, differentiable) if at_input else inputs.images
    recorder = BiasGradientRecorder(differentiable) if "full_gradients" in settings.needs else None
    if recorder is not None and isinstance(model, SplitModel):
        model.check_biases()
    with contextlib.nullcontext() if recorder is None else recorder.recording(model):
        captured = capture.forward(
            model,
            replace(inputs, images=images).arguments,
            [*chosen, *scored],
            with_graph=settings.needs_graph,
            from_start=at_input or differentiable,
            element=settings.layer_output,
        )
    with torch.inference_mode(False), torch.enable_grad():
        output = captured.activations[-1] if scored else select_output(captured.output, settings.select)
        if settings.needs == {"activations"}:  # no class needed
            bound = bind_optional(output, target, images)
        else:
            bound = bind(output, target, len(images))
        scores = bound(output, torch.arange(len(images)))
    scorer = None
    if not settings.is_one_pass:
        layer = scored[0] if scored else None
        clean = scores if differentiable else scores.detach()
        scorer = Scorer(model, inputs, bound, clean, batches, settings.select, layer, differentiable)
    activations = captured.activations[: len(chosen)]
    return Pass(settings, chosen, activations, output, bound, scores, images, scorer, recorder)


def _scored_layer(model: nn.Module, target: targets.Target) -> list[capture.Layer]:
    """Return the layer that the target scores instead of the output, if any."""
    name = target.layer if isinstance(target, targets.Score) else None
    return [] if name is None else [layers.get_layer(model, name)]


def _start_of_graph(images: Tensor, differentiable: bool) -> Tensor:
    """Return the images as a tensor to differentiate by, in the caller's graph for differentiable maps."""
    return images.clone() if differentiable and images.requires_grad else images.detach().requires_grad_()
