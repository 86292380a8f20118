"""Kinds of cases from torch-cam's own suite: sequences and volumes, hooks, other outputs, transformers, pictures."""

import numpy as np
import pytest
import torch
import torchcam
from PIL import Image
from torch import nn

from fastcam.compat import torchcam as package
from tests.compat.torchcam_calls import CAMS, GRADIENTS, images, made, net, transformer

pytestmark = pytest.mark.usefixtures("one_thread")
OF_IMAGES = ("ScoreCAM", "SSCAM", "ISCAM")  # torch-cam cannot resize their masks along one axis
PICTURES = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def compare(run):
    """The same maps or numbers from both packages, at least one of them not 0."""
    torch.manual_seed(3)
    expected = run(torchcam)
    torch.manual_seed(3)
    found = run(package)
    assert len(found) == len(expected)
    pairs = [tuple(map(torch.as_tensor, pair)) for pair in zip(found, expected, strict=True)]
    assert any(theirs.abs().max() > 0 for _, theirs in pairs)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize(
    ("name", "axes"), [(name, axes) for name in CAMS for axes in (1, 2, 3) if axes > 1 or name not in OF_IMAGES]
)
def test_sequences_images_and_volumes(name, axes, normalized):
    def run(module):
        with made(module, name, net(axes)) as extractor:
            return extractor([4, 1], net(axes)(images(axes)), normalized)

    compare(run)


@pytest.mark.parametrize("metric", ["ClassificationMetric", "DeletionInsertionMetric"])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_metrics_of_sequences_images_and_volumes(metric, axes):
    def run(module):
        with made(module, "LayerCAM", net(axes)) as extractor:
            measure = getattr(module.metrics, metric)(extractor, lambda scores: scores.softmax(1))
            measure.update(images(axes), [4, 1])
            measure.update(images(axes).flip(0))
            before = list(measure.summary().values())
            measure.reset()
            measure.update(images(axes), 2)
            return [*before, *measure.summary().values(), measure.total]

    compare(run)


@pytest.mark.parametrize("name", ["GradCAM", "LayerCAM", "ScoreCAM"])
def test_hooks_switched_off_and_on(name):
    models = []

    def run(module):
        model = net.__wrapped__()  # one of its own, without what other tests may leave
        models.append(model)
        extractor = made(module, name, model, enable_hooks=False)
        model(images() * 2)
        assert extractor.hook_a == [None]
        extractor.enable_hooks()
        scores = model(images())
        extractor.disable_hooks()
        model(images() * 3)  # not recorded
        found = extractor(1, scores)
        extractor.reset_hooks()
        assert extractor.hook_a == [None]
        extractor.remove_hooks()
        assert extractor.hook_handles == []
        return found

    compare(run)
    assert len(models) == 2
    for model in models:
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("name", GRADIENTS)
def test_tokens_as_a_map(name):
    def positions(tokens):
        return tokens[:, 1:].transpose(1, 2).unflatten(2, (4, 4))

    def run(module):
        layer = "encoder.layers.encoder_layer_0"  # nothing but the class token is read behind the last block
        with made(module, name, transformer(), layer, reshape_transform=positions) as extractor:
            return extractor([3, 0], transformer()(PICTURES), normalized=False)

    compare(run)


@pytest.mark.parametrize("name", ["GradCAM", "LayerCAM", "ScoreCAM"])
def test_a_list_of_outputs(name):
    """One dictionary for each image, as a detector returns."""

    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net()

        def forward(self, given):
            return [{"scores": row.sigmoid()} for row in self.net(given)]

    def run(module):
        model = Detector().eval()
        with made(module, name, model, "net.features") as extractor:
            return extractor(scores=model(images()), targets=lambda output: output["scores"][2])

    compare(run)


@pytest.mark.parametrize(
    "prefix", [{}, {"prefix_tokens": 1, "grid_shape": (2, 8)}, {"prefix_tokens": 8, "grid_shape": (3, 3)}]
)
@pytest.mark.parametrize("own", [False, True])
def test_legrad(prefix, own):
    given = {"score_projection": lambda tokens: transformer().heads(tokens[:, 0]) ** 2} if own else {}

    def run(module):
        with made(module, "LeGrad", transformer(), list(transformer().encoder.layers), **prefix, **given) as extractor:
            transformer()(PICTURES)
            return extractor([3, 0], normalized=False)

    compare(run)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.99])
def test_overlays(mode, alpha):
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, (10, 14, 3), np.uint8)).convert(mode)
    mask = Image.fromarray(random.random((4, 5)).astype(np.float32))
    compare(lambda module: [np.asarray(module.utils.overlay_mask(image, mask, alpha=alpha)) / 255])


@pytest.mark.parametrize("expected", [None, 0, 3])
@pytest.mark.parametrize("name", ["GradCAM", "LayerCAM", "CAM"])
def test_explanations(name, expected):
    def run(module):
        options = {"fc_layer": "fc"} if name == "CAM" else {}
        found = module.explain.explain(
            net(),
            images()[:1],
            expected_class_idx=expected,
            method=getattr(module.methods, name),
            target_layer="features",
            method_kwargs=options,
        )
        return [found.logits, *[layer_map for key in sorted(found.cams) for layer_map in found.cams[key]]]

    compare(run)
