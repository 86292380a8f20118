"""Mean, squared deviations, zeros and maximum of every plane, in one reading."""

from torch import Tensor

from fastcam.ops import numerics, reference
from fastcam.ops._register import call, check_activations, register, shape_text

MAX_POSITIONS = 2**24  # of a plane: places are floating point numbers


def plane_moments(activations: Tensor) -> Tensor:
    """Moments of every plane (n, c) of the activations, read once.

    Args:
        activations: (N, C, *S) with at least one position, and at most 2^24.

    Returns:
        (5, N, C), float32 for half and bfloat16 inputs: the mean over the positions; the sum of the squared deviations
        from it; the number of zeros; the maximum of what is not NaN, -inf if there is none; and the first flattened
        position of that, 0 if there is none. Gradients do not flow through it.

    Raises:
        TypeError: for a dtype that is not floating.
        ValueError: for a shape that does not fit.
    """
    check_activations(activations)
    positions = activations.shape[2:].numel()
    if not 0 < positions <= MAX_POSITIONS:
        raise ValueError(f"`activations` must have 1 to 2^24 positions, got {shape_text(activations)}")
    return call("plane_moments", activations.detach())


def _fake(activations: Tensor) -> Tensor:
    shape = (reference.MOMENTS, *activations.shape[:2])
    return activations.new_empty(shape, dtype=numerics.accumulation_dtype(activations.dtype))


register("plane_moments", _fake)
