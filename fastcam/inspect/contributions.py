"""What a class uses: the contributions of a layer's channels to a score."""

import torch
from torch import Tensor, nn

from fastcam import targets
from fastcam.inspect.survey import with_map
from fastcam.model import capture, layers
from fastcam.model.gradients import gradients
from fastcam.targets.binding import score


@torch.inference_mode(False)
def contributions(model: nn.Module, images: Tensor, layer: str | nn.Module, target: targets.Target = None) -> Tensor:
    """Return what every channel of a layer adds to the score: gradient times activation, summed over the positions.

    Where a linear layer on pooled averages follows, this is exact: the contributions of all channels and the bias add
    up to the logit. Elsewhere it is the first order, as Grad-CAM's. ``contributions(...).mean(0).topk(9).indices`` are
    the channels that a class of images uses most; :func:`fastcam.inspect.sheet` shows what excites them.

    Args:
        model: any module of images, in evaluation mode.
        images: (N, C, *S).
        layer: a module of the model, or its name.
        target: as for :func:`fastcam.explain`.

    Returns:
        (N, channels), or (N, K, channels) for K targets an image.

    Raises:
        ValueError, TypeError: for an unknown layer, or a target that does not fit the output.
        RuntimeError: if the score does not depend on the layer.
    """
    chosen = with_map(model, layers.resolve_one(model, layer), images[:1])
    seen = capture.forward(model, images, [chosen], with_graph=True)
    with torch.enable_grad():
        scores = score(seen.output, target, len(images)).values
    (found,) = gradients(scores, seen.activations, [f"layer {chosen.name!r}"])
    activation = seen.activations[0].detach()
    products = (found * (activation if scores.dim() == 1 else activation.unsqueeze(1))).flatten(0, scores.dim() - 1)
    maps = products if chosen.token_map is None else chosen.token_map(products)
    summed = maps.flatten(2).sum(2) if maps.dim() > 2 else maps
    return summed.reshape(*scores.shape, -1)
