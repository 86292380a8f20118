"""Quantised models: methods without gradients see the values that the integers stand for."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastcam
from fastcam.methods.registry import list_methods
from fastcam.model import quantised
from tests.support.conv_net import Call, conv_net, images_for

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
]
WITHOUT_GRADIENTS = {"eigen_cam", "score_cam", "ablation_cam", "rise", "occlusion"}
OPTIONS = {"rise": {"masks": 6}, "occlusion": {"window": 4, "stride": 4}}


class Net(nn.Module):
    """quantisation -> two convolutions -> global pooling -> linear layer -> values."""

    def __init__(self, pooling="mean"):
        super().__init__()
        self.quant, self.dequant = torch.ao.quantization.QuantStub(), torch.ao.quantization.DeQuantStub()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 5, 3, stride=2, padding=1))
        self.pool = nn.AdaptiveAvgPool2d(1) if pooling == "mean" else nn.MaxPool2d((6, 5))
        self.classifier = nn.Linear(5, 4)

    def forward(self, x):
        return self.dequant(self.classifier(self.pool(self.body(self.quant(x))).flatten(1)))


def static_net(pooling="mean", image_count=2):
    """A calibrated network of eight bits, and images for it."""
    torch.manual_seed(3)
    engine = next(each for each in torch.backends.quantized.supported_engines if each not in ("none", "onednn"))
    model, images = Net(pooling).eval(), images_for(count=image_count)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.qconfig = torch.ao.quantization.get_default_qconfig(engine)
        torch.ao.quantization.prepare(model, inplace=True)
        model(images)
        return torch.ao.quantization.convert(model), images


def dynamic_net():
    """A network of floats whose linear layer has a weight of eight bits."""
    return torch.ao.quantization.quantize_dynamic(conv_net(), {nn.Linear}, dtype=torch.qint8), images_for()


def output_of(model, name, images):
    """The output of a layer, quantised if it is."""
    seen = []
    with (
        model.get_submodule(name).register_forward_hook(lambda *given: seen.append(given[-1].clone())),
        torch.no_grad(),
    ):
        model(images)
    return seen[0]


def tail(model, activations):
    """The scores of the static network from the quantised output of its body on."""
    with torch.no_grad():
        return model.dequant(model.classifier(model.pool(activations).flatten(1)))


def close(found, expected, atol=1e-6):
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-5, atol=atol)


def eigen(activations):
    """The projection (N, P) on the first principal component of the channels by its definition, up to its sign."""
    flat = activations.double().flatten(2)
    centred = flat - flat.mean(-1, keepdim=True)
    return torch.stack([torch.linalg.svd(each, full_matrices=False)[0][:, 0] @ each for each in centred])


def score_cam(model, images, activations, target):
    masks = F.interpolate(activations, images.shape[2:], mode="bilinear", align_corners=False)
    low, high = masks.amin((2, 3), True), masks.amax((2, 3), True)
    masks = (masks - low) / (high - low)
    with torch.no_grad():
        scores = torch.stack([model(images * masks[:, c : c + 1])[:, target] for c in range(masks.shape[1])], 1)
    weights = scores.double().softmax(1)
    return (weights[..., None, None] * activations.double()).sum(1).relu()


NETS = {"static": (static_net, "body"), "dynamic": (dynamic_net, "features")}


@pytest.mark.parametrize("kind", NETS)
def test_eigen_cam_and_score_cam_of_the_values(kind):
    (model, images), layer = NETS[kind][0](), NETS[kind][1]
    activations = quantised.values_of(output_of(model, layer, images))
    assert activations.dtype == torch.float32
    found = fastcam.explain(model, images, "eigen_cam", target_layer=layer, relu=False)
    expected, native = eigen(activations), found.native.flatten(1).double()
    close(native.abs(), expected.abs())
    close(F.cosine_similarity(native, expected).abs(), torch.ones(2))
    found = fastcam.explain(model, images, "score_cam", 1, layer)
    expected = score_cam(model, images, activations, 1)
    # One step of a score, where a masked image rounds to another integer, or the scale follows from another batch.
    step = 3 * model.classifier.scale if kind == "static" else 0.01
    close(found.native, expected, step * float(expected.max()))


@pytest.mark.parametrize("kind", NETS)
def test_occlusion_runs_occluded_copies(kind):
    model, images = NETS[kind][0]()
    found = fastcam.explain(model, images, "occlusion", 2, window=4, stride=4)
    expected = torch.empty(2, 3, 3)
    with torch.no_grad():
        for i in range(3):
            for j in range(3):
                copies = images.clone()
                copies[:, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4] = 0
                expected[:, i, j] = model(copies)[:, 2]
        clean = model(images)[:, 2]
    # A linear layer that is quantised dynamically takes its scale from the batch, here two copies or several.
    bound = 1e-6 if kind == "static" else 0.05 * float(expected.max() - expected.min())
    close(found.scores, clean, bound)
    close(found.details["grid"], expected, bound)
    close(found.native[:, 0, 0], clean - expected[:, 0, 0], 2 * bound)


def test_ablation_quantises_what_it_exchanges():
    model, images = static_net()
    raw = output_of(model, "body", images)
    clean = tail(model, raw)[:, 1]
    weights = []
    for channel in range(5):
        values = raw.dequantize()
        values[:, channel] = 0
        changed = torch.quantize_per_tensor(values, raw.q_scale(), raw.q_zero_point(), raw.dtype)
        weights.append((clean - tail(model, changed)[:, 1]) / clean)
    expected = (torch.stack(weights, 1)[..., None, None] * raw.dequantize()).sum(1).relu()
    assert expected.max() > 0
    close(fastcam.explain(model, images, "ablation_cam", 1, "body").native, expected)


def test_values_survive_the_exchange():
    model, images = static_net()
    raw = output_of(model, "body", images)
    again = quantised.in_type_of(raw, raw.dequantize())
    assert torch.equal(again.int_repr(), raw.int_repr())
    assert (again.q_scale(), again.q_zero_point()) == (raw.q_scale(), raw.q_zero_point())
    assert not quantised.in_type_of(raw, torch.zeros(raw.shape)).dequantize().any()
    per_channel = torch.quantize_per_channel(torch.rand(2, 3), torch.ones(3), torch.zeros(3), 1, torch.quint8)
    with pytest.raises(TypeError, match="an activation can be replaced in a quantised model if its layer has one"):
        quantised.in_type_of(per_channel, torch.zeros(2, 3))


@pytest.mark.parametrize(("method", "pooling"), [("cam", "mean"), ("gmp_cam", "max")])
def test_cam_with_the_weight_of_a_quantised_head(method, pooling):
    model, images = static_net(pooling)
    rows = model.classifier.weight().dequantize()[3]
    expected = torch.einsum("c,nchw->nhw", rows, output_of(model, "body", images).dequantize())
    assert expected.abs().max() > 0
    close(fastcam.explain(model, images, method, 3, "body", relu=False).native, expected)
    with pytest.raises(ValueError, match=r"follow target layer 'body\.0', and nothing else; this one has another head"):
        fastcam.explain(model, images, method, 3, "body.0")


def test_cam_with_a_dynamic_head():
    model, images = dynamic_net()
    rows = model.classifier.weight().dequantize()[3]
    expected = torch.einsum("c,nchw->nhw", rows, output_of(model, "relu", images))
    close(fastcam.explain(model, images, "cam", 3, "relu", relu=False).native, expected)
    with pytest.raises(ValueError, match="this one has another head"):
        fastcam.explain(model, images, "cam", 3, "features")


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("method", [each.name for each in list_methods()])
def test_every_method_answers(kind, method):
    model, images = NETS[kind][0]()
    if method in ("cam", "gmp_cam"):
        return
    if method in WITHOUT_GRADIENTS:
        found = fastcam.explain(model, images, method, 1, **OPTIONS.get(method, {}))
        assert found.native.isfinite().all()
        assert found.native.amax() > found.native.amin()
        return
    with pytest.raises(RuntimeError, match=r"^the model is quantised, and its quantised layers have no derivative"):
        fastcam.explain(model, images, method, 1)


@pytest.mark.parametrize("method", sorted(WITHOUT_GRADIENTS | {"cam"}))
def test_an_output_that_is_quantised_itself(method):
    """Without the last step to values, and in a mapping: the map is that of the values."""
    model, images = static_net()
    expected = fastcam.explain(model, images, method, [1, 2], **OPTIONS.get(method, {}))
    model.dequant = nn.Identity()
    assert model(images).is_quantized
    found = fastcam.explain(model, images, method, [1, 2], **OPTIONS.get(method, {}))
    assert torch.equal(found.native, expected.native)
    assert torch.equal(found.scores, expected.scores)
    model.dequant = Call(lambda logits: {"logits": logits, "more": [logits]})
    assert torch.equal(fastcam.explain(model, images, method, [1, 2], **OPTIONS.get(method, {})).native, found.native)


def test_the_layer_is_found_without_gradients():
    model, images = static_net()
    found = fastcam.explain(model, images, "score_cam", 1)
    assert found.layer == "body"
    assert torch.equal(found.native, fastcam.explain(model, images, "score_cam", 1, "body").native)
    assert any(
        note.startswith("the model is quantised: layer 'body' was chosen as the last one") for note in found.notes
    )
    assert not any("quantised" in note for note in fastcam.explain(conv_net(), images, "score_cam", 1).notes)


class Tokens(nn.Module):
    """Patches that are mixed by a linear layer, then a class from their mean."""

    def __init__(self):
        super().__init__()
        self.patches, self.mix, self.head = nn.Conv2d(3, 8, 2, stride=2), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).mT
        return self.head(self.mix(tokens).mean(1))


def test_tokens_are_not_found_without_gradients():
    torch.manual_seed(0)
    model = torch.ao.quantization.quantize_dynamic(Tokens().eval(), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(ValueError, match=r"a quantised model has no gradients.*pass target_layer=.*'mix' \(2, 30, 8\)"):
        fastcam.explain(model, images_for(), "eigen_cam")


def test_torchvision_resnet():
    models = pytest.importorskip("torchvision.models.quantization")
    torch.manual_seed(0)
    model = models.resnet18(weights=None, quantize=True)
    images = torch.rand(1, 3, 64, 64)
    raw = output_of(model, "layer4", images)
    assert raw.is_quantized
    found = fastcam.explain(model, images, "cam", 7, "layer4", relu=False)
    rows = model.fc.weight().dequantize()[7]
    close(found.native, torch.einsum("c,nchw->nhw", rows, raw.dequantize()))
    assert fastcam.explain(model, images, "eigen_cam").layer == "layer4"
