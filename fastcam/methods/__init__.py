"""The rules; importing this package registers them."""

from fastcam.methods import activation, gradient

__all__ = ["activation", "gradient"]
