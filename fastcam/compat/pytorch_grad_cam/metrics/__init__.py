"""Metrics of the change in score if the regions of a map are removed or kept."""

from fastcam.compat.pytorch_grad_cam.metrics import arcc, cam_mult_image, perturbation_confidence, road

__all__ = ["arcc", "cam_mult_image", "perturbation_confidence", "road"]
