"""The parts of a contest: the model and images, the method, and the contestants."""

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastcam.explainer import Explainer
from fastcam.model import layers
from fastcam.model.inputs import Inputs

# Standard deviations of the logits: with the first the peers' epsilons (pytorch-grad-cam's 1e-6 in Grad-CAM++) are
# negligible; with the second Score-CAM's softmax over the channels' scores keeps several channels.
LOGIT_SPREAD = 500.0
SOFT_SPREAD = 5.0
# Tolerances, as a share of the range of a map: by default, and with the remaining effect of epsilons in Grad-CAM++.
DEFAULT_TOLERANCE = 1e-4
EPSILON_TOLERANCE = 2e-3
# Tolerance for methods with many backward passes or deep networks: rounding decides whether the ReLU of a unit close to
# zero is active, with its whole share of the gradient, so that single pixels differ by more than rounding. In float64
# Integrated Gradients and SmoothGrad differ by less than 1e-8, FullGrad by less than 1e-4.
KINK_TOLERANCE = 2e-2
_CANDIDATES = 16  # number of top classes from which the one with the clearest map is chosen


Reshape: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Setting:
    """A model, its layer and images, and per image a class whose map is clear.

    Attributes:
        name: of the model.
        model: the network, in evaluation mode.
        layer: name of the target layer.
        images: (N, C, H, W).
        targets: N classes.
        reshape: from a layer's tokens to (N, C, H, W).
    """

    name: str
    model: nn.Module
    layer: str
    images: Tensor
    targets: list[int]
    reshape: Reshape | None = None

    @classmethod
    def of(
        cls,
        name: str,
        model: nn.Module,
        images: Tensor,
        layer: str | None = None,
        reshape: Reshape | None = None,
    ) -> "Setting":
        """Find the layer and the classes.

        Raises:
            ValueError, TypeError: for an unknown layer, where none can be found, and for a model that is no classifier.
        """
        target_layer = layers.resolve(model, layer, Inputs.of(images))[0].name
        return cls(name, model, target_layer, images, _clear_classes(model, images, target_layer, reshape), reshape)

    @property
    def module(self) -> nn.Module:
        """The target layer."""
        return self.model.get_submodule(self.layer)

    @property
    def head(self) -> str | None:
        """The name of the last linear layer; None where there is none."""
        names = [name for name, module in self.model.named_modules() if isinstance(module, nn.Linear)]
        return names[-1] if names else None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.images.shape[2], self.images.shape[3]

    def with_copy(self) -> "Setting":
        """Return the same with a copy of the model: some tools leave hooks, gradients or replaced modules in it."""
        return replace(self, model=copy.deepcopy(self.model))

    def with_spread(self, spread: float) -> "Setting":
        """Return the same with a copy of the model, its last linear layer scaled to this deviation of the logits."""
        scaled = self.with_copy()
        if self.head is not None:
            with torch.no_grad():
                factor = spread / scaled.model(self.images).std()
                for parameter in scaled.model.get_submodule(self.head).parameters():
                    parameter.mul_(factor)
        return scaled


@dataclass(frozen=True)
class Case:
    """A method and its options.

    Attributes:
        method: registry name.
        options: of the explainer.
        label: the options in words.
        limit: largest difference from fastcam, as a share of the range.
        spread: standard deviation of the logits.
        without: tools to leave out.
        note: the reason.
    """

    method: str
    options: dict[str, Any] = field(default_factory=dict)
    label: str = ""
    limit: float = DEFAULT_TOLERANCE
    spread: float = LOGIT_SPREAD
    without: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Contestant:
    """A tool with one setting, as it is timed.

    Attributes:
        call: one explanation: maps (N, H, W), or attributions (N, C, H, W).
        finish: converts the result to what is compared; not timed.
        patch: context for the comparison, in which steps that a tool defines differently are done as in fastcam; not
            timed.
        setting: the tool's setting in words.
        limit: largest difference from fastcam, as a share of the range; None takes the case's.
    """

    call: Callable[[], Tensor]
    finish: Callable[[Tensor], Tensor] = lambda maps: maps
    patch: Callable[[], AbstractContextManager[object]] = nullcontext
    setting: str = ""
    limit: float | None = None


Entrant: TypeAlias = Callable[[Case, Setting], Sequence[Contestant]]  # one contestant per setting of a tool


def bare_forward(model: nn.Module, images: Tensor) -> Callable[[], Tensor]:
    """Return a forward pass without explanation."""

    def run() -> Tensor:
        with torch.inference_mode():
            output: Tensor = model(images)
        return output

    return run


def with_fastcam(case: Case, at: Setting) -> Sequence[Contestant]:
    """Return fastcam on a copy of the model as the only contestant."""
    return [explain_with_fastcam(case, at.with_copy())]


def explain_with_fastcam(case: Case, at: Setting) -> Contestant:
    """Return fastcam as a contestant: maps at the size of the images, signed for methods that attribute to pixels."""
    explainer = Explainer(at.model, case.method, at.layer, reshape_transform=at.reshape, **case.options)

    def run() -> Tensor:
        explanation = explainer(at.images, at.targets)
        if explanation.attributions is not None:
            return explanation.attributions
        return explanation.native if case.method == "occlusion" else explanation.maps  # occlusion is signed

    return Contestant(run)


def normalize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps (N, h, w) upsampled and then scaled to [0, 1], as they are compared."""
    maps = F.interpolate(maps[:, None].double(), size=size, mode="bilinear", align_corners=False)[:, 0]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low)


def randomize_zeros(model: nn.Module) -> nn.Module:
    """Fill parameters and statistics that are initialized with zeros with random numbers, in place.

    These are the biases and means of batch norms, without which FullGrad has little to add up, and weights such as the
    head of torchvision's vision transformers.
    """
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d) and module.affine and module.running_mean is not None:
                module.bias.normal_(0, 0.1)
                module.running_mean.normal_(0, 0.1)
        for parameter in model.parameters():
            if parameter.dim() > 1 and not parameter.any():
                parameter.normal_(0, parameter[0].numel() ** -0.5)
    return model


def _clear_classes(model: nn.Module, images: Tensor, layer: str, reshape: Reshape | None) -> list[int]:
    """Return per image, of the classes with the highest scores, the one with the clearest Grad-CAM map."""
    with torch.inference_mode():
        output = model(images)
    if not isinstance(output, Tensor) or output.dim() != 2:
        shown = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"a classifier is measured, whose output is (N, classes); this model's is {shown}")
    candidates = output.topk(min(_CANDIDATES, output.shape[1])).indices.clone()
    maps = Explainer(model, "grad_cam", layer, reshape_transform=reshape)(images, candidates).native
    clearest = maps.flatten(2).amax(2).argmax(1)
    return candidates.gather(1, clearest[:, None])[:, 0].tolist()
