"""Edges of torch-cam's interface: one step, few maps, own extractors, attention without probabilities."""

import pytest
import torch
import torchcam
import torchcam.methods as peer
import torchcam.metrics as peer_metrics
import torchvision
from torch import nn

from fastcam.compat import torchcam as package
from fastcam.compat.torchcam import methods as ours
from fastcam.compat.torchcam import metrics

pytestmark = pytest.mark.usefixtures("one_thread")
PAIRS = ((metrics, ours), (peer_metrics, peer))


class Small(nn.Module):
    """A convolution, mean pooling and a linear layer whose scores lie far apart."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.SiLU())
        self.fc = nn.Linear(8, 5)

    def forward(self, images):
        return 20 * self.fc(self.features(images).mean((2, 3)))


@pytest.fixture
def small():
    torch.manual_seed(0)
    return Small().eval()


def deletion(small, images, class_idx=1, scale=None, **options):
    """The metric's results with ours and with the tool."""
    results = []
    for module, kinds in PAIRS:
        with kinds.GradCAM(small, "features") as extractor:
            if scale is not None:
                extractor.fuse_cams = lambda maps: maps[0] * scale[:, None, None]
            metric = module.DeletionInsertionMetric(extractor, **options)
            metric.update(images, class_idx)
            results.append(([*metric.summary().values()], metric.total, metric.nan_count))
    return results


@pytest.mark.parametrize("steps", [1, 2])
def test_few_steps(small, steps):
    mine, theirs = deletion(small, torch.randn(2, 3, 12, 10), steps=steps)
    assert mine[0] == pytest.approx(theirs[0], rel=1e-5)
    assert mine[1:] == theirs[1:]


def test_a_baseline_of_the_whole_batch_and_a_map_of_nan(small):
    images, baseline = torch.randn(3, 3, 12, 10), torch.randn(3, 3, 12, 10)
    scale = torch.tensor([1.0, torch.nan, 1.0])
    mine, theirs = deletion(small, images, scale=scale, baseline=baseline)
    assert mine[0] == pytest.approx(theirs[0], rel=1e-5)
    assert mine[1:] == theirs[1:] == (2, 1)
    mine, theirs = deletion(small, images, scale=scale, baseline=lambda given: given + baseline[:, :1][: len(given)])
    assert mine[0] == pytest.approx(theirs[0], rel=1e-5)


@pytest.mark.parametrize("class_idx", [0, [0, 2]])
def test_the_classes_that_an_extractor_gets(small, class_idx):
    calls = []
    for module, kinds in PAIRS:
        with kinds.GradCAM(small, "features") as extractor:

            class Own:
                model = small
                fuse_cams = extractor.fuse_cams
                _hooks_off = extractor._hooks_off

                def __call__(self, classes, scores, extractor=extractor):
                    calls.append(classes)
                    return extractor(classes, scores)

            module.ClassificationMetric(Own()).update(torch.randn(2, 3, 12, 10), class_idx)
    assert calls == [class_idx, class_idx]


def test_the_version():
    assert package.version("torch") == torchcam.version("torch")
    assert set(torchcam.__all__) <= set(package.__all__)


class Weightless(nn.MultiheadAttention):
    """Attention that returns no probabilities."""

    def forward(self, *arguments, **keywords):
        return super().forward(*arguments, **keywords)[0], None


def transformer():
    torch.manual_seed(0)
    return torchvision.models.VisionTransformer(32, 8, 1, 4, 24, 48, num_classes=5).eval()


def explained(module, model):
    block = model.encoder.layers[0]
    with module.LeGrad(model, block, score_projection=lambda tokens: tokens.mean(1)) as extractor:
        model.encoder(torch.randn(2, 17, 24))
        return extractor(1)


def refusal(module, model):
    with pytest.raises(ValueError, match=r".") as caught:
        explained(module, model)
    return str(caught.value)


def test_legrad_without_probabilities():
    model = transformer()
    model.encoder.layers[0].self_attention = Weightless(24, 4, batch_first=True)
    refusal(peer, model)
    assert "must return its probabilities (N, heads, T, T) as second value, got a NoneType" in refusal(ours, model)


def test_legrad_of_a_block_that_drops_a_token():
    model = transformer()
    forward = model.encoder.layers[0].forward
    model.encoder.layers[0].forward = lambda tokens: forward(tokens)[:, :-1]
    refusal(peer, model)
    assert "must return a token for each of those that it attends to, 17, got 16" in refusal(ours, model)
