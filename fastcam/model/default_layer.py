"""The layer that is explained where none is named: the last one with a map of the image that the score depends on."""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fastcam.artefacts import Value
from fastcam.model import capture, module_kinds, quantised, token_maps
from fastcam.model.capture import Layer, Observed, Output, observe
from fastcam.model.elements import ModelOutput
from fastcam.model.gradient_search import Search, random_projection
from fastcam.model.inputs import Inputs
from fastcam.model.running import is_training
from fastcam.model.token_maps import TokenMap

Score = Callable[[ModelOutput], Tensor]  # from the model's output to scores


def find(
    model: nn.Module,
    inputs: Inputs,
    output_of: Callable[[ModelOutput], ModelOutput],
    score: Score,
    before: str | None = None,
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
        before: the name of the layer that is scored in place of the output: the layer is one in front of it.

    Raises:
        ValueError: if there is none; the message lists the last layers with their shapes.
    """
    first = inputs if is_training(model) else inputs.first()
    seen = observe(model, first.arguments)
    is_vector = _is_vector(output_of(seen.output), len(first))
    outputs = _in_front_of(before, _eligible(seen, first.images, _on_images(model, first, seen)))
    if is_vector:
        last = _last_convolution(outputs, first.images)
        # Only one of several parts may not read it; quantised models have no gradients to tell by.
        is_certain = isinstance(seen.output, Tensor) or before is not None or quantised.holds_quantised(model)
        if last is not None and (is_certain or _is_read(model, first, output_of, last)):
            return _layer(seen, last), True
    among = {(output.name, output.run) for output in outputs}
    if is_vector:
        search = Search(model, first, lambda output: random_projection(output_of(output)), among, True)
    else:
        search = Search(model, inputs, score, among, False)
    found = search.run()
    if found is not None:
        return _layer(seen, found.observed, found.token_map), is_vector
    last = None if is_vector else _last_spatial(outputs, first.images)
    if last is None:
        raise ValueError(_not_found(model, seen, first.images))
    return _layer(seen, last), False


def _layer(seen: Observed, chosen: Output, token_map: TokenMap | None = None) -> Layer:
    runs = sum(output.name == chosen.name for output in seen.outputs)
    return Layer(chosen.name, chosen.module, token_map, None if runs == 1 else chosen.run)


def _is_vector(output: ModelOutput, count: int) -> bool:
    return isinstance(output, Tensor) and output.dim() <= 2 and len(output) == count


def _on_images(model: nn.Module, inputs: Inputs, seen: Observed) -> set[tuple[str, int]] | None:
    """Return the names and runs of the outputs that change with the images; None if the images are all there is."""
    if not any(isinstance(leaf, Tensor) for leaf in tree_leaves(inputs.others)):
        return None
    noise = inputs.replace_images(token_maps.noise_like(inputs.images))
    changed = {(o.name, o.run): o.tensor for o in observe(model, noise.arguments).outputs}
    return {
        (o.name, o.run)
        for o in seen.outputs
        if (o.name, o.run) not in changed or not torch.equal(o.tensor, changed[o.name, o.run])
    }


def _eligible(seen: Observed, images: Tensor, on_images: set[tuple[str, int]] | None) -> list[Output]:
    """Return the floating outputs with a row per image, of those that depend on the images.

    Modules go before values of an opened artefact.
    """
    outputs = [
        output
        for output in seen.outputs
        if output.name
        and not module_kinds.is_passive(output.module)
        and output.tensor.is_floating_point()
        and output.tensor.dim() > 2
        and len(output.tensor) == len(images)
        and (on_images is None or (output.name, output.run) in on_images)
    ]
    if any(_is_spatial(o.tensor, images) for o in outputs if not isinstance(o.module, Value)):
        return [o for o in outputs if not isinstance(o.module, Value)]
    return outputs


def _in_front_of(scored: str | None, outputs: list[Output]) -> list[Output]:
    """Return the outputs that are computed before a scored layer; all of them if it is not among them."""
    names = [output.name for output in outputs]
    if scored not in names:
        return outputs
    return [output for output in outputs[: names.index(scored)] if not output.name.startswith(f"{scored}.")]


def _last_convolution(outputs: Sequence[Output], images: Tensor) -> Output | None:
    """Return the last output that is a map (N, C, *S), unless one of tokens comes after it."""
    tokens = _tokens(outputs, images)
    spatial = [i for i, o in enumerate(outputs) if i not in tokens and _is_spatial(o.tensor, images)]
    return outputs[spatial[-1]] if spatial and (not tokens or spatial[-1] > max(tokens)) else None


def _is_read(model: nn.Module, inputs: Inputs, output_of: Callable[[ModelOutput], ModelOutput], last: Output) -> bool:
    """Whether the scored part of an output of several depends on a layer: other parts may have layers of their own."""
    layer = Layer(last.name, last.module, run=last.run)
    captured = capture.forward(model, inputs.arguments, [layer], with_graph=True)
    with torch.inference_mode(False), torch.enable_grad():
        value = random_projection(output_of(captured.output))
        if not value.requires_grad:
            return False
        (gradient,) = torch.autograd.grad(value, captured.activations, allow_unused=True)
    return gradient is not None


def _last_spatial(outputs: Sequence[Output], images: Tensor) -> Output | None:
    tokens = _tokens(outputs, images)
    spatial = [o for i, o in enumerate(outputs) if i not in tokens and _is_spatial(o.tensor, images)]
    return spatial[-1] if spatial else None


def _tokens(outputs: Sequence[Output], images: Tensor) -> set[int]:
    """Return which outputs are of tokens: channels are last.

    Layer norm and linear layers have them last, so that outputs of the same shape are not maps (N, C, *S).
    """
    last = {o.tensor.shape for o in outputs if module_kinds.kind_of(o.module) in (nn.LayerNorm, nn.Linear)}
    return {i for i, o in enumerate(outputs) if o.tensor.shape in last or _is_tokens(o.tensor, images)}


def _is_spatial(output: Tensor, images: Tensor) -> bool:
    """Whether an output is (N, C, *S) with more than one position."""
    return output.dim() == images.dim() and output.shape[2:].numel() > 1


def _is_tokens(output: Tensor, images: Tensor) -> bool:
    """Whether an output for 2D images is (N, T, C), or (N, h, w, C) with more channels than the image is wide."""
    if images.dim() != 4:
        return False
    return (output.dim() == 3 and output.shape[1] > 1) or (output.dim() == 4 and output.shape[-1] > images.shape[-1])


def runs_on_images(model: nn.Module, layer: Layer, inputs: Inputs) -> list[int]:
    """Return the runs of a layer in one forward pass whose output changes with the explained images."""
    first = inputs.first()
    noise = token_maps.noise_like(first.images)
    before, after = (
        observe(model, first.replace_images(images).arguments, only=[layer]).outputs for images in (first.images, noise)
    )
    return [
        run
        for run, (one, other) in enumerate(zip(before, after, strict=False))
        if one.tensor.shape != other.tensor.shape or not torch.equal(one.tensor, other.tensor)
    ]


def _not_found(model: nn.Module, seen: Observed, images: Tensor, most: int = 6) -> str:
    outputs = [o for o in seen.outputs if o.name and o.tensor.dim() > 2]
    some = ", ".join(f"{o.name!r} {tuple(o.tensor.shape)}" for o in itertools.islice(reversed(outputs), most))
    listed = some or "none with more than two axes"
    cause = ", and a quantised model has no gradients to find one in tokens" if quantised.holds_quantised(model) else ""
    return (
        f"no layer of {type(model).__name__} with a map of the image ({' x '.join(map(str, images.shape[2:]))}) was "
        f"found that the score depends on{cause}; pass target_layer=, and if its output is not (N, C, ...) "
        f"reshape_transform=, a function from it to (N, C, ...). The last layers: {listed}"
    )
