"""What an installed wheel must do, run from outside of the sources: ``python -I smoke.py``."""

import importlib.metadata
import tempfile
from pathlib import Path

import torch
from torch import nn

import fastcam


def main() -> None:
    """Fail where the package, its compiled ops, its files or its command line do not work."""
    assert "site-packages" in fastcam.__file__, fastcam.__file__
    info = fastcam.build_info()
    assert info["extension"], info
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    ).eval()
    images = torch.rand(2, 3, 32, 32)
    activations = model[:2](images).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model[2:](activations)[:, 1].sum(), activations)
    expected = (gradient.mean((2, 3), keepdim=True) * activations).sum(1).relu().detach()
    found = fastcam.explain(model, images, ["grad_cam", "occlusion"], 1, "1", window=8, stride=8)
    torch.testing.assert_close(found["grad_cam"].native, expected)
    with tempfile.TemporaryDirectory() as folder:
        (page,) = found["grad_cam"].save(Path(folder) / "maps.html")
        assert "function draw" in page.read_text()
    files = {str(file) for file in importlib.metadata.files("fastcam") or ()}
    assert "fastcam/view/page/index.html" in files
    print(f"fastcam {fastcam.__version__} with torch {torch.__version__}: {info}")


if __name__ == "__main__":
    main()
