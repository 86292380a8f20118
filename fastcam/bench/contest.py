"""What a contest is about: the model and images, the method, and who takes part."""

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastcam.explainer import Explainer
from fastcam.model import layers
from fastcam.model.inputs import Inputs

SPREAD = 500.0  # of the logits, so that the peers' epsilons (pytorch-grad-cam's 1e-6 in Grad-CAM++) are negligible
SOFT = 5.0  # of the logits, for Score-CAM: the softmax over the channels' scores leaves several channels, not one
EXACT = 1e-4  # of the range of a map
EPSILONS = 2e-3  # what they leave in Grad-CAM++ all the same
# A unit close to zero falls on either side of it as the rounding goes, and its whole share of the gradient comes or
# goes with it: among the many units of many copies, or of a deep network, there are some, and single pixels differ by
# more than rounding. In float64 Integrated Gradients and SmoothGrad differ by less than 1e-8, FullGrad by less than
# 1e-4.
KINKS = 2e-2
_CANDIDATES = 16  # classes of which the one with the clearest map is explained


@dataclass(frozen=True)
class Setting:
    """A model, its layer and its images, and for every image a class whose map shows something.

    Attributes:
        name: of the model.
        model: the network, in evaluation mode.
        layer: name of the target layer.
        images: (N, C, H, W).
        targets: N classes.
        reshape: from what the layer returns to (N, C, H, W), where that is tokens.
    """

    name: str
    model: nn.Module
    layer: str
    images: Tensor
    targets: list[int]
    reshape: Callable[[Tensor], Tensor] | None = None

    @classmethod
    def of(
        cls,
        name: str,
        model: nn.Module,
        images: Tensor,
        layer: str | None = None,
        reshape: Callable[[Tensor], Tensor] | None = None,
    ) -> "Setting":
        """Finds the layer and the classes.

        Raises:
            ValueError, TypeError: for a layer that is not there or cannot be found, and for what is no classifier.
        """
        found = layers.resolve(model, layer, Inputs.of(images))[0].name
        return cls(name, model, found, images, _clear_classes(model, images, found, reshape), reshape)

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

    def apart(self) -> "Setting":
        """The same with a copy of the model: some tools leave hooks, gradients or exchanged modules on theirs."""
        return replace(self, model=copy.deepcopy(self.model))

    def with_spread(self, spread: float) -> "Setting":
        """The same with a copy of the model whose last linear layer makes logits of this standard deviation."""
        found = self.apart()
        if self.head is not None:
            with torch.no_grad():
                factor = spread / found.model(self.images).std()
                for parameter in found.model.get_submodule(self.head).parameters():
                    parameter.mul_(factor)
        return found


@dataclass(frozen=True)
class Case:
    """A method and how it is called.

    Attributes:
        method: registry name.
        options: of the explainer.
        label: the options in words.
        limit: largest difference from fastcam, as a share of the range.
        spread: standard deviation of the logits.
        without: tools that stay out.
        note: why.
    """

    method: str
    options: dict[str, Any] = field(default_factory=dict)
    label: str = ""
    limit: float = EXACT
    spread: float = SPREAD
    without: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Contestant:
    """What is timed.

    Attributes:
        call: one explanation: maps (N, H, W), or attributions (N, C, H, W).
        finish: makes of what it returns what is compared; not timed.
        alike: for the comparison: does in fastcam's way the steps in which a tool's definition differs; not timed.
        setting: how the tool was set, in words.
        limit: largest difference from fastcam, as a share of the range; None takes the case's.
    """

    call: Callable[[], Tensor]
    finish: Callable[[Tensor], Tensor] = lambda found: found
    alike: Callable[[], AbstractContextManager[Any]] = nullcontext
    setting: str = ""
    limit: float | None = None


Entrant = Callable[[Case, Setting], Sequence[Contestant]]  # one contestant for each way to set a tool


def bare_forward(model: nn.Module, images: Tensor) -> Callable[[], Tensor]:
    """The model alone."""

    def run() -> Tensor:
        with torch.inference_mode():
            found: Tensor = model(images)
        return found

    return run


def with_fastcam(case: Case, at: Setting) -> Sequence[Contestant]:
    """Fastcam on a copy of the model."""
    return [explained(case, at.apart())]


def explained(case: Case, at: Setting) -> Contestant:
    """Maps at the size of the images; signed ones of methods that attribute to the pixels."""
    explainer = Explainer(at.model, case.method, at.layer, reshape_transform=at.reshape, **case.options)

    def run() -> Tensor:
        explanation = explainer(at.images, at.targets)
        if explanation.attributions is not None:
            return explanation.attributions
        return explanation.native if case.method == "occlusion" else explanation.maps  # occlusion is signed

    return Contestant(run)


def normalized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (N, h, w) of the layer's size as every contestant's are compared: upsampled, then scaled to [0, 1]."""
    maps = F.interpolate(maps[:, None].double(), size=size, mode="bilinear", align_corners=False)[:, 0]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low)


def enlivened(model: nn.Module) -> nn.Module:
    """The same model, with random numbers for what begins as zeros and would leave it mute.

    These are the biases and means of batch norm, which tell FullGrad nothing otherwise, and weights such as the head of
    torchvision's vision transformers.
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


def _clear_classes(
    model: nn.Module, images: Tensor, layer: str, reshape: Callable[[Tensor], Tensor] | None
) -> list[int]:
    """For every image, of the classes with the highest scores the one with the clearest Grad-CAM map."""
    with torch.inference_mode():
        output = model(images)
    if not isinstance(output, Tensor) or output.dim() != 2:
        shown = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"a classifier is measured, whose output is (N, classes); this model's is {shown}")
    best = output.topk(min(_CANDIDATES, output.shape[1])).indices.clone()
    found = Explainer(model, "grad_cam", layer, reshape_transform=reshape)(images, best).native
    clearest = found.flatten(2).amax(2).argmax(1)
    return best.gather(1, clearest[:, None])[:, 0].tolist()
