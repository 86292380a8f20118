"""One pass over images: what the channels of layers do, and which images excite them most."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fastcam.inspect.moments import plane_moments
from fastcam.inspect.recording import Layers, resolve, watching
from fastcam.inspect.stages import find_stages
from fastcam.inspect.statistics import ChannelStatistics
from fastcam.inspect.top import TopActivations
from fastcam.model import capture, running
from fastcam.model import layers as model_layers
from fastcam.model.capture import Layer
from fastcam.model.inputs import Inputs


@dataclass(frozen=True)
class LayerSurvey:
    """What was seen of one layer.

    Attributes:
        name: of the layer.
        statistics: of its channels.
        top: the images that excite each channel most.
    """

    name: str
    statistics: ChannelStatistics
    top: TopActivations

    def __add__(self, other: "LayerSurvey") -> "LayerSurvey":
        """Return what was seen in both parts."""
        return LayerSurvey(self.name, self.statistics + other.statistics, self.top + other.top)


@dataclass
class Survey(Mapping[str, LayerSurvey]):
    """What was seen of layers, by name; parts of a dataset can be added, in any order.

    Attributes:
        layers: by name.
        images: that were seen.
    """

    layers: dict[str, LayerSurvey] = field(default_factory=dict)
    images: int = 0

    def __getitem__(self, name: str) -> LayerSurvey:
        return self.layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __add__(self, other: "Survey") -> "Survey":
        """Return what was seen in both parts, of different images.

        Raises:
            ValueError: for other layers.
        """
        if not self.layers or not other.layers:
            return self if self.layers else other
        if self.layers.keys() != other.layers.keys():
            raise ValueError(f"surveys of {', '.join(self)} and of {', '.join(other)} do not add up")
        return Survey({name: self[name] + other[name] for name in self}, self.images + other.images)

    def __str__(self) -> str:
        """A table, a line for every layer."""
        lines = [
            f"{'layer':24}{'channels':>9}{'mean':>10}{'median':>10}{'deviation':>11}{'zeros':>8}{'dead':>6}{'nearly':>8}"
        ]
        for name, seen in self.items():
            over = seen.statistics.over_channels()
            lines.append(
                f"{name:24}{len(seen.statistics):9}{over['mean']:10.4g}{over['median']:10.4g}{over['deviation']:11.4g}"
                f"{over['zero_share']:8.1%}{over['dead']:6}{over['nearly_dead']:8}"
            )
        return "\n".join([*lines, f"of {self.images} images"])


class Surveyor:
    """Surveys layers of a model, batch by batch.

    Args:
        model: any module of images (N, C, *S), in evaluation mode.
        layers: modules of the model, their names; None takes the last layer of every resolution, see
            :func:`find_stages`.
        k: images that excite a channel most to keep.
        first: number of the first image, for parts of a dataset.

    Attributes:
        survey: of the images seen so far.
    """

    def __init__(self, model: nn.Module, layers: Layers | None = None, k: int = 0, first: int = 0) -> None:
        if not isinstance(k, int) or k < 0:
            raise ValueError(f"`k` must be a whole number from 0 on, got {k!r}")
        self.model, self.k, self.first = model, k, first
        self.layers = None if layers is None else resolve(model, layers)
        self.survey = Survey()
        self._is_resolved = False

    def __call__(self, images: Tensor) -> Tensor:
        """Run the model on the next images (N, C, *S); return its output.

        Raises:
            TypeError, ValueError: for images that are no such tensor, or a layer without channels.
        """
        if not isinstance(images, Tensor) or images.dim() < 3 or not images.is_floating_point():
            raise TypeError("the images must be a floating point tensor (N, C, *S)")
        if self.layers is None:
            self.layers = resolve(self.model, find_stages(self.model, images[:1]))
        if not self._is_resolved:
            self.layers = [with_map(self.model, layer, images[:1]) for layer in self.layers]
            self._is_resolved = True
        seen: dict[str, LayerSurvey] = {}

        def see(layer: Layer, tensors: list[Tensor]) -> None:
            activations = maps_of(layer, tensors, len(images))
            moments = plane_moments(activations)
            found = LayerSurvey(
                layer.name,
                ChannelStatistics.of(activations, moments, self.first + self.survey.images),
                TopActivations.of(self.k, moments, tuple(activations.shape[2:]), self.first + self.survey.images),
            )
            seen[layer.name] = found  # of several runs the last one

        with torch.no_grad(), running.preserve_state(self.model), watching(self.layers, see):
            output: Tensor = running.call(self.model, images)
        missing = [layer.name for layer in self.layers if layer.name not in seen]
        if missing:
            raise RuntimeError(f"layer {missing[0]!r} was not reached in the forward pass")
        self.survey += Survey({layer.name: seen[layer.name] for layer in self.layers}, len(images))
        return output


def survey(model: nn.Module, batches: Tensor | Iterable[Tensor], layers: Layers | None = None, k: int = 0) -> Survey:
    """Return the statistics of the channels of layers over images, and the images that excite each channel most.

    Args:
        model: any module of images, in evaluation mode.
        batches: images (N, C, *S), or any number of such batches, of one size.
        layers: as for :class:`Surveyor`.
        k: images that excite a channel most; memory is in proportion to k and the number of channels.

    Raises:
        TypeError, ValueError, RuntimeError: as of :class:`Surveyor`.
    """
    surveyor = Surveyor(model, layers, k)
    for images in [batches] if isinstance(batches, Tensor) else batches:
        surveyor(images)
    return surveyor.survey


def with_map(model: nn.Module, layer: Layer, images: Tensor) -> Layer:
    """Return a layer with the map that is in its tokens, if there is one."""
    output = capture.forward(model, images, [layer]).activations[0]
    return layer if output.dim() < 3 else model_layers.with_token_map(model, layer, output, Inputs(images))


def maps_of(layer: Layer, tensors: Sequence[Tensor], images: int) -> Tensor:
    """Return the activations (N, C, *S) of a layer's output.

    Raises:
        ValueError: for an output that has no channels of N images.
    """
    if len(tensors) != 1 or tensors[0].dim() < 2 or len(tensors[0]) != images or not tensors[0].is_floating_point():
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors) or "none"
        raise ValueError(f"layer {layer.name!r} must return one tensor (N, C, ...) for {images} images, got {shapes}")
    activations = tensors[0].detach()
    if layer.token_map is not None:
        return layer.token_map(activations)
    return activations if activations.dim() > 2 else activations.unsqueeze(2)
