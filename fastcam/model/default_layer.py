"""The layer that is explained where none is named: the last one with a map of the image that the score depends on."""

import itertools
import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
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


def find(
    model: nn.Module, inputs: Inputs, output_of: Callable[[ModelOutput], ModelOutput], score: Score
) -> tuple[Layer, bool]:
    """Return the layer to explain, and whether it is that of every score and every image of this size.

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
        last = _last_convolution(outputs, first.images)
        if last is not None:
            return _layer(seen, last), True
    found = _by_gradient(model, first if is_vector else inputs, score, is_vector)
    if found is not None:
        return _layer(seen, found.observed, None if found.is_certain else found.token_map), is_vector
    last = None if is_vector else _last_spatial(outputs, first.images)
    if last is None:
        raise ValueError(_not_found(model, seen, first.images))
    return _layer(seen, last), False


def _layer(seen: Observed, chosen: Output, token_map: TokenMap | None = None) -> Layer:
    runs = sum(output.name == chosen.name for output in seen.outputs)
    return Layer(chosen.name, chosen.module, token_map, None if runs == 1 else chosen.run)


def kind_of(module: nn.Module) -> type[nn.Module]:
    """Return the class of a module, or of the one that it stands for in an opened artefact."""
    return getattr(module, "stands_for", None) or type(module)


def _is_passive(module: nn.Module) -> bool:
    """Whether a module, or all that it consists of, only passes on or resamples."""
    children = list(module.children())
    if not children or any(True for _ in module.parameters(recurse=False)):
        return issubclass(kind_of(module), _PASSIVE)
    return all(map(_is_passive, children))


def _is_vector(output: ModelOutput, count: int) -> bool:
    return isinstance(output, Tensor) and output.dim() <= 2 and len(output) == count


def _eligible(seen: Observed, images: Tensor) -> list[Output]:
    """Return the floating outputs with a row per image; of modules before values of an opened artefact."""
    outputs = [
        output
        for output in seen.outputs
        if output.name
        and not _is_passive(output.module)
        and output.tensor.is_floating_point()
        and output.tensor.dim() > 2
        and len(output.tensor) == len(images)
    ]
    if any(_is_spatial(o.tensor, images) for o in outputs if not isinstance(o.module, Value)):
        return [o for o in outputs if not isinstance(o.module, Value)]
    return outputs


def _last_convolution(outputs: Sequence[Output], images: Tensor) -> Output | None:
    """Return the last output that is a map (N, C, *S), unless one of tokens comes after it."""
    tokens = _tokens(outputs, images)
    spatial = [i for i, o in enumerate(outputs) if i not in tokens and _is_spatial(o.tensor, images)]
    return outputs[spatial[-1]] if spatial and (not tokens or spatial[-1] > max(tokens)) else None


def _last_spatial(outputs: Sequence[Output], images: Tensor) -> Output | None:
    tokens = _tokens(outputs, images)
    spatial = [o for i, o in enumerate(outputs) if i not in tokens and _is_spatial(o.tensor, images)]
    return spatial[-1] if spatial else None


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
        runs = Counter(output.name for output in seen.outputs)
        outputs = [
            # A module that runs several times in a detector is a head of all levels, the last of which is the coarsest.
            o
            for o in _eligible(seen, inputs.images)
            if o.tensor.requires_grad and (is_vector or runs[o.name] == 1)
        ]
        value = random_projection(seen.output) if is_vector else score(seen.output).sum()
        if not outputs or not value.requires_grad:
            return None
        predictions = set() if is_vector else _predictions(value)
        gradients = torch.autograd.grad(value, [o.tensor for o in outputs], allow_unused=True)
    choices = [
        (o, gradient)
        for o, gradient in zip(outputs, gradients, strict=True)
        if gradient is not None and o.node not in predictions and not issubclass(kind_of(o.module), nn.Linear)
    ]
    if is_vector:
        return _first_verified(model, inputs, list(reversed(choices)), MIN_SHARE)
    ranked = _widest_first(choices, inputs.images)
    of_all = [(output, gradient) for output, gradient in ranked if bool((gradient != 0).flatten(1).any(1).all())]
    # Of a score whose gradient is zero everywhere there is a layer too; the map says that it got none.
    return _first_verified(model, inputs, of_all or ranked, 0) or _first_verified(model, inputs, ranked, -1)


def random_projection(output: ModelOutput) -> Tensor:
    """Return a number that depends on every part of an output."""
    generator = torch.Generator().manual_seed(0)
    leaves = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.requires_grad]
    total = torch.zeros(())
    for leaf in leaves:
        total = total.to(leaf.device) + (leaf * torch.randn(leaf.shape, generator=generator).to(leaf)).sum()
    return total


def _predictions(value: Tensor) -> set[object]:
    """Return the nodes from a score back to the second of the linear layers and convolutions in front of it.

    The output of the last one is the prediction, and what it is made from repeats it, channel by channel.
    """
    depth: dict[object, int] = {value.grad_fn: 0}
    pending = deque(depth)
    while pending:  # breadth first by the number of linear layers passed
        node = pending.popleft()
        passed = depth[node] + type(node).__name__.startswith(_LINEAR_NODES)
        for source, _ in node.next_functions if passed < 2 else ():
            if source is not None and passed < depth.get(source, 2):
                depth[source] = passed
                pending.append(source)
    return set(depth)


def _widest_first(choices: Sequence[tuple[Output, Tensor]], images: Tensor) -> list[tuple[Output, Tensor]]:
    """Return the outputs by their channels, the most first.

    Of equal ones come the coarsest, of those the ones least deep in the tree of modules, and of those the last first.
    """

    def rank(choice: tuple[Output, Tensor]) -> tuple[int, int, int]:
        output = choice[0]
        found = token_maps.candidates(output.tensor.shape, images.shape[2:])
        if not found:
            return 0, 0, 0
        return -output.tensor.shape[found[0].channel_axis], math.prod(found[0].grid), output.name.count(".")

    last_first = list(reversed(choices))
    return sorted(last_first, key=rank)  # which keeps the order of equals


def _first_verified(
    model: nn.Module, inputs: Inputs, choices: Sequence[tuple[Output, Tensor]], share: float
) -> _Choice | None:
    """Return the first output with a map in which more than a share of the positions receive a gradient."""
    probed, assumed = 0, None
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
            verified = verify(model, Layer(output.name, output.module, run=output.run), candidate, inputs)
            if verified is not None:
                return _Choice(output, verified, False)
        guess = token_maps.assumed(output.tensor.shape, inputs.images.shape[2:])
        if assumed is None and guess is not None:
            assumed = _Choice(output, guess, False)
        if probed == MAX_PROBED:
            break
    return assumed


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
        "found that the score depends on; pass target_layer=, and if its output is not (N, C, ...) reshape_transform=, "
        f"a function from it to (N, C, ...). The last layers: {listed or 'none with more than two axes'}"
    )
