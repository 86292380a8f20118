"""The cause of an error that a model raised about something that its user did not do."""

from torch import Tensor, nn

from fastcam.model import quantised
from fastcam.model.inputs import Inputs

_CONVOLUTIONS: dict[type[nn.Module], int] = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}


def find(error: BaseException, model: nn.Module, inputs: Inputs) -> Exception | None:
    """Return an error with the cause in the user's terms; None if the error itself says it."""
    if "does not depend on" in str(error):
        return _of_missing_gradient(model)
    if isinstance(error, TypeError):
        return None
    if "Inference tensors" in str(error) and any(parameter.is_inference() for parameter in model.parameters()):
        return RuntimeError(
            "the model was made within torch.inference_mode(), so that nothing can be differentiated through its "
            "parameters: make it, or load it, outside"
        )
    return _of_kind(error, model, inputs.images) or _of_shape(model, inputs.images)


def _of_kind(error: BaseException, model: nn.Module, images: Tensor) -> Exception | None:
    """Return how the images differ from the model's parameters in precision or place, if the error is of either."""
    parameter = next((each for each in model.parameters() if each.is_floating_point()), None)
    if parameter is None:
        return None
    if "type" in str(error) and images.dtype != parameter.dtype:
        own = parameter.dtype
        return TypeError(f"`images` are {images.dtype} and the model's parameters {own}: pass images.to({own})")
    if "device" in str(error) and images.device != parameter.device:
        place = f'"{parameter.device}"'
        return ValueError(
            f'`images` are on "{images.device}" and the model\'s parameters on {place}: pass images.to({place})'
        )
    return None


def _of_missing_gradient(model: nn.Module) -> Exception | None:
    if not quantised.holds_quantised(model):
        return None
    return RuntimeError(
        "the model is quantised, and its quantised layers have no derivative: use a method without gradients, such as "
        "occlusion, rise, score_cam or eigen_cam"
    )


def _of_shape(model: nn.Module, images: Tensor) -> Exception | None:
    """Return what is wrong with the shape of the images for the model's first convolution, if anything."""
    first = next((module for module in model.modules() if type(module) in _CONVOLUTIONS), None)
    if not isinstance(first, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return None
    axes, channels, shape = _CONVOLUTIONS[type(first)], first.in_channels, tuple(images.shape)
    expected = f"(N, {channels}, {', '.join('DHW'[3 - axes :])})" if axes > 1 else f"(N, {channels}, L)"
    if len(shape) == axes + 1 and channels in (shape[0], shape[-1]):
        axis = "images[None]" if shape[0] == channels else "images.movedim(-1, 0)[None]"
        return ValueError(f"`images` must be {expected}, got {shape}, one image without the axis N: pass {axis}")
    if len(shape) == axes + 2 and shape[1] != channels == shape[-1]:
        return ValueError(
            f"`images` must be {expected}, got {shape} with the channels last: pass images.movedim(-1, 1)"
        )
    return None
