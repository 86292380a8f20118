"""From one forward pass to explanations; known to :mod:`fastcam.explainer` alone."""
