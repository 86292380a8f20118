"""What every op and every method costs on this machine, beside PyTorch and the peers: ``fastcam bench``."""
