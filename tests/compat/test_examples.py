"""The examples in the three tools' READMEs, as they come with the packages, run with the import alone exchanged.

Offline: weights are random, and the one picture that they download is a photograph that scikit-image brings along. What
an example leaves out, or gets wrong for the tool itself, is filled in the same for both.
"""

import contextlib
import importlib.metadata
import io
import re
import shutil
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import torch
import torchvision
from PIL import Image
from torch import nn

from tests.support.networks import slim_resnet50

pytestmark = pytest.mark.filterwarnings("ignore")

# What does not run with the tool either, and what takes its place.
REPAIRED = {
    "input_tensor = # Create an input tensor image for your model..": "input_tensor = given",
    "batch_visualizations[0, :]": "batch_visualizations[0, :].detach().numpy()",
    "model.device()": '"cpu"',
    "import ROADMostRelevantFirstAverage,": "import ROADMostRelevantFirstAverage, \\",
    "ROADLeastRelevantFirstAverage,\n": "ROADLeastRelevantFirstAverage, \\\n",
    "metrics.ARCC import": "metrics.arcc import",
    "ARCC(base_method=cam)": "ARCC(base_method=GradCAM(model=model, target_layers=target_layers))",
    "num_scales=4, ": "num_scales=2, ",
}


def examples(package: str) -> list[str]:
    """The blocks of Python in a package's description."""
    text = importlib.metadata.metadata(package).get_payload()
    return re.findall(r"^```python[^\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def run(blocks, namespace, is_ours, package, seen):
    """Runs blocks in a namespace; after each, notes what the names in ``seen`` are."""
    found = []
    for block in blocks:
        code = block
        for old, new in REPAIRED.items():
            code = code.replace(old, new)
        if is_ours:
            code = re.sub(rf"\b(from|import) {package}\b", rf"\1 fastcam.compat.{package}", code)
        assert is_ours == ("fastcam" in code) or package not in code
        torch.manual_seed(0)
        np.random.seed(0)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            exec(code, namespace)
        if "input_tensor" in namespace:  # which the tool's guided backpropagation makes require gradients
            namespace["input_tensor"] = namespace["input_tensor"].detach()
        found.append({name: namespace[name] for name in seen if name in namespace})
    return found


def close(mine, theirs, tolerance):
    for a, b in zip(mine, theirs, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            first, second = (torch.as_tensor(each).detach().double() for each in (a[name], b[name]))
            assert first.shape == second.shape, name
            assert (first - second).abs().max() <= tolerance * max(second.abs().max(), 0.1), name


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Random weights in the place of downloaded ones, and a photograph in the place of the dog."""
    load = nn.Module.load_state_dict

    def load_or_leave(self, state, *args, **kwargs):
        return load(self, state, *args, **kwargs) if state else None

    def photograph(url, name):
        Image.fromarray(skimage.data.astronaut()).save(name, quality=95)

    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", lambda self, **options: {})
    monkeypatch.setattr(nn.Module, "load_state_dict", load_or_leave)
    monkeypatch.setattr("urllib.request.urlretrieve", photograph)
    monkeypatch.chdir(tmp_path)


def test_pytorch_grad_cam(offline, monkeypatch):
    monkeypatch.setattr(torchvision.models, "resnet50", slim_resnet50)
    blocks = examples("grad-cam")
    assert len(blocks) == 6
    results = []
    for is_ours in (True, False):
        torch.manual_seed(1)
        given = torch.randn(1, 3, 64, 64)
        namespace = {"given": given, "rgb_img": np.full((64, 64, 3), 0.5, np.float32), "cv2": cv2}
        seen = ("grayscale_cam", "visualization", "result", "scores", "arcc_score")
        found = run(blocks[:1], namespace, is_ours, "pytorch_grad_cam", seen)
        namespace["model"].eval()
        namespace["grayscale_cams"] = namespace["grayscale_cam"][None]
        namespace["inverse_cams"] = 1 - namespace["grayscale_cams"]
        found += run(blocks[1:], namespace, is_ours, "pytorch_grad_cam", seen)
        results.append(found)
    assert {name for each in results[0] for name in each} == {*seen}
    for each in (*results[0], *results[1]):
        each.pop("arcc_score", None)  # ROAD fills its holes with other noise
    assert np.allclose(results[0][3].pop("scores"), results[1][3].pop("scores"), atol=0.02)
    for each in results[0][4:] + results[1][4:]:
        each.pop("scores")
    pictures = [[each.pop("visualization").astype(int) for each in found] for found in results]
    assert max(np.abs(a - b).max() for a, b in zip(*pictures, strict=True)) <= 2
    close(*results, tolerance=2e-2)  # of 255 levels, some


def test_torchcam(offline, monkeypatch):
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    blocks = examples("torchcam")
    assert len(blocks) == 6
    results = []
    for is_ours in (True, False):
        namespace = {}
        run(blocks, namespace, is_ours, "torchcam", ())
        results.append([namespace["activation_map"][0].numpy(), np.asarray(namespace["result"], int)])
        assert {"manifest.json"} < {each.name for each in Path("torchcam-explanation").iterdir()}
        shutil.rmtree("torchcam-explanation")
    assert np.abs(results[0][0] - results[1][0]).max() < 1e-4
    assert np.abs(results[0][1] - results[1][1]).mean() < 0.05  # of 255 levels


def test_captum():
    blocks = examples("captum")
    assert len(blocks) == 14
    results = []
    for is_ours in (True, False):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results.append(run(blocks, {}, is_ours, "captum", ("attributions", "deltas_per_example")))
    close(*results, tolerance=1e-4)
