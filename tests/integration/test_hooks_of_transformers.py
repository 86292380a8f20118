"""Segmenters of Hugging Face, whose backbones collect their stages by hooks on the modules."""

import pytest
import torch

import fastcam
from fastcam.engine.model_state import has_hooks
from tests.engine.test_graphs import recorded
from tests.zoo import transformers_cases

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def upernet():
    built = transformers_cases.build("UperNet", None)
    return built.model, built.images["pixel_values"]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_maps_of_stages(upernet, stage):
    """By hand: the gradient of a stage in front of the next one and of the head."""
    model, images = upernet
    layer, target = f"backbone.encoder.stages.{stage}", lambda output: output.logits[:, 1].mean((1, 2))
    kept = []
    handle = model.get_submodule(layer).register_forward_hook(
        lambda module, arguments, output: kept.append(output.detach().requires_grad_()) or kept[-1], prepend=True
    )
    try:
        score = target(model(images)).sum()
    finally:
        handle.remove()
    A, (G,) = kept[-1], torch.autograd.grad(score, kept[-1])
    expected = (G.mean((2, 3), keepdim=True) * A).sum(1).relu().detach()
    for _ in range(2):  # the hooks are there from the first forward pass on
        found = fastcam.explain(model, images, "grad_cam", target, layer)
        torch.testing.assert_close(found.native, expected, rtol=1e-3, atol=1e-5 * float(expected.max()))


def test_graphs_are_recorded_with_a_models_own_hooks():
    built = transformers_cases.build("ViT", None)
    model, images = built.model, built.images["pixel_values"]
    model.config.output_hidden_states = True
    model(images)
    assert any(module._forward_hooks for module in model.modules())
    assert not has_hooks(model)
    explainer, made = recorded(model)
    for seed in range(4):
        given = torch.rand(images.shape, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(explainer(given, 1).native, fastcam.explain(model, given, target=1).native)
    assert [recording.replays for recording in made] == [3]
    handle = model.vit.register_forward_hook(lambda *_: None)
    assert has_hooks(model)
    handle.remove()
