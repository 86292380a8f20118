"""The one forward pass over the images as they are, and what of it is to be explained."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fastcam import targets
from fastcam.engine.scorer import Scorer
from fastcam.engine.settings import Settings
from fastcam.graph.bias_gradients import Watch
from fastcam.model import capture, layers
from fastcam.model.batching import Batches
from fastcam.model.inputs import Inputs, in_fast_layout
from fastcam.model.split_model import SplitModel


@dataclass(frozen=True)
class Pass:
    """One forward pass.

    Attributes:
        settings: of the explainer.
        layers: the target layers; empty for methods without one.
        activations: of every layer as it returned them, in the graph.
        output: the part of the model's output that is scored.
        bound: from an output to scores.
        scores: (N,) or (N, K), in the graph.
        images: (N, C, *S), where the graph begins if anything needs the gradient there.
        scorer: for methods that try copies of the images, otherwise None.
        watch: for FullGrad, otherwise None.
    """

    settings: Settings
    layers: Sequence[capture.Layer]
    activations: Sequence[Tensor]
    output: Any
    bound: targets.Bound
    scores: Tensor
    images: Tensor
    scorer: Scorer | None
    watch: Watch | None

    @property
    def rows(self) -> Tensor:
        """(N,): every image once."""
        return torch.arange(len(self.images))

    def kept(self, tensor: Tensor) -> Tensor:
        """The tensor out of the graph, or in it where the maps are to have gradients."""
        return tensor if self.settings.differentiable else tensor.detach()


def first_pass(model: nn.Module, inputs: Inputs, target: targets.Target, settings: Settings, batches: Batches) -> Pass:
    """Run the model once.

    Args:
        model: any module.
        inputs: N images and the model's other arguments.
        target: what is explained, see :func:`fastcam.targets.bind`.
        settings: of the explainer.
        batches: how methods that try copies of the images cut their work.

    Raises:
        TypeError, ValueError, RuntimeError: for a layer or target that does not fit the model.
    """
    chosen = layers.resolve(model, settings.target_layer, inputs) if settings.has_layer else []
    if "scorer" not in settings.needs:
        return _run(model, inputs, target, settings, batches, chosen)
    with torch.inference_mode(False):  # in the memory layout that all copies of the images will have
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
    watch = Watch(differentiable) if "full_gradients" in settings.needs else None
    if watch is not None and isinstance(model, SplitModel):
        model.check_biases()
    with contextlib.nullcontext() if watch is None else watch.over(model):
        captured = capture.forward(
            model,
            replace(inputs, images=images).arguments,
            [*chosen, *scored],
            with_graph=settings.needs_graph,
            from_start=at_input or differentiable,
            element=settings.layer_output,
        )
    with torch.inference_mode(False), torch.enable_grad():
        output = captured.activations[-1] if scored else targets.select_output(captured.output, settings.select)
        if settings.needs == {"activations"}:  # no class is explained
            bound = targets.bind_if_any(output, target, images)
        else:
            bound = targets.bind(output, target, len(images))
        scores = bound(output, torch.arange(len(images)))
    scorer = None
    if not settings.is_one_pass:
        layer = scored[0] if scored else None
        clean = scores if differentiable else scores.detach()
        scorer = Scorer(model, inputs, bound, clean, batches, settings.select, layer, differentiable)
    activations = captured.activations[: len(chosen)]
    return Pass(settings, chosen, activations, output, bound, scores, images, scorer, watch)


def _scored_layer(model: nn.Module, target: targets.Target) -> list[capture.Layer]:
    """The layer that the target scores in place of the output, if it does."""
    name = target.layer if isinstance(target, targets.Score) else None
    return [] if name is None else [layers.named(model, name)]


def _start_of_graph(images: Tensor, differentiable: bool) -> Tensor:
    """A tensor of the images to differentiate with respect to, in the caller's graph where the maps have gradients."""
    return images.clone() if differentiable and images.requires_grad else images.detach().requires_grad_()
