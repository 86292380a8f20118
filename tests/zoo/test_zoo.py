"""The layer, its map and Grad-CAM of a sample of the architectures, beside plain autograd in float64."""

import time
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from fastcam.model.capture import Layer
from fastcam.model.inputs import Inputs
from fastcam.model.token_maps import TokenMap
from tests.zoo import table, timm_cases, torchvision_cases, transformers_cases
from tests.zoo.__main__ import measured
from tests.zoo.case import Built, Case
from tests.zoo.measure import Row, compare, measure
from tests.zoo.plain import follows_image, plain_grad_cam

_timm, _transformers = timm_cases.build, transformers_cases.build
# How it is built, its name, the side of the image, the layer, the map's size, and the tokens before its grid.
SAMPLE = [
    (torchvision_cases.classifier, "shufflenet_v2_x0_5", 64, "conv5", (2, 2), None),
    (torchvision_cases.segmenter, "lraspp_mobilenet_v3_large", 64, "backbone.16", (4, 4), None),
    (torchvision_cases.detector, "fasterrcnn_mobilenet_v3_large_320_fpn", 64, "backbone.body.16", (2, 2), None),
    (_timm, "test_vit", None, "blocks.5.norm1", (10, 10), 1),
    (_timm, "test_mambaout", None, "stages", (5, 5), 0),
    (_transformers, "BEiT", None, "beit.layers.3", (8, 8), 1),
    (_transformers, "DINOv2 with registers", None, "dinov2_with_registers.layernorm", (8, 8), 5),
    (_transformers, "Swin", None, "swin.layernorm", (7, 7), 0),
    (_transformers, "Hiera", None, "hiera.encoder.stages.3.layers.0.layernorm_after", (4, 4), 0),
    (_transformers, "SigLIP", None, "vision_model.post_layernorm", (8, 8), 0),
    (_transformers, "CLIP", None, "vision_model.encoder.layers.3", (8, 8), 1),
    (_transformers, "PoolFormer", None, "norm", (4, 4), None),
    (_transformers, "YOLOS", None, "vit.encoder.layer.2", (8, 8), 1),  # tokens of detections behind those of the image
]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("build", "name", "size", "layer", "grid", "start"), SAMPLE, ids=[each[1] for each in SAMPLE])
def test_the_layer_is_found_and_its_map_is_that_of_plain_autograd(build, name, size, layer, grid, start):
    found = compare(Case(name, partial(build, name)).seeded(size).double(), {})
    token_map = found.layer.token_map
    assert (found.layer.name, found.map_size, token_map and token_map.start) == (layer, grid, start)
    assert found.difference <= 1e-9
    if token_map is not None:
        assert token_map.is_verified
        assert found.inside > 1.5


def patches(size: int = 4) -> tuple[nn.Module, Inputs, Layer]:
    """A layer whose positions are the pixels, in row order, as tokens."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(2), _Transpose(), nn.Linear(3, 5), nn.Flatten(), nn.Linear(size * size * 5, 2))
    inputs = Inputs.of(torch.randn(2, 3, size, size), model, None, ())
    return model, inputs, Layer("2", model[2], TokenMap(2, (size, size)))


class _Transpose(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


def test_plain_grad_cam_of_a_linear_network_is_the_mean_weight_times_the_activation():
    model, inputs, layer = patches()
    found = plain_grad_cam(model, inputs, layer, lambda output: output[:, 1])
    weights = model[4].weight[1].reshape(16, 5).mean(0)
    expected = (model[:3](inputs.images) @ weights).unflatten(1, (4, 4))
    torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "order",
    [torch.arange(16).reshape(4, 4).T, torch.arange(16).reshape(4, 4).flip(1), torch.randperm(16)],
    ids=["transposed", "mirrored", "shuffled"],
)
def test_a_map_in_another_order_does_not_follow_the_image(order):
    model, inputs, layer = patches()
    assert follows_image(model, inputs, layer) > 100
    wrong = replace(layer, token_map=TokenMap(2, (4, 4), 0, order.flatten()))
    assert follows_image(model, inputs, wrong) < 3


def test_what_is_raised_is_the_reason_of_a_row():
    def build(size):
        return Built(nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), torch.randn(1, 3, 4, 4))

    row = measure(Case("linear", build))
    assert (row.result, row.parameters, row.layer) == ("refused", 98, "")
    assert row.reason.startswith("ValueError: no layer of Sequential with a map of the image (4 x 4)")


def test_a_large_model_is_skipped_without_being_built():
    row = measure(Case("large", lambda size: pytest.fail("it was built"), 100_000_001))
    assert (row.result, row.reason) == ("skipped", "more than 100,000,000 parameters")


def test_a_model_that_hangs_is_ended():
    started = time.perf_counter()
    row = measured(Case("endless", lambda size: time.sleep(60)), None, 0.5)
    assert (row.result, row.reason) == ("refused", "not done after 0.5 s")
    assert time.perf_counter() - started < 30


def test_the_table_counts_the_results():
    rows = [Row("a", "found"), Row("b", "found"), Row("c|d", "wrong", "differs")]
    text = table.markdown(rows)
    assert text.startswith("3 models: 2 found, 0 needed an argument, 1 wrong, 0 refused, 0 skipped\n")
    assert "| c\\|d |" in text
    assert "| wrong: differs |" in text
