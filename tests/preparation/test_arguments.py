"""Preparation of models with more arguments than the images, which may be anywhere among them and have names."""

import inspect

import pytest
import torch
import transformers

import fastcam
from fastcam import targets

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = {
    **SIZE,
    "vocab_size": 20,
    "max_position_embeddings": 6,
    "eos_token_id": 19,
    "bos_token_id": 0,
    "pad_token_id": 0,
}
TEXTS = torch.tensor([[1, 5, 19, 0, 0, 0], [1, 7, 8, 19, 0, 0], [1, 9, 4, 2, 19, 0]])


def images(count=2, size=64):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def vit():
    torch.manual_seed(0)
    config = transformers.ViTConfig(**SIZE, image_size=64, patch_size=16, num_labels=5)
    return transformers.ViTForImageClassification(config).eval(), {"pixel_values": images()}, 1


def resnet():
    torch.manual_seed(0)
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    return transformers.ResNetForImageClassification(config).eval(), {"pixel_values": images()}, 1


def clip():
    """Three texts for all images, in front of them."""
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config=TEXT, vision_config={**SIZE, "image_size": 64, "patch_size": 16}, projection_dim=16
    )
    return transformers.CLIPModel(config).eval(), {"input_ids": TEXTS, "pixel_values": images()}, 2


def owl_vit():
    """Two texts for each image, in front of them."""
    torch.manual_seed(0)
    config = transformers.OwlViTConfig(
        text_config=TEXT, vision_config={**SIZE, "image_size": 32, "patch_size": 16}, projection_dim=32
    )
    inputs = {"input_ids": TEXTS[:2].repeat(2, 1), "pixel_values": images(2, 32)}
    return transformers.OwlViTForObjectDetection(config).eval(), inputs, targets.Detections(0.0, index=0)


MODELS = [vit, resnet, clip, owl_vit]


@pytest.mark.parametrize("build", MODELS)
@pytest.mark.parametrize("method", ["layer_cam", "saliency", "integrated_gradients"])
def test_arguments_by_name(build, method):
    model, inputs, target = build()
    options = {"steps": 3} if method == "integrated_gradients" else {}
    prepared = fastcam.prepare(model, inputs)
    assert prepared.batch_size >= 1
    expected = fastcam.explain(model, inputs, method, target, **options).native
    for found in (
        fastcam.explain(prepared, inputs, method, target, **options),
        fastcam.Explainer(model, method, precision="fp32", **options)(inputs, target),
    ):
        torch.testing.assert_close(found.native, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("build", MODELS)
def test_the_signature_is_the_models_own(build):
    model, inputs, _ = build()
    prepared = fastcam.prepare(model, inputs)
    assert inspect.signature(prepared.forward) == inspect.signature(model.forward)


@pytest.mark.parametrize("build", [vit, clip])
def test_compiled(build, monkeypatch):
    """The compiled parts run wherever the images stand; with other texts than the example's the model runs as it is."""
    model, inputs, target = build()
    prepared = fastcam.prepare(model, inputs, compile=True)
    assert prepared._parts is not None
    calls, run_trunk = [], type(prepared._parts).run_trunk
    monkeypatch.setattr(
        type(prepared._parts), "run_trunk", lambda parts, given: calls.append(1) or run_trunk(parts, given)
    )
    others = {**inputs, "pixel_values": images().flip(-1)}
    for given in (inputs, others):
        found = fastcam.explain(prepared, given, "grad_cam", target).native
        expected = fastcam.explain(model, given, "grad_cam", target).native
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    assert len(calls) == 2
    if "input_ids" in inputs:
        fewer = {**inputs, "input_ids": TEXTS[1:]}
        found = fastcam.explain(prepared, fewer, "grad_cam", 1).native
        expected = fastcam.explain(model, fewer, "grad_cam", 1).native
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
        assert len(calls) == 2
