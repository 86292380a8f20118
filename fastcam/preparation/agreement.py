"""How far two models' outputs and maps are apart."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fastcam import ops, targets
from fastcam.model import capture
from fastcam.model.inputs import Inputs


@dataclass(frozen=True)
class Difference:
    """How far a model is from the untouched one.

    Attributes:
        outputs: the largest difference of an output, as a share of the range of that output tensor.
        maps: the largest difference of a signed Grad-CAM map, as a share of its range; None where there is none.
        rank: Spearman's correlation of the maps, the lowest of all images; None where there is none.
    """

    outputs: float
    maps: float | None = None
    rank: float | None = None

    def excess(self, tolerance: float | None, is_half: bool) -> str | None:
        """What differs too much, in a sentence; None where nothing does. See :func:`fastcam.prepare`."""
        outputs, maps, ranks = (0.1, None, 0.01) if is_half else (1e-4, 1e-4, None)
        limits = [("outputs", self.outputs, outputs), ("maps", self.maps, maps)]
        limits.append(("the ranks of the maps", None if self.rank is None else 1 - self.rank, ranks))
        for what, found, usual in limits:
            limit = usual if tolerance is None or usual is None else tolerance
            if found is not None and limit is not None and not found <= limit:
                return f"{what} differ by {found:.1e}, more than {limit:.0e}"
        return None

    def __str__(self) -> str:
        """All in a line."""
        text = f"outputs differ by {self.outputs:.1e}"
        return text if self.maps is None else f"{text}, maps by {self.maps:.1e} (rank {self.rank:.4f})"


@dataclass(frozen=True)
class Observation:
    """What a model says of an example.

    Attributes:
        outputs: every floating tensor of the output.
        classes: (N,) the highest class of every image; None where the output is no (N, classes).
        maps: (N, P) signed Grad-CAM of these classes; None without a layer or classes.
    """

    outputs: list[Tensor]
    classes: Tensor | None
    maps: Tensor | None

    def compare(self, other: "Observation") -> Difference:
        """How far another model is from this one."""
        if [each.shape for each in self.outputs] != [each.shape for each in other.outputs]:
            return Difference(torch.inf)
        outputs = max((_apart(a, b) for a, b in zip(self.outputs, other.outputs, strict=True)), default=0.0)
        if self.maps is None or other.maps is None:
            return Difference(outputs)
        pairs = list(zip(self.maps, other.maps, strict=True))
        return Difference(outputs, max(_apart(a, b) for a, b in pairs), min(spearman(a, b) for a, b in pairs))


def observe(
    model: nn.Module,
    *,
    inputs: Inputs,
    layer: str | None,
    reshape: Callable[[Tensor], Tensor] | None = None,
    select: Callable[[Any], Any] | int | str | None = None,
    classes: Tensor | None = None,
) -> Observation:
    """Runs the model on an example.

    Args:
        model: the model.
        inputs: the example.
        layer: name of the layer to make maps of.
        reshape: from what the layer returns to (N, C, *S).
        select: the part of the output that is scored.
        classes: (N,) what to make maps of; None takes the highest.
    """
    chosen = [] if layer is None else [capture.Layer(layer, model.get_submodule(layer))]
    found = capture.forward(model, inputs.arguments, chosen, with_graph=bool(chosen))
    outputs = [each.detach() for each in tree_leaves(found.output) if isinstance(each, Tensor)]
    outputs = [each.double() for each in outputs if each.is_floating_point()]
    scored = targets.select_output(found.output, select)
    if not isinstance(scored, Tensor) or scored.dim() != 2 or not chosen:
        return Observation(outputs, None, None)
    classes = scored.argmax(1) if classes is None else classes
    scores = scored.gather(1, classes[:, None])[:, 0]
    if not scores.requires_grad:
        return Observation(outputs, classes, None)
    (gradient,) = capture.gradients(scores, found.activations, [repr(layer)])
    shape = reshape or _channels_second
    maps = ops.grad_cam(shape(found.activations[0].detach()), shape(gradient), relu=False)
    return Observation(outputs, classes, maps.flatten(1).double())


def _channels_second(tensor: Tensor) -> Tensor:
    """Tokens (N, T, C) as (N, C, T)."""
    return tensor.movedim(-1, 1) if tensor.dim() == 3 else tensor


def _apart(a: Tensor, b: Tensor) -> float:
    """The largest difference, as a share of the range of the first."""
    span = (a.amax() - a.amin()).item()
    apart = (a - b).abs().amax().item()
    return apart / span if span else apart


def spearman(a: Tensor, b: Tensor) -> float:
    """The correlation of the ranks of two tensors of one shape; ties count with their mean rank."""
    ranks = torch.stack([_ranks(a), _ranks(b)])
    if torch.equal(ranks[0], ranks[1]):
        return 1.0  # constant ones too
    return torch.corrcoef(ranks)[0, 1].item()


def _ranks(values: Tensor) -> Tensor:
    _, which, counts = values.flatten().unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts - 1) / 2)[which]
