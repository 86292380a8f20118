"""Guided backpropagation of one image, and its rectifier for own models."""

from typing import Any

import torch
from torch import Tensor, nn

from fastcam.compat.pytorch_grad_cam._types import Array
from fastcam.explainer import Explainer


class GuidedBackpropReLU(torch.autograd.Function):
    """A ReLU that passes on only positive gradients, where its input is positive (arXiv:1412.6806)."""

    @staticmethod
    def forward(ctx: Any, input_img: Tensor) -> Tensor:
        """Return ReLU(x)."""
        ctx.save_for_backward(input_img)
        return input_img.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        """Return the gradient by the input."""
        (inputs,) = ctx.saved_tensors
        return torch.where(inputs > 0, grad_output.clamp(min=0), 0)


class GuidedBackpropReLUasModule(nn.Module):
    """:class:`GuidedBackpropReLU` as a module."""

    def forward(self, input_img: Tensor) -> Tensor:
        """Return ReLU(x)."""
        return GuidedBackpropReLU.apply(input_img)


class GuidedBackpropReLUModel:
    """Guided backpropagation (arXiv:1412.6806), with the result in image layout.

    Args:
        model: any module; its rectifiers are not replaced.
        device: device of the model and the image; None for the model's.
    """

    def __init__(self, model: nn.Module, device: torch.device | str | None = None) -> None:
        self.model = model if device is None else model.to(device)
        self.device = torch.device(device) if device is not None else _device(model)

    def forward(self, input_img: Tensor) -> Any:
        """Return the model's output."""
        return self.model(input_img)

    def __call__(self, input_img: Tensor, target_category: int | None = None) -> Array:
        """Return the guided gradient of the first image.

        Args:
            input_img: (N, C, H, W).
            target_category: the class; None for the highest.

        Returns:
            (H, W, C), float32.
        """
        target = None if target_category is None else int(target_category)
        explanation = Explainer(self.model, "guided_backprop")(input_img[:1].detach().to(self.device), target)
        assert explanation.attributions is not None
        return explanation.attributions[0].movedim(0, -1).float().cpu().numpy()


def _device(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
