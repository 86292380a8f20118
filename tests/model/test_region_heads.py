"""Detectors of two stages: gradients through few regions are those through all, and their padding is cut off."""

import threading

import pytest
import torch
import torchvision
from torch import nn

import fastcam
from fastcam import targets
from fastcam.model import capture
from fastcam.model.capture import Layer
from fastcam.model.region_heads import few_regions

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = ("fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2")
LAYERS = ("backbone.body.layer3", "backbone.fpn.layer_blocks.0")


def detector(kind: str = KINDS[0], **options) -> nn.Module:
    torch.manual_seed(0)
    small = {"box_detections_per_img": 4, "box_score_thresh": 0.0, "min_size": 64, "max_size": 96}
    small["rpn_post_nms_top_n_test"] = 40
    more = {} if "keypoint" in kind else {"num_classes": 3}
    model = torchvision.models.get_model(kind, weights=None, weights_backbone=None, **small, **more, **options)
    return model.eval().double()


def images(count: int = 2, size=(64, 80)) -> torch.Tensor:
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(3)).double()


def whole(model: nn.Module, inputs: torch.Tensor, name: str, part) -> torch.Tensor:
    """The gradient of a part of the output with respect to a layer, through every region."""
    kept: list[torch.Tensor] = []

    def cut(module, given, output):
        kept.append(output.detach().requires_grad_())
        return kept[-1]

    handle = model.get_submodule(name).register_forward_hook(cut)
    output = model(list(inputs))
    handle.remove()
    return torch.autograd.grad(part(output), kept[0])[0]


def through_few(model: nn.Module, inputs: torch.Tensor, name: str, part) -> torch.Tensor:
    layer = Layer(name, model.get_submodule(name))
    with few_regions(model, [layer.module]):
        seen = capture.forward(model, (list(inputs),), [layer], with_graph=True)
    return torch.autograd.grad(part(seen.output), seen.activations[0])[0]


PARTS = {
    "one score": lambda output: output[1]["scores"][2],
    "all scores": lambda output: sum(each["scores"].square().sum() for each in output),
    "boxes": lambda output: output[0]["boxes"][1].sum() + output[1]["scores"][0],
    "masks": lambda output: output[0]["masks"][0].sum(),
    "keypoints": lambda output: output[0]["keypoints_scores"][0].sum(),
}


@pytest.mark.parametrize(("kind", "name"), [*zip(KINDS, LAYERS * 2, strict=True), (KINDS[0], LAYERS[1])])
def test_gradients_of_any_part(kind, name):
    model, inputs = detector(kind), images()
    with torch.no_grad():
        known = model(list(inputs))[0]
    parts = [part for key, part in PARTS.items() if key in ("one score", "all scores", "boxes") or key in known]
    for part in parts:
        expected = whole(model, inputs, name, part)
        assert expected.abs().max() > 0
        found = through_few(model, inputs, name, part)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12 * float(expected.abs().max()))
    assert not any(module._forward_hooks for module in model.modules())


def test_few_regions_run_backwards(monkeypatch):
    """The point of it: a detection's backward pass sees one region of all."""
    model, inputs = detector(), images(1)
    seen: list[int] = []
    head = model.roi_heads.box_head
    run = head.forward
    monkeypatch.setattr(head, "forward", lambda x: (seen.append(len(x)), run(x))[1])
    found = fastcam.explain(model, inputs, "grad_cam", targets.Detections(0.0, most=3), LAYERS[0])
    assert found.is_found.all()
    assert seen[0] == 40
    assert set(seen[1:]) == {1}


def test_not_a_number_is_not_lost():
    """A gradient of NaN is one of the gradients that are not zero."""
    model, inputs = detector(), images(1)
    part = lambda output: output[0]["scores"][1] * torch.nan  # noqa: E731
    assert through_few(model, inputs, LAYERS[1], part).isnan().any()


def test_a_head_in_training_mode_or_with_the_layer_stays_whole():
    model, inputs = detector(), images(1)
    layer = Layer("roi_heads.box_head.fc7", model.roi_heads.box_head.fc7)
    with few_regions(model, [layer.module]):
        seen = capture.forward(model, (list(inputs),), [layer], with_graph=True)
    score = seen.output[0]["scores"][0]
    (gradient,) = torch.autograd.grad(score, seen.activations[0])
    assert gradient.abs().max() > 0
    model.roi_heads.box_predictor.training = True
    with few_regions(model, []):
        assert not model.roi_heads.box_predictor._forward_hooks
    assert not model.roi_heads.box_roi_pool._forward_hooks


