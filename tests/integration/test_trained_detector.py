"""A YOLOv8n with trained weights on a photograph: a face is found, and the maps of it lie where the face is."""

import importlib.util
from pathlib import Path

import onnx2torch
import pytest
import skimage.data
import torch
import torch.nn.functional as F
from torch import Tensor

import fastcam
from fastcam.targets import Detections

FACE = (0.33, 0.15, 0.54, 0.36)  # left, top, right, bottom of the face, as shares of the photograph
LEVELS = [f"model/{number}/cv2/act/Mul" for number in (15, 18, 21)]


@pytest.fixture(scope="module")
def detector():
    weights = Path(importlib.util.find_spec("nudenet").origin).parent / "320n.onnx"
    return onnx2torch.convert(str(weights)).eval()


@pytest.fixture(scope="module")
def photograph() -> Tensor:
    picture = torch.from_numpy(skimage.data.astronaut().copy()).permute(2, 0, 1)[None].float() / 255
    return F.interpolate(picture, (320, 320), mode="bilinear", antialias=True)


def share_in_face(maps: Tensor) -> float:
    left, top, right, bottom = (round(320 * share) for share in FACE)
    return float(maps[top:bottom, left:right].sum() / maps.sum())


def test_the_face_is_found(detector, photograph):
    found = fastcam.explain(detector, photograph, "saliency", Detections(0.5))
    assert found.is_found.tolist() == [[True]]
    assert 0.8 < found.details["confidences"].item() < 0.85
    expected = 320 * torch.tensor(FACE)
    assert (found.details["boxes"][0, 0] - expected).abs().max() < 4


@pytest.mark.parametrize(("method", "layer", "least"), [("layer_cam", None, 0.6), ("hires_cam", LEVELS, 0.85)])
def test_maps_point_at_the_face(detector, photograph, method, layer, least):
    found = fastcam.explain(detector, photograph, method, Detections(0.5, index=0), layer)
    assert share_in_face(found.maps[0]) > least


def test_odam(detector, photograph):
    """As its authors' code states it: the gradient of one detection's score times the map, summed, positive."""
    kept: list[Tensor] = []

    def cut(module, given, output):
        kept.append(output.detach().requires_grad_())
        return kept[-1]

    handle = detector.get_submodule(LEVELS[0]).register_forward_hook(cut)
    confidences = detector(photograph)[0, 4:]
    handle.remove()
    (gradient,) = torch.autograd.grad(confidences.max(), kept[0])
    exact = (gradient * kept[0]).sum(1).relu().detach()
    found = fastcam.explain(detector, photograph, "hires_cam", Detections(0.5, index=0), LEVELS[0])
    assert exact.max() > 0
    torch.testing.assert_close(found.native, exact, rtol=1e-3, atol=1e-5 * float(exact.max()))


def test_windows_far_away_leave_the_score(detector, photograph):
    """Where a box moves by less than a pixel, the candidate that took its old place is not the object."""
    target, windows = Detections(0.5, index=0), {"window": 32, "stride": 32}
    found = fastcam.explain(detector, photograph, "occlusion", target, **windows)
    dense = fastcam.explain(detector, photograph, "occlusion", target, **windows, engine="dense")
    torch.testing.assert_close(found.native, dense.native, rtol=1e-3, atol=1e-4)
    drops = found.native[0, ::32, ::32]
    near = torch.zeros(10, 10, dtype=torch.bool)
    near[0:5, 2:7] = True
    assert drops[~near].abs().max() < 0.03
    assert drops.max() > 0.3
    assert drops.argmax() == 2 * 10 + 4  # the middle of the face
