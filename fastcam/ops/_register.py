"""Code shared by the ops: checks of tensors, choice of kernel or reference, registration."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack
from torch.autograd.function import FunctionCtx

from fastcam._extension import has_extension
from fastcam.ops import numerics, reference

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

_library = torch.library.Library("fastcam", "IMPL") if has_extension() else None


namespace = torch.ops.fastcam  # replaced by tests of the CUDA kernels


class Context(FunctionCtx):
    """The autograd context of an op; subclasses declare what its ``setup_context`` stores."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]


class MapContext(Context):
    """The context of a fused method, see :func:`save_inputs`."""

    options: list[float]


def call(name: str, *arguments: object) -> Tensor:
    """Run the op: its kernel for the tensors' device, or the reference without the extension.

    Autograd formulas are written in Python, and torch goes through them even where nothing is recorded, which takes
    longer than the rest of the call: then the kernel is called past them.
    """
    if _library is None:
        return getattr(reference, name)(*arguments)
    op = getattr(namespace, name).default
    if _may_be_recorded(arguments):
        return op(*arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return op(*arguments)


def _may_be_recorded(arguments: Sequence[object]) -> bool:
    """Whether autograd, a function transform or a compiler may want to know of the call."""
    if torch.compiler.is_compiling() or peek_interpreter_stack() is not None:
        return True
    return torch.is_grad_enabled() and any(isinstance(each, Tensor) and each.requires_grad for each in arguments)


def register(
    name: str,
    fake: Callable[..., Tensor | None],
    setup_context: Callable[..., None] | None = None,
    backward: Callable[..., object] | None = None,
) -> None:
    """Register the fake of a compiled op, its autograd formula if any, and its reference for other devices."""
    if _library is None:
        return
    _library.impl(name, getattr(reference, name), "CompositeExplicitAutograd")
    torch.library.register_fake(f"fastcam::{name}", fake, lib=_library)
    if backward is not None:
        torch.library.register_autograd(f"fastcam::{name}", backward, setup_context=setup_context, lib=_library)


def shape_text(tensor: Tensor) -> str:
    """Return the shape as a tuple, for error messages."""
    return str(tuple(tensor.shape))


def check_tensor(name: str, value: object) -> None:
    """Raise unless ``value`` is a tensor of one of the four floating dtypes."""
    if not isinstance(value, Tensor):
        raise TypeError(f"`{name}` must be a torch.Tensor, got {type(value).__name__}")
    if value.dtype not in FLOATS:
        raise TypeError(f"`{name}` must be float32, float64, float16 or bfloat16, got {value.dtype}")


def check_activations(activations: Tensor) -> None:
    """Raise unless ``activations`` are (N, C, ...) with at least one spatial axis."""
    check_tensor("activations", activations)
    if activations.dim() < 3:
        raise ValueError(
            f"`activations` must have shape (N, C, ...) with at least one spatial axis, got {shape_text(activations)}"
        )


def check_same(name: str, value: Tensor, other: Tensor, other_name: str, dtypes: Sequence[torch.dtype] = ()) -> None:
    """Raise unless ``value`` is on the device of ``other`` and has its dtype or one of ``dtypes``."""
    if value.dtype not in (other.dtype, *dtypes):
        raise TypeError(f"`{name}` must have the dtype of `{other_name}`, {other.dtype}, got {value.dtype}")
    if value.device != other.device:
        raise ValueError(f"`{name}` must be on the device of `{other_name}`, {other.device}, got {value.device}")


def check_pair(activations: Tensor, gradients: Tensor, name: str = "gradients") -> None:
    """Raise unless gradients are (N, C, *S) or (N, K, C, *S) for activations (N, C, *S)."""
    check_activations(activations)
    check_tensor(name, gradients)
    shape = tuple(gradients.shape)
    if gradients.dim() == activations.dim() + 1:
        shape = (shape[0], *shape[2:])
    if shape != tuple(activations.shape):
        raise ValueError(
            f"`{name}` must have the shape of `activations` {shape_text(activations)} or one more axis K after N, "
            f"got {shape_text(gradients)}"
        )
    check_same(name, gradients, activations, "activations")


def fake_maps(activations: Tensor, gradients: Tensor, *_: object) -> Tensor:
    """The fake implementation of every fused method: maps (N, [K,] *S) in the accumulation dtype."""
    return activations.new_empty(
        numerics.map_shape(activations, gradients), dtype=numerics.accumulation_dtype(activations.dtype)
    )


def save_inputs(ctx: MapContext, inputs: tuple[Tensor, Tensor, *tuple[float, ...]], output: Tensor) -> None:
    """Save activations, gradients and the map, and the remaining arguments as ``ctx.options``."""
    activations, gradients, *ctx.options = inputs
    ctx.save_for_backward(activations, gradients, output)


def unpack(ctx: MapContext, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return activations and gradients with flat positions, and the gradient (..., P) of the map before its ReLU."""
    activations, gradients, output = ctx.saved_tensors
    a, g = numerics.flatten_pair(activations, gradients)
    if ctx.options[-1]:
        grad = grad * (output > 0)
    return a, g, grad.reshape(*g.shape[:-2], g.shape[-1])


def pack(ctx: MapContext, grad_activations: Tensor, grad_gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Return gradients in the shape and dtype of the inputs, those of the activations summed over the targets."""
    activations, gradients, _ = ctx.saved_tensors
    if gradients.dim() > activations.dim():
        grad_activations = grad_activations.sum(1)
    return (
        grad_activations.reshape(activations.shape).to(activations.dtype),
        grad_gradients.reshape(gradients.shape).to(gradients.dtype),
    )
