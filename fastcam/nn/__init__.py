"""Layers for networks that are built to be read."""

from fastcam.nn.interpretable import InterpretableConv2d, filter_loss, filter_losses, location_instability

__all__ = ["InterpretableConv2d", "filter_loss", "filter_losses", "location_instability"]
