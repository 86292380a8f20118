"""The layer that is explained where none is named: the last one with a map of the image that the score depends on."""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fastcam.artefacts import Value
from fastcam.model import token_maps
from fastcam.model.capture import Layer, Observed, Output, observe
from fastcam.model.elements import ModelOutput
from fastcam.model.inputs import Inputs
from fastcam.model.running import is_training
from fastcam.model.token_maps import TokenMap

Score = Callable[[ModelOutput], Tensor]  # from the model's output to scores

# Modules that only resample or pass on the output of another layer: never chosen.
_PASSIVE = (
    nn.Identity,
    nn.Flatten,
    nn.modules.dropout._DropoutNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
)
_LINEAR_NODES = ("Convolution", "Addmm", "Mm", "Bmm", "Linear", "Baddbmm")  # of the autograd graph
MAX_PROBED = 8  # outputs whose maps are looked for on the model
MIN_SHARE = 0.5  # of the positions that must receive a gradient, so that the score depends on more than a class token


@dataclass(frozen=True)
class _Choice:
    """An observed output, its map, and the gradient of the score with respect to it."""

    observed: Output
    token_map: TokenMap
    is_certain: bool  # whether the shape alone says where the channels are


def find(model: nn.Module, inputs: Inputs, output_of: Callable[[ModelOutput], ModelOutput], score: Score) -> Layer:
    """Return the layer to explain.

    For an output with one vector per image it is the last layer with a map of the image: of a convolution, or of tokens
    that the score depends on. For other outputs (segmentation, detection, reconstruction) it is the last of those with
    the most channels, in front of the layers that make the prediction: the end of the backbone.

    Args:
        model: the module to explain.
        inputs: of the model.
        output_of: the scored part of the model's output.
        score: from the model's output to the scores of the images.

    Raises:
        ValueError: if there is none; the message lists the last layers with their shapes.
    """
    first = inputs if is_training(model) else inputs.first()
    seen = observe(model, first.arguments)
    is_vector = _is_vector(output_of(seen.output), len(first))
    outputs = _eligible(seen, first.images)
    if is_vector:
        name = _last_convolution(outputs, first.images)
        if name is not None:
            return Layer(name, model.get_submodule(name))
    else:
        first = inputs
    found = _by_gradient(model, first, score, is_vector)
    if found is None:
        name = None if is_vector else _last_spatial(outputs, first.images)
        if name is None:
            raise ValueError(_not_found(model, seen, first.images))
        return Layer(name, model.get_submodule(name))
    return Layer(found.observed.name, found.observed.module, None if found.is_certain else found.token_map)


def kind_of(module: nn.Module) -> type[nn.Module]:
    """Return the class of a module, or of the one that it stands for in an opened artefact."""
    return getattr(module, "stands_for", None) or type(module)


def _is_vector(output: ModelOutput, count: int) -> bool:
    return isinstance(output, Tensor) and output.dim() <= 2 and len(output) == count


def _eligible(seen: Observed, images: Tensor) -> list[Output]:
    """Return the floating outputs with a row per image, of modules that ran once; of modules before values."""
    runs = Counter(output.name for output in seen.outputs)
    outputs = [
        output
        for output in seen.outputs
        if output.name
        and runs[output.name] == 1
        and not issubclass(kind_of(output.module), _PASSIVE)
        and output.tensor.is_floating_point()
        and output.tensor.dim() > 2
        and len(output.tensor) == len(images)
    ]
    if any(_is_spatial(o.tensor, images) for o in outputs if not isinstance(o.module, Value)):
        return [o for o in outputs if not isinstance(o.module, Value)]
    return outputs


def _last_convolution(outputs: Sequence[Output], images: Tensor) -> str | None:
    """Return the last layer with a map (N, C, *S), unless one of tokens comes after it."""
    tokens = _tokens(outputs, images)
    spatial = [i for i, o in enumerate(outputs) if i not in tokens and _is_spatial(o.tensor, images)]
    return outputs[spatial[-1]].name if spatial and (not tokens or spatial[-1] > max(tokens)) else None


def _last_spatial(outputs: Sequence[Output], images: Tensor) -> str | None:
    tokens = _tokens(outputs, images)
    names = [o.name for i, o in enumerate(outputs) if i not in tokens and _is_spatial(o.tensor, images)]
    return names[-1] if names else None


def _tokens(outputs: Sequence[Output], images: Tensor) -> set[int]:
    """Return which outputs are of tokens: channels are last.

    Layer norm and linear layers have them last, so that outputs of the same shape are not maps (N, C, *S).
    """
    last = {o.tensor.shape for o in outputs if kind_of(o.module) in (nn.LayerNorm, nn.Linear)}
    return {i for i, o in enumerate(outputs) if o.tensor.shape in last or _is_tokens(o.tensor, images)}


def _is_spatial(output: Tensor, images: Tensor) -> bool:
    """Whether an output is (N, C, *S) with more than one position."""
    return output.dim() == images.dim() and output.shape[2:].numel() > 1


def _is_tokens(output: Tensor, images: Tensor) -> bool:
    """Whether an output for 2D images is (N, T, C), or (N, h, w, C) with more channels than the image is wide."""
    if images.dim() != 4:
        return False
    return (output.dim() == 3 and output.shape[1] > 1) or (output.dim() == 4 and output.shape[-1] > images.shape[-1])


