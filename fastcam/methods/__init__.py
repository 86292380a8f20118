"""The attribution rules; importing this package registers them."""

from fastcam.methods import activation, gradient, perturbation  # isort: skip - the order of the tables
from fastcam.methods import occlusion, backprop, path, full_grad  # isort: skip

__all__ = ["activation", "backprop", "full_grad", "gradient", "occlusion", "path", "perturbation"]
