"""Without the compiled ops: one warning, the reason in `build_info()`, and the same numbers, maps and pictures."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[2]

CHILD = """
import json, sys, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import fastcam.ops
from tests.ops import calls
from tests.ops.test_fallback import results
calls.main()
import torch
torch.save(results(), sys.argv[1])
print(json.dumps([[each.category.__name__, str(each.message)] for each in caught]))
"""


class Network(nn.Module):
    """Two convolutions, global mean or max pooling, one linear layer; seeded."""

    def __init__(self, pooling: str) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 13, 3, padding=1), nn.ReLU())
        self.pooling = pooling
        self.classifier = nn.Linear(13, 5)
        self.eval()

    def forward(self, x):
        x = self.features(x)
        return self.classifier(x.mean((2, 3)) if self.pooling == "mean" else x.amax((2, 3)))


def results():
    """The maps of every method, and pictures of them."""
    import fastcam
    from fastcam import render

    generator = torch.Generator().manual_seed(6)
    images = torch.randn(2, 3, 23, 18, generator=generator)
    pixels = torch.randint(0, 256, (2, 23, 18, 3), dtype=torch.uint8, generator=generator).numpy()
    tensors = {}
    for each in fastcam.list_methods():
        network = Network("max" if "max_pool_classifier" in each.needs else "mean")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            maps = fastcam.explain(network, images, each.name, target_layer="features").maps.detach()
        tensors[each.name] = maps
    grid = np.linspace(-0.2, 1.2, 2 * 23 * 18, dtype=np.float32).reshape(2, 23, 18)
    grid[0, 0, :3] = [np.nan, np.inf, -np.inf]
    for alpha in (0.0, 0.5, 1.0):
        tensors[f"overlay {alpha}"] = torch.from_numpy(render.overlay(pixels, grid, alpha=alpha))
        tensors[f"overlay of maps {alpha}"] = torch.from_numpy(render.overlay(pixels, maps.numpy(), alpha=alpha))
    tensors["bytes"] = torch.from_numpy(render.to_uint8(grid))
    return tensors


@pytest.fixture(scope="module")
def fallback(tmp_path_factory):
    """The printed information, the warnings and the results of a process that was asked to do without."""
    path = tmp_path_factory.mktemp("fallback") / "results.pt"
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path)],
        cwd=ROOT,
        env=os.environ | {"FASTCAM_REFERENCE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr  # every op gives the formulas' numbers
    info, caught = map(json.loads, done.stdout.splitlines())
    return info, caught, torch.load(path)


def test_one_warning_with_the_reason(fallback):
    _, caught, _ = fallback
    own = [message for category, message in caught if category == "RuntimeWarning"]
    assert own == [
        "fastcam runs on its PyTorch references: FASTCAM_REFERENCE=1 asks for the PyTorch references",
    ]


def test_build_info_tells_the_reason(fallback):
    import fastcam

    info, _, _ = fallback
    assert info["extension"] is False
    assert info["reason"] == "FASTCAM_REFERENCE=1 asks for the PyTorch references"
    assert info["torch"] == torch.__version__
    assert "cpu_capability" not in info
    compiled = fastcam.build_info()
    assert compiled["extension"] is True
    assert compiled["reason"] is None


def test_same_maps_and_pictures(fallback):
    _, _, without = fallback
    compiled = results()
    assert without.keys() == compiled.keys()
    for name, expected in compiled.items():
        actual = without[name]
        assert actual.dtype == expected.dtype
        if expected.dtype == torch.uint8:
            assert (actual.int() - expected.int()).abs().max() <= 1, name
        else:
            assert expected.flatten(1).std(1).min() > 0.05, f"{name}: a map that says nothing"
            torch.testing.assert_close(actual, expected, rtol=0, atol=2e-5, msg=name)