def _by_gradient(model: nn.Module, inputs: Inputs, score: Score, is_vector: bool) -> _Choice | None:
    """Return the layer found with the gradients of the score; None if there is none, or no gradient."""
    with torch.inference_mode(False), torch.enable_grad():
        seen = observe(model, inputs.replace_images(inputs.images.detach().requires_grad_()).arguments, with_graph=True)
        outputs = [o for o in _eligible(seen, inputs.images) if o.tensor.requires_grad]
        value = random_projection(seen.output) if is_vector else score(seen.output).sum()
        if not outputs or not value.requires_grad:
            return None
        predictions = set() if is_vector else _behind_last_linear(value)
        gradients = torch.autograd.grad(value, [o.tensor for o in outputs], allow_unused=True)
    choices = [
        (o, gradient)
        for o, gradient in zip(outputs, gradients, strict=True)
        if gradient is not None and o.node not in predictions and not issubclass(kind_of(o.module), nn.Linear)
    ]
    share = MIN_SHARE if is_vector else 0
    ranked = _last_first(choices) if is_vector else _widest_first(choices, inputs.images)
    return _first_verified(model, inputs, ranked, share)


def random_projection(output: ModelOutput) -> Tensor:
    """Return a number that depends on every part of an output."""
    generator = torch.Generator().manual_seed(0)
    leaves = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.requires_grad]
    total = torch.zeros(())
    for leaf in leaves:
        total = total.to(leaf.device) + (leaf * torch.randn(leaf.shape, generator=generator).to(leaf)).sum()
    return total


def _behind_last_linear(value: Tensor) -> set[object]:
    """Return the nodes between a score and the linear layers and convolutions that made the prediction."""
    pending, seen = [value.grad_fn], set[object]()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if not type(node).__name__.startswith(_LINEAR_NODES):
            pending += [source for source, _ in node.next_functions]
    return seen


def _last_first(choices: Sequence[tuple[Output, Tensor]]) -> list[tuple[Output, Tensor]]:
    return list(reversed(choices))


def _widest_first(choices: Sequence[tuple[Output, Tensor]], images: Tensor) -> list[tuple[Output, Tensor]]:
    """Return the outputs by their channels, the most first, and of equal ones the last."""

    def channels(output: Output) -> int:
        found = token_maps.candidates(output.tensor.shape, images.shape[2:])
        return output.tensor.shape[found[0].channel_axis] if found else 0

    return sorted(reversed(choices), key=lambda choice: -channels(choice[0]))


def _first_verified(
    model: nn.Module, inputs: Inputs, choices: Sequence[tuple[Output, Tensor]], share: float
) -> _Choice | None:
    """Return the first output with a map in which more than a share of the positions receive a gradient."""
    probed = 0
    for output, gradient in choices:
        found = token_maps.candidates(output.tensor.shape, inputs.images.shape[2:])
        reached = [each for each in found if _share_reached(each(gradient)) > share]
        if not reached:
            continue
        is_map = output.tensor.dim() == inputs.images.dim() and found[0].channel_axis == 1
        if is_map and (len(found) == 1 or kind_of(output.module) is not nn.LayerNorm):
            return _Choice(output, found[0], True)
        probed += 1
        for candidate in reached:
            verified = verify(model, Layer(output.name, output.module), candidate, inputs)
            if verified is not None:
                return _Choice(output, verified, False)
        if probed == MAX_PROBED:
            break
    return None


def _share_reached(gradient: Tensor) -> float:
    """Return the share of the positions of a map's gradient (N, C, *s) that is not zero."""
    return (gradient != 0).any(1).double().mean().item()


def verify(model: nn.Module, layer: Layer, candidate: TokenMap, inputs: Inputs) -> TokenMap | None:
    """Return the map of a layer's output, verified on the model with the first image; None if it is another."""

    def probe(copies: Tensor) -> Tensor:
        rows = torch.zeros(len(copies), dtype=torch.int64)
        seen = observe(model, inputs.with_copies(copies, rows).arguments, only=layer)
        return seen.outputs[-1 if layer.run is None else layer.run].tensor

    return token_maps.verify(candidate, probe, inputs.images[:1].detach())


def runs_on_images(model: nn.Module, layer: Layer, inputs: Inputs) -> list[int]:
    """Return the runs of a layer in one forward pass whose output changes with the explained images."""
    first = inputs.first()
    noise = token_maps.noise_like(first.images)
    before, after = (
        observe(model, first.replace_images(images).arguments, only=layer).outputs for images in (first.images, noise)
    )
    return [
        run
        for run, (one, other) in enumerate(zip(before, after, strict=False))
        if one.tensor.shape != other.tensor.shape or not torch.equal(one.tensor, other.tensor)
    ]


def _not_found(model: nn.Module, seen: Observed, images: Tensor, most: int = 6) -> str:
    outputs = [o for o in seen.outputs if o.name and o.tensor.dim() > 2]
    listed = ", ".join(f"{o.name!r} {tuple(o.tensor.shape)}" for o in itertools.islice(reversed(outputs), most))
    return (
        f"no layer of {type(model).__name__} with a map of the image ({' x '.join(map(str, images.shape[2:]))}) was "
        f"found that the score depends on; pass target_layer=, and if its output is not (N, C, ...) reshape_transform=, "
        f"a function from it to (N, C, ...). The last layers: {listed or 'none with more than two axes'}"
    )
