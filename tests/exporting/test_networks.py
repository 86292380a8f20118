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


@pytest.mark.parametrize(
    ("name", "method", "format"),
    [
        ("efficientnet_lite0", "layer_cam", "torchscript"),
        ("convnext_tiny", "layer_cam", "torchscript"),  # numbers of images in strides
        *slow(*((name, method, format) for name in LAYERS for method in METHODS for format in ("torchscript", "pt2"))),
        *slow(*((name, "layer_cam", "aoti") for name in LAYERS)),
    ],
)
def test_exported_explainers_of_networks(tmp_path, name, method, format):
    model, images = network(name), images_for(name)
    settings = {"target_layer": LAYERS[name]} if fastcam.get_method(method).has_layer else {}
    _, program = exported(tmp_path, model, images, format, method=method, **settings)
    expected = fastcam.explain(model, images, method, [281, 285], **settings)
    scores, maps, _ = program(images, torch.tensor([281, 285]))
    tolerance = {"pt2": 1e-5, "torchscript": 1e-4, "aoti": 1e-2}[format]  # fused functions round, a kink magnifies it
    torch.testing.assert_close(maps, expected.maps, rtol=0, atol=tolerance)
    torch.testing.assert_close(scores, expected.scores, rtol=1e-4, atol=1e-4)
