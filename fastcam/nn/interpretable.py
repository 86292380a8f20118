"""The interpretable convolution (Zhang, Wu and Zhu, CVPR 2018, arXiv:1710.00935): filters that stand for one part.

A filter's map should be high at one place where its part is in the image, and low everywhere where it is not. In the
forward pass a mask around the highest position takes away what is far from it; in training a loss, minus the mutual
information between the maps and templates of such places, makes every filter choose one part.
"""

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

MAX_PLACES = 4096
BETA = 4.0  # how fast a template falls from its peak


class InterpretableConv2d(nn.Conv2d):
    """A convolution with a ReLU, whose maps are masked around their highest position.

    The mask of a map x of n x n positions with its maximum at m is max(1 - beta |p - m|_1 / n, -1) at position p, and
    the result max(x * mask, 0). The paper's templates have a factor tau = 0.5 / n^2, which would shrink all activations
    alike: it is in the loss alone. The authors' published code differs: beta is learned for every filter, strengths are
    means, a temperature takes the place of tau.

    Args:
        arguments: as for :class:`torch.nn.Conv2d`.
        beta: of the mask.
        options: as for :class:`torch.nn.Conv2d`.

    Raises:
        ValueError: for a beta that is not positive.
    """

    def __init__(self, *arguments: int, beta: float = BETA, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        if not beta > 0:
            raise ValueError(f"`beta` must be positive, got {beta!r}")
        self.beta = beta
        self.maps = nn.ReLU()  # a module of its own, so that losses and explanations can reach the maps

    def forward(self, images: Tensor) -> Tensor:
        """Return the masked maps (N, C, h, w)."""
        maps = self.maps(super().forward(images))
        return (maps * self.masks(maps)).relu()

    def masks(self, maps: Tensor) -> Tensor:
        """Return the mask of each map (N, C, h, w), in [-1, 1]; constants, through which no gradient flows."""
        height, width = maps.shape[2:]
        peaks = maps.detach().flatten(2).argmax(2)
        return _template(peaks, height, width, self.beta).to(maps.dtype).reshape(maps.shape)

    def extra_repr(self) -> str:
        """The arguments, with ``beta``."""
        return f"{super().extra_repr()}, beta={self.beta}"


def _template(places: Tensor, height: int, width: int, beta: float) -> Tensor:
    """Return templates (..., P) float64 without tau, for flat places (...) of their peaks, which are 1.

    n of a map that is not square is its longer side.
    """
    positions = torch.arange(height * width, device=places.device)
    rows, columns = (places // width)[..., None], (places % width)[..., None]
    distance = (rows - positions // width).abs() + (columns - positions % width).abs()
    return (1 - beta * distance.double() / max(height, width)).clamp(min=-1)


def filter_loss(maps: Tensor, beta: float = BETA) -> Tensor:
    """Return the loss of every filter (C,): minus the mutual information of its maps and the templates.

    With t = tau max(1 - beta |p - m|_1 / n, -1) for each of the P = n^2 places m, and t = -tau for "the part is not
    there", tau = 0.5 / n^2:

        loss = -sum_T p(T) sum_x p(x|T) log(p(x|T) / p(x))
        p(x|T) = exp(sum_p x_p t_p) / Z_T,    p(x) = sum_T p(T) p(x|T),    p(T) = 1 / (P + 1)

    where x goes over the maps of the batch, for which Z_T is the sum. Autograd gives its exact gradient, where the
    paper takes that of the likeliest template alone.

    Args:
        maps: (N, C, h, w), after their ReLU and before the mask; N > 1, or there is nothing to tell apart. There are as
            many templates as positions, each as large as a map, which limits these to 4096 positions.
        beta: of the templates.

    Raises:
        ValueError: for maps of another shape.
    """
    if maps.dim() != 4 or len(maps) < 2:
        raise ValueError(f"the loss compares maps (N, C, h, w) of at least 2 images, got {tuple(maps.shape)}")
    height, width = maps.shape[2:]
    places = height * width
    if places > MAX_PLACES:
        raise ValueError(f"the loss is for maps of at most {MAX_PLACES} positions, got {height} x {width}")
    tau = 0.5 / max(height, width) ** 2
    there = _template(torch.arange(places, device=maps.device), height, width, beta).to(maps.dtype)
    fits = tau * maps.flatten(2) @ torch.cat([there, -torch.ones_like(there[:1])]).T  # (N, C, P + 1)
    likelihood = fits.log_softmax(0)  # log p(x|T)
    evidence = likelihood.logsumexp(2, keepdim=True) - math.log(places + 1)  # log p(x)
    information = (likelihood.exp() * (likelihood - evidence)).sum(0).mean(1)
    return -information


@contextlib.contextmanager
def filter_losses(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the losses (C,) of all interpretable convolutions of the passes in the context.

    >>> with fastcam.nn.filter_losses(model) as losses:
    ...     output = model(images)
    >>> loss = cross_entropy(output, classes) + weight * torch.cat(losses).sum()
    """
    losses: list[Tensor] = []
    with contextlib.ExitStack() as stack:
        for layer in model.modules():
            if isinstance(layer, InterpretableConv2d):

                def collect(module: nn.Module, inputs: object, maps: Tensor, beta: float = layer.beta) -> None:
                    losses.append(filter_loss(maps, beta))

                stack.callback(layer.maps.register_forward_hook(collect).remove)
        yield losses


def location_instability(maps: Tensor, landmarks: Tensor) -> Tensor:
    """Return how much the places of a filter wander, (C,): the paper's location instability, lower is better.

    For each landmark, the standard deviation over the images of the distance between the filter's highest position and
    the landmark, as a share of the image's diagonal; the mean over the landmarks. A filter that always is on the same
    part keeps its distances.

    Args:
        maps: (N, C, h, w) of images that all have the landmarks.
        landmarks: (N, L, 2), rows and columns in [0, 1] of the image.
    """
    height, width = maps.shape[2:]
    peaks = maps.detach().flatten(2).argmax(2)
    places = torch.stack([(peaks // width + 0.5) / height, (peaks % width + 0.5) / width], -1)  # (N, C, 2)
    distances = (places[:, :, None] - landmarks[:, None].to(places)).norm(dim=-1) / math.sqrt(2)  # (N, C, L)
    return distances.std(0, correction=0).mean(1)
