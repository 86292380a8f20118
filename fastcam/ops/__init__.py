"""The fused ops, one module each, with checks, fake implementation and autograd formula."""

from fastcam.ops.channel_mean import channel_mean
from fastcam.ops.gather_patches import gather_patches
from fastcam.ops.grad_cam import grad_cam
from fastcam.ops.grad_cam_pp import grad_cam_pp
from fastcam.ops.impute_neighbours import impute_neighbours
from fastcam.ops.layer_cam import layer_cam
from fastcam.ops.mask_images import mask_images
from fastcam.ops.occlude import occlude
from fastcam.ops.overlay import overlay
from fastcam.ops.plane_moments import plane_moments
from fastcam.ops.resize_crop import resize_crop
from fastcam.ops.upsample_normalize import upsample_normalize
from fastcam.ops.weighted_channel_sum import weighted_channel_sum
from fastcam.ops.xgrad_cam import xgrad_cam

__all__ = [
    "channel_mean",
    "gather_patches",
    "grad_cam",
    "grad_cam_pp",
    "impute_neighbours",
    "layer_cam",
    "mask_images",
    "occlude",
    "overlay",
    "plane_moments",
    "resize_crop",
    "upsample_normalize",
    "weighted_channel_sum",
    "xgrad_cam",
]
