"""Time all ops and methods on this machine, compared with PyTorch and peer libraries: ``fastcam bench``."""
