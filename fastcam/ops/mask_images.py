"""Copies of images under upsampled maps."""

import torch
from torch import Tensor

from fastcam.ops import numerics, reference
from fastcam.ops._register import Context, call, check_same, check_tensor, register, shape_text
from fastcam.ops.upsample_normalize import gradient_of_maps, upsample_volumes


def mask_images(images: Tensor, maps: Tensor, normalize: bool = True) -> Tensor:
    """Multiply every image by each of its maps, upsampled to the size of the image, in one write.

    The masks are those of :func:`fastcam.ops.upsample_normalize`, in the accumulation dtype, and are not stored.
    The copies are the inputs of Score-CAM (arXiv:1910.01279, eq. 4-6) and, without the normalisation, of RISE
    (arXiv:1806.07421). A constant map masks everything; a map with a NaN or an infinity makes its copy NaN.

    Args:
        images: (N, C, *S) with one to three spatial axes.
        maps: (N, K, *s) with as many spatial axes, in the dtype of ``images`` or its accumulation dtype.
        normalize: False multiplies by the upsampled values as they are.

    Returns:
        (N, K, C, *S), in the dtype and memory layout of ``images``: channels_last where they are, else contiguous.

    Raises:
        TypeError: for dtypes that do not fit.
        ValueError: for shapes or devices that do not fit.
    """
    check_tensor("images", images)
    axes = images.dim() - 2
    if axes not in (1, 2, 3):
        raise ValueError(f"`images` must have shape (N, C, ...) with 1 to 3 spatial axes, got {shape_text(images)}")
    _check_maps(maps, images)
    if axes == 1:
        return call("mask_images", images.unsqueeze(-2), maps.unsqueeze(-2), normalize).squeeze(-2)
    if axes == 3:
        return _mask_volumes(images, maps, normalize)
    return call("mask_images", images, maps, normalize)


def _check_maps(maps: Tensor, images: Tensor) -> None:
    check_tensor("maps", maps)
    axes = images.dim() - 2
    if maps.dim() != axes + 2 or maps.shape[0] != images.shape[0] or 0 in maps.shape[2:]:
        raise ValueError(
            f"`maps` must have shape ({images.shape[0]}, K, ...) with {axes} spatial axes of at least one position "
            f"for images {shape_text(images)}, got {shape_text(maps)}"
        )
    check_same("maps", maps, images, "images", dtypes=[numerics.accumulation_dtype(images.dtype)])


def _mask_volumes(images: Tensor, maps: Tensor, normalize: bool) -> Tensor:
    """For three spatial axes: compute the masks first, then multiply."""
    if 0 in images.shape:
        return reference.new_copies(images, maps.shape[1])
    wide = maps.to(numerics.accumulation_dtype(images.dtype))
    return reference.masked_copies(images, upsample_volumes(wide, images.shape[2:], normalize))


def _fake(images: Tensor, maps: Tensor, normalize: bool = True) -> Tensor:
    return reference.new_copies(images, maps.shape[1])


class _Context(Context):
    normalize: bool


def _setup(ctx: _Context, inputs: tuple[Tensor, Tensor, bool], output: Tensor) -> None:
    images, maps, ctx.normalize = inputs
    ctx.save_for_backward(images, maps)


def _backward(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    """Apply the product rule to images and masks; the masks are recomputed."""
    images, maps = ctx.saved_tensors
    dtype, size = numerics.accumulation_dtype(images.dtype), images.shape[2:]
    grad, grad_images, grad_maps = grad.to(dtype), None, None
    if ctx.needs_input_grad[0]:
        masks = torch.ops.fastcam.upsample_normalize(maps.to(dtype), size, ctx.normalize)
        grad_images = torch.einsum("nkchw,nkhw->nchw", grad, masks).to(images.dtype)
    if ctx.needs_input_grad[1]:
        grad_masks = torch.einsum("nkchw,nchw->nkhw", grad, images.to(dtype))
        grad_maps = gradient_of_maps(grad_masks, maps.to(dtype), size, ctx.normalize).to(maps.dtype)
    return grad_images, grad_maps, None


register("mask_images", _fake, _setup, _backward)
