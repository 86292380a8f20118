"""How the model's score changes where what a map shows is taken away, or kept alone."""

from fastcam.compat.pytorch_grad_cam.metrics import arcc, cam_mult_image, perturbation_confidence, road

__all__ = ["arcc", "cam_mult_image", "perturbation_confidence", "road"]