def test_other_threads_and_passes_without_a_graph():
    model, inputs = detector(), images(1)
    with torch.no_grad():
        expected = model(list(inputs))[0]["scores"]
    found: list[torch.Tensor] = []

    def run() -> None:
        leaf = inputs.clone().requires_grad_()
        output = model(list(leaf))[0]["scores"]
        found.extend((output.detach(), torch.autograd.grad(output[0], leaf, create_graph=True)[0]))

    with few_regions(model, []):
        thread = threading.Thread(target=run)  # may differentiate twice, which few regions do not allow
        thread.start()
        thread.join()
        with torch.no_grad():
            assert torch.equal(model(list(inputs))[0]["scores"], expected)
    assert torch.equal(found[0], expected)
    assert found[1].requires_grad


def test_padding_is_cut_off():
    """An image of 64 x 80 that becomes 64 x 96 within the detector: the map of the image is that of its 80 columns."""
    model, inputs = detector(), images(1)
    found = fastcam.explain(model, inputs, "grad_cam", targets.Detections(0.0, most=2), "backbone.body.layer3")
    assert found.native.shape == (1, 2, 4, 6)  # stride 16, of 96 columns
    assert found.cover == (1.0, 80 / 96)
    expected = torch.nn.functional.interpolate(found.native, (64, 96), mode="bilinear")[..., :80]
    torch.testing.assert_close(found.raw, expected, rtol=1e-6, atol=1e-9)
    low, high = expected.amin((2, 3), keepdim=True), expected.amax((2, 3), keepdim=True)
    torch.testing.assert_close(found.maps.double(), (expected - low) / (high - low), rtol=1e-5, atol=1e-6)
    out = torch.empty_like(found.maps)
    torch.testing.assert_close(found.write_maps(out), (expected - low) / (high - low), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [(64, 96), (32, 96)])
def test_nothing_to_cut_off(size):
    found = fastcam.explain(
        detector(), images(1, size), "eigen_cam", targets.Detections(0.0, most=1), "backbone.body.layer3"
    )
    assert found.cover is None


def test_padding_of_layers_fused_and_of_input_gradients():
    model, inputs, target = detector(), images(1), targets.Detections(0.0, most=2)
    layers = ["backbone.body.layer3", "backbone.body.layer4"]
    found = fastcam.explain(model, inputs, ["grad_cam", "saliency"], target, layers)
    assert found["saliency"].cover is None
    assert found["saliency"].raw.shape == (1, 2, 64, 80)
    single = fastcam.explain(model, inputs, "grad_cam", target, layers, fuse=None)
    expected = torch.stack([single[name].maps for name in layers]).mean(0)
    torch.testing.assert_close(found["grad_cam"].raw, expected)


def test_padding_of_score_cams_masks():
    """A channel lies over the part of the image that it saw, scaled by its values there."""
    model, inputs, layer = detector(), images(1), "backbone.body.layer3"
    copies, seen = [], []
    model.register_forward_pre_hook(lambda module, given: copies.extend(image.detach().clone() for image in given[0]))
    model.get_submodule(layer).register_forward_hook(lambda module, given, output: seen.append(output.detach()))
    fastcam.explain(model, inputs, "score_cam", targets.Detections(0.0, most=1), layer, channels=3, batch_size=3)
    maps = seen[0]
    chosen = maps.flatten(2).var(-1).topk(3, 1).indices[0]
    masks = torch.nn.functional.interpolate(maps[:, chosen], (64, 96), mode="bilinear")[0, :, :, :80]
    low, high = masks.amin((1, 2), keepdim=True), masks.amax((1, 2), keepdim=True)
    expected = inputs * ((masks - low) / (high - low))[:, None]
    torch.testing.assert_close(torch.stack(copies[-3:]), expected, rtol=1e-6, atol=1e-8)


def test_padding_in_class_maps():
    model = torchvision.models.get_model(
        "retinanet_resnet50_fpn", weights=None, weights_backbone=None, num_classes=3, min_size=64, max_size=96
    ).eval()
    levels = fastcam.class_maps(model, images(1).float(), "head.classification_head.cls_logits", 1, classes=3)
    first = next(iter(levels.values()))
    assert first.cover == (1.0, 80 / 96)
    expected = torch.nn.functional.interpolate(first.native[:, None], (64, 96), mode="bilinear")[:, 0, :, :80]
    torch.testing.assert_close(first.raw, expected, rtol=1e-5, atol=1e-6)


def test_images_of_several_sizes():
    model = detector()
    several = [images(1)[0], images(1, (64, 96))[0]]
    found = fastcam.explain(model, several, "grad_cam", targets.Detections(0.0, most=2), "backbone.body.layer3")
    single = fastcam.explain(
        model, several[0][None], "grad_cam", targets.Detections(0.0, most=2), "backbone.body.layer3"
    )
    torch.testing.assert_close(found.maps[:1, :, :64, :80], single.maps)
