"""Models of anomalib, installed beside the project's own environment: what each can be explained by."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Without what they name in turn: it would bring another torch.
PACKAGES = (
    *("anomalib==2.7.0", "lightning", "lightning-utilities", "torchmetrics", "kornia", "kornia-rs", "einops", "FrEIA"),
    *("open-clip-torch", "omegaconf", "antlr4-python3-runtime", "jsonargparse", "docstring-parser", "imagecodecs"),
    *("typeshed-client", "platformdirs"),
)
SCRIPT = """
import json, warnings
warnings.simplefilter("ignore")
import torch
import fastcam
from anomalib.models.image.ganomaly.torch_model import GanomalyModel
from anomalib.models.image.padim.torch_model import PadimModel

torch.manual_seed(0)
padim = PadimModel(backbone="resnet18", layers=["layer1", "layer2"], pre_trained=False, n_features=20).train()
normal = torch.rand(40, 3, 64, 64)
padim(normal)
padim.fit()
padim.eval()
broken = normal[:2].clone()
broken[:, :, 20:36, 20:36] = 0
score = {"target": fastcam.targets.Regression(), "select": "pred_score"}
found = fastcam.explain(padim, broken, "occlusion", window=16, stride=8, baseline=0.5, **score)
inside = found.maps[:, 20:36, 20:36].sum((1, 2)) / found.maps.sum((1, 2))
result = {
    "scores": found.scores.flatten().tolist(),
    "expected": padim(broken).pred_score.flatten().tolist(),
    "inside": inside.tolist(),
}
try:
    fastcam.explain(padim, broken, "saliency", **score)
except RuntimeError as error:
    result["refused"] = str(error)

model = GanomalyModel((64, 64), 3, 16, 20, extra_layers=0, add_final_conv_layer=True).double().eval()
images = broken.double()
leaf = images.clone().requires_grad_()
(gradient,) = torch.autograd.grad(model(leaf).pred_score.sum(), leaf)
expected = gradient.abs().amax(1)
result["differs"] = float((fastcam.explain(model, images, "saliency", **score).native - expected).abs().max())
result["largest"] = float(expected.max())
print("\\n" + json.dumps(result))
"""


@pytest.mark.slow  # installs 150 MB
def test_models_of_anomalib(tmp_path):
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path), *PACKAGES]
    subprocess.run(command, check=True)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["scores"] == pytest.approx(result["expected"])
    assert min(result["inside"]) > 2 * (16 * 16) / (64 * 64)  # of the map's sum, in a sixteenth of the image
    assert "under its own torch.no_grad()" in result["refused"]  # where PaDiM computes its features
    assert result["differs"] <= 1e-12 * result["largest"]
