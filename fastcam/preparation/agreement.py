"""Compare the outputs and maps of two models."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fastcam import ops
from fastcam.model import capture
from fastcam.model.elements import Select
from fastcam.model.gradients import gradients
from fastcam.model.inputs import Inputs
from fastcam.targets.binding import select_output

Rounding: TypeAlias = Literal["fp32", "tf32", "half"]  # of products
# Of outputs and maps as shares of their range, and 1 minus the correlation of the maps' ranks. TF32 rounds factors to
# 2^-11 of their size, so that models that round in other places differ by some of that.
_LIMITS: dict[Rounding, tuple[float, float | None, float | None]] = {
    "fp32": (1e-4, 1e-4, None),
    "tf32": (5e-3, 5e-3, None),
    "half": (0.1, None, 0.01),
}


@dataclass(frozen=True)
class Difference:
    """The difference of a model from the untouched one.

    Attributes:
        outputs: the largest difference of an output, as a share of the range of that output tensor.
        maps: the largest difference of a signed Grad-CAM map, as a share of its range; None where there are no maps.
        rank: Spearman's correlation of the maps, the lowest over the images; None where there are no maps.
    """

    outputs: float
    maps: float | None = None
    rank: float | None = None

    def excess(self, tolerance: float | None, rounding: Rounding) -> str | None:
        """Describe the first difference above its limit; None where there is none. See :func:`fastcam.prepare`."""
        outputs, maps, ranks = _LIMITS[rounding]
        limits = [("outputs", self.outputs, outputs), ("maps", self.maps, maps)]
        limits.append(("the ranks of the maps", None if self.rank is None else 1 - self.rank, ranks))
        for name, difference, default in limits:
            limit = default if tolerance is None or default is None else tolerance
            if difference is not None and limit is not None and not difference <= limit:
                return f"{name} differ by {difference:.1e}, more than {limit:.0e}"
        return None

    def __str__(self) -> str:
        """One line with all differences."""
        text = f"outputs differ by {self.outputs:.1e}"
        return text if self.maps is None else f"{text}, maps by {self.maps:.1e} (rank {self.rank:.4f})"


@dataclass(frozen=True)
class Observation:
    """The outputs and maps of a model for an example.

    Attributes:
        outputs: all floating point tensors of the output.
        classes: (N,) the highest-scoring class per image; None where the output is not (N, classes).
        maps: (N, P) signed Grad-CAM of these classes; None without a layer or classes.
    """

    outputs: list[Tensor]
    classes: Tensor | None
    maps: Tensor | None

    def compare(self, other: "Observation") -> Difference:
        """Return the difference of another model's observation from this one."""
        if [output.shape for output in self.outputs] != [output.shape for output in other.outputs]:
            return Difference(torch.inf)
        outputs = max(
            (_relative_difference(a, b) for a, b in zip(self.outputs, other.outputs, strict=True)), default=0.0
        )
        if self.maps is None or other.maps is None:
            return Difference(outputs)
        pairs = list(zip(self.maps, other.maps, strict=True))
        return Difference(
            outputs, max(_relative_difference(a, b) for a, b in pairs), min(spearman(a, b) for a, b in pairs)
        )


def observe(
    model: nn.Module,
    *,
    inputs: Inputs,
    layer: str | None,
    reshape: Callable[[Tensor], Tensor] | None = None,
    select: Select = None,
    classes: Tensor | None = None,
) -> Observation:
    """Run the model on an example.

    Args:
        model: the model.
        inputs: the example.
        layer: name of the target layer of the maps.
        reshape: from the output of the layer to (N, C, *S).
        select: the part of the output that is scored.
        classes: (N,) the classes to explain; None takes the highest-scoring ones.
    """
    layers = [] if layer is None else [capture.Layer(layer, model.get_submodule(layer))]
    captured = capture.forward(model, inputs.arguments, layers, with_graph=bool(layers))
    outputs = [leaf.detach() for leaf in tree_leaves(captured.output) if isinstance(leaf, Tensor)]
    outputs = [output.double() for output in outputs if output.is_floating_point()]
    scored = select_output(captured.output, select)
    if not isinstance(scored, Tensor) or scored.dim() != 2 or not layers:
        return Observation(outputs, None, None)
    classes = scored.argmax(1) if classes is None else classes
    scores = scored.gather(1, classes[:, None])[:, 0]
    if not scores.requires_grad:
        return Observation(outputs, classes, None)
    (gradient,) = gradients(scores, captured.activations, [repr(layer)])
    to_maps = reshape or _channels_second
    maps = ops.grad_cam(to_maps(captured.activations[0].detach()), to_maps(gradient), relu=False)
    return Observation(outputs, classes, maps.flatten(1).double())


def _channels_second(tensor: Tensor) -> Tensor:
    """Return tokens (N, T, C) as (N, C, T)."""
    return tensor.movedim(-1, 1) if tensor.dim() == 3 else tensor


def _relative_difference(a: Tensor, b: Tensor) -> float:
    """Return the largest difference as a share of the range of the first tensor."""
    span = (a.amax() - a.amin()).item()
    difference = (a - b).abs().amax().item()
    return difference / span if span else difference


def spearman(a: Tensor, b: Tensor) -> float:
    """Return the rank correlation of two tensors of the same shape; ties get their mean rank."""
    ranks = torch.stack([_ranks(a), _ranks(b)])
    if torch.equal(ranks[0], ranks[1]):
        return 1.0  # also for constant tensors
    return torch.corrcoef(ranks)[0, 1].item()


def _ranks(values: Tensor) -> Tensor:
    _, groups, counts = values.flatten().unique(return_inverse=True, return_counts=True)
    last_ranks = counts.cumsum(0).double()
    return (last_ranks - (counts - 1) / 2)[groups]
