"""Explainers of real architectures, and of real weights on photographs, are the same in every format."""

import pytest
import torch

import fastcam
from tests.artefacts.test_networks import LAYERS, images_for, network
from tests.exporting.test_export import exported
from tests.support.tiers import slow

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"),
]
METHODS = ["grad_cam", "layer_cam", "guided_backprop"]


# A kink of a maximum magnifies float32's rounding, which differs where functions are fused: those are run in float64.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}


@pytest.mark.parametrize(
    ("name", "method", "format", "dtype"),
    [
        ("efficientnet_lite0", "layer_cam", "torchscript", torch.float32),
        ("convnext_tiny", "layer_cam", "torchscript", torch.float32),  # numbers of images in strides
        *slow(
            *(
                (name, method, format, torch.float64)
                for name in LAYERS
                for method in METHODS
                for format in ("torchscript", "pt2")
            )
        ),
        *slow(*((name, "layer_cam", "aoti", torch.float64) for name in LAYERS)),
    ],
)
def test_exported_explainers_of_networks(tmp_path, name, method, format, dtype):
    model, images = network(name).to(dtype), images_for(name).to(dtype)
    settings = {"target_layer": LAYERS[name]} if fastcam.get_method(method).has_layer else {}
    _, program = exported(tmp_path, model, images, format, method=method, **settings)
    expected = fastcam.explain(model, images, method, [281, 285], **settings)
    scores, maps, _ = program(images, torch.tensor([281, 285]))
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(maps, expected.maps, rtol=0, atol=tolerance)
    torch.testing.assert_close(scores, expected.scores, rtol=tolerance, atol=tolerance)
