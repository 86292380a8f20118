"""Computes explanations from one forward pass; used by :mod:`fastcam.explainer` only."""
