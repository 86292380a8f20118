"""Class activation maps from linear classifiers inside a model: dense heads of detectors, segmenters, auxiliary heads.

Where a convolution gives a logit at every position, the gradient of the logits' sum with respect to what it reads is
known without a backward pass: for a kernel of one position the weights themselves, for larger ones the weights of all
positions of the output that see this one.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.grad import conv1d_input, conv2d_input, conv3d_input

from fastcam import ops, postprocess
from fastcam.explanation import Explanation
from fastcam.model import capture, layers, running
from fastcam.model.capture import Layer
from fastcam.model.elements import ModelOutput
from fastcam.model.inputs import Images, Inputs
from fastcam.model.padding import record_padding
from fastcam.ops import numerics
from fastcam.targets.class_indices import Classes, class_indices

Classifiers = str | nn.Module | Sequence[str | nn.Module]
_CONVOLUTIONS = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
_INPUT_GRADIENTS = {1: conv1d_input, 2: conv2d_input, 3: conv3d_input}


@dataclass(frozen=True)
class _Level:
    """One run of a classifier: what it read (N, C, *S), and the logits (N, classes, *s)."""

    name: str
    module: nn.Module
    maps: Tensor
    logits: Tensor


@torch.inference_mode(False)
@torch.no_grad()
def class_maps(
    model: nn.Module,
    images: Images,
    classifier: Classifiers,
    target: Classes | None = None,
    *,
    classes: int | None = None,
    fuse: postprocess.Fusion | None = None,
    relu: bool = False,
) -> Explanation | dict[str, Explanation]:
    """Return the class activation maps of linear classifiers inside a model, in one forward pass.

    For a convolution that gives logits at every position, the map of a class is the sum over the channels of what it
    reads, times the gradient of the sum of the class's logits over all positions; the bias, a prior, is left out. For a
    linear layer behind pooling it is the CAM of Zhou et al. (arXiv:1512.04150), on the map that was pooled.

    >>> levels = fastcam.class_maps(yolo_nas, images, [f"heads.head{i}.cls_pred" for i in (1, 2, 3)], target=16)
    >>> levels["heads.head1.cls_pred"].native  # (N, 80, 80), in units of the logit
    >>> fastcam.class_maps(retinanet, images, "head.classification_head.cls_logits", 18, classes=91, fuse="max")

    Args:
        model: any module of images, in evaluation mode.
        images: as for :func:`fastcam.explain`.
        classifier: a Linear or convolution, or a module whose last layer is one; by module or name, one for each level
            of a pyramid. One that runs several times, as detectors share it between levels, has a map for every run.
        target: as class indices of :func:`fastcam.explain`; None takes the class with the highest logit anywhere.
        classes: how many there are, where the output has them for each of several anchors: channel a * classes + c is
            class c of anchor a, as in torchvision. None takes every channel for a class.
        fuse: "mean" or "max" of all levels at the size of the images, in units of the logit, so that a weak level stays
            weak; None for one explanation of every level.
        relu: whether negative values are set to 0.

    Returns:
        An explanation, or one for every level by name; ``scores`` are the highest logits of the classes.

    Raises:
        ValueError, TypeError: for a module that is no linear classifier, is not reached, or reads no map.
    """
    if fuse not in ("mean", "max", None):
        raise ValueError(f'`fuse` must be "mean", "max" or None, got {fuse!r}')
    if not isinstance(classifier, str | nn.Module | list | tuple):
        raise TypeError(f"`classifier` must be a module, its name or a list of them, got {type(classifier).__name__}")
    inputs = Inputs.of(images, model, None, (), None)
    named = [classifier] if isinstance(classifier, str | nn.Module) else classifier
    chosen = [_resolve(model, each) for each in named]
    if not chosen:
        raise ValueError("`classifier` must name at least one module, got an empty list")
    output, found, cover = _run(model, inputs, chosen)
    by_level = [_by_class(level, classes) for level in found]
    highest = [logits.flatten(2).amax(2) for logits in by_level]
    counts = {each.shape[1] for each in highest}
    if len(counts) > 1 and (target is None or fuse is not None):
        raise ValueError(f"the classifiers tell {', '.join(map(str, sorted(counts)))} classes apart: name the class")
    together = torch.stack(highest).amax(0) if len(counts) == 1 else highest[0]
    indices = class_indices(together, target, len(inputs.images)).values
    explanations = {}
    for level, logits in zip(found, highest, strict=True):
        if int(indices.max()) >= logits.shape[1]:
            last = logits.shape[1] - 1
            raise ValueError(f"classifier {level.name!r} has classes 0 to {last}, got {int(indices.max())}")
        native = _maps(level, indices, logits.shape[1])
        explanations[level.name] = Explanation(
            method="cam",
            layer=level.name,
            images=inputs.images.detach(),
            output=output,
            scores=logits.gather(1, indices.reshape(len(indices), -1)).reshape(indices.shape),
            targets=indices,
            native=numerics.rectify(native) if relu else native,
            signed=native if relu else None,
            cover=cover,
        )
    if fuse is not None:
        return _fused(list(explanations.values()), fuse)
    return next(iter(explanations.values())) if len(explanations) == 1 else explanations


def _resolve(model: nn.Module, item: object) -> Layer:
    """Return a classifier by its name or module, the last layer of a sequence.

    Raises:
        ValueError, TypeError: if it is none.
    """
    layer = layers.resolve_one(model, item)
    name, module = layer.name, layer.module
    while isinstance(module, nn.Sequential) and len(module):
        name, module = f"{name}.{len(module) - 1}", module[-1]
    if isinstance(module, nn.Linear) or (type(module) in _CONVOLUTIONS and _is_plain(module)):
        return Layer(name, module)
    raise ValueError(f"`classifier` must be a Linear or a convolution, got {layer.name!r}, a {type(module).__name__}")


def _is_plain(module: Any) -> bool:
    return bool(module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str))


def _run(
    model: nn.Module, inputs: Inputs, chosen: Sequence[Layer]
) -> tuple[ModelOutput, list[_Level], postprocess.Cover]:
    """Run the model once; return its output, what every run of the classifiers read and returned, and the cover."""
    runs: dict[str, list[tuple[Tensor, Tensor]]] = {layer.name: [] for layer in chosen}

    def hook_of(name: str) -> Any:
        def hook(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
            runs[name].append((arguments[0].detach().clone(), output.detach().clone()))

        return hook

    with contextlib.ExitStack() as stack:
        stack.enter_context(running.preserve_state(model))
        for layer in chosen:
            stack.callback(layer.module.register_forward_hook(hook_of(layer.name)).remove)
        padding = stack.enter_context(record_padding(model))
        output = running.call(model, inputs.arguments)
    levels = []
    for layer in chosen:
        if not runs[layer.name]:
            raise ValueError(f"classifier {layer.name!r} was not reached in the forward pass")
        for number, (read, logits) in enumerate(runs[layer.name]):
            name = layer.name if len(runs[layer.name]) == 1 else f"{layer.name}[{number}]"
            levels.append(_level(model, inputs, Layer(layer.name, layer.module), name, read, logits))
    return output, levels, padding.cover


def _level(model: nn.Module, inputs: Inputs, layer: Layer, name: str, read: Tensor, logits: Tensor) -> _Level:
    """Return what a run of a classifier read as a map, and its logits with the classes second.

    Raises:
        ValueError: if it read no map of the images.
    """
    count = len(inputs.images)
    if len(read) != count:
        raise ValueError(f"classifier {name!r} reads {len(read)} rows for {count} images: regions of them, no map")
    if isinstance(layer.module, nn.Linear) and read.dim() == 4:
        return _Level(name, layer.module, read.movedim(-1, 1), logits.movedim(-1, 1))
    if isinstance(layer.module, nn.Linear) and read.dim() == 3:
        raise ValueError(f"classifier {name!r} reads tokens {tuple(read.shape)}: take grad_cam on the layer before it")
    if read.dim() > 2 and max(read.shape[2:]) > 1:
        return _Level(name, layer.module, read, logits)
    pooled = _pooled_map(model, inputs, read.flatten(1))
    if pooled is not None:
        return _Level(name, layer.module, pooled, logits.reshape(count, -1, 1))
    if read.dim() == 2:
        raise ValueError(f"classifier {name!r} reads {tuple(read.shape)}, which is the mean of no map of the images")
    return _Level(name, layer.module, read, logits)  # the top of a pyramid, of one position


def _pooled_map(model: nn.Module, inputs: Inputs, read: Tensor) -> Tensor | None:
    """Return the map whose mean over the positions a classifier read, of the last module that returns one."""
    for seen in reversed(capture.observe(model, inputs.arguments).outputs):
        tensor = seen.tensor
        if tensor.dim() > 2 and tensor.shape[:2] == read.shape and max(tensor.shape[2:]) > 1:
            mean = tensor.detach().flatten(2).mean(2)
            if torch.allclose(mean, read, rtol=1e-4, atol=1e-5 * float(read.abs().max())):
                return tensor.detach()
    return None


def _by_class(level: _Level, classes: int | None) -> Tensor:
    """Return the logits (N, classes, ...) of a level, of all anchors behind each other.

    Raises:
        ValueError: for a number of channels that is no multiple of the classes.
    """
    channels = level.logits.shape[1]
    if classes is None:
        return level.logits
    if classes < 1 or channels % classes:
        raise ValueError(f"`classes` must divide the {channels} channels of {level.name!r}, got {classes!r}")
    return level.logits.unflatten(1, (channels // classes, classes)).transpose(1, 2).flatten(2)


def _maps(level: _Level, indices: Tensor, classes: int) -> Tensor:
    """Return the maps (N, [K,] *S) of classes (N, [K])."""
    module: Any = level.module
    weight = module.weight.detach().to(level.maps.dtype)
    weight = weight.unflatten(0, (-1, classes)).sum(0)  # (classes, C, ...), the sum over the anchors
    if isinstance(module, nn.Linear) or set(module.kernel_size) == set(module.stride) == {1}:
        return ops.weighted_channel_sum(level.maps, weight.flatten(1)[indices], False)
    shown, places = indices.unique(return_inverse=True)
    gradients = torch.stack([_gradient(module, weight[index], level) for index in shown.tolist()])  # (M, C, *S)
    products = [(level.maps * gradients[place]).sum(1) for place in range(len(shown))]
    by_class = torch.stack(products, 1)  # (N, M, *S)
    rows = torch.arange(len(indices), device=indices.device)
    return by_class[rows[:, None], places] if indices.dim() == 2 else by_class[rows, places]


def _gradient(module: Any, weight: Tensor, level: _Level) -> Tensor:
    """Return the gradient (C, *S) of the sum of one channel's logits over the positions of the output."""
    axes = level.maps.dim() - 2
    ones = level.logits.new_ones(1, 1, *level.logits.shape[2:]).to(weight.dtype)
    size = (1, *level.maps.shape[1:])
    gradient: Tensor = _INPUT_GRADIENTS[axes](
        size, weight.unsqueeze(0), ones, module.stride, module.padding, module.dilation
    )
    return gradient[0]


def _fused(levels: Sequence[Explanation], fuse: postprocess.Fusion) -> Explanation:
    """Return one explanation of all levels, in units of the logit."""
    first = levels[0]
    at_image = torch.stack([each.raw for each in levels])
    natives = [each.native for each in levels]
    size = postprocess.largest_size(natives, len(first.size))
    at_layer = torch.stack([postprocess.resize(native, size, False) for native in natives])

    def join(values: Tensor) -> Tensor:
        return values.amax(0) if fuse == "max" else values.mean(0)

    return replace(
        first,
        layer=" + ".join(each.layer for each in levels),
        scores=torch.stack([each.scores for each in levels]).amax(0),
        native=join(at_layer),
        fused=join(at_image),
        signed=None,
    )
