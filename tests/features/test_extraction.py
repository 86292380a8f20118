"""Feature vectors: the last hidden layer of real architectures, and the pooled maps and tokens of layers."""

import pytest
import torch
import torchvision
from torch import nn

from fastcam.features import Extractor
from tests.support.conv_net import conv_net

pytestmark = pytest.mark.usefixtures("one_thread")


def model_of(name):
    torch.manual_seed(0)
    return torchvision.models.get_model(name, weights=None, num_classes=7).eval()


# Where the last hidden layer of an architecture is, by hand: the module whose input it is.
HEADS = {
    "resnet18": "fc",
    "alexnet": "classifier.6",
    "vgg11": "classifier.6",
    "squeezenet1_1": "classifier.1",
    "densenet121": "classifier",
    "mobilenet_v3_small": "classifier.3",
    "efficientnet_b0": "classifier.1",
    "vit_b_32": "heads.head",
    "swin_t": "head",
    "convnext_tiny": "classifier.2",
    "shufflenet_v2_x0_5": "fc",
    "mnasnet0_5": "classifier.1",
}


@pytest.mark.parametrize("name", HEADS)
def test_the_last_hidden_layer(name):
    model, images = model_of(name), torch.rand(2, 3, 224, 224)
    seen = []
    handle = model.get_submodule(HEADS[name]).register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    with torch.no_grad():
        output = model(images)
    handle.remove()
    extractor = Extractor(model)
    vectors, found = extractor(images)
    expected = seen[0] if seen[0].dim() == 2 else seen[0].flatten(2).mean(2)
    torch.testing.assert_close(vectors, expected)
    torch.testing.assert_close(found, output)
    assert extractor.name == f"input of {HEADS[name]}"
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("pool", ["mean", "max", "none"])
def test_a_map(pool):
    model, images = conv_net().double(), torch.rand(3, 3, 16, 16, dtype=torch.float64)
    maps = model.features(model.stem(images)).detach()  # the ReLU behind it works in place
    expected = {"mean": maps.mean((2, 3)), "max": maps.amax((2, 3)), "none": maps.flatten(1)}[pool]
    for layer in ("features", model.features):
        vectors, _ = Extractor(model, layer, pool)(images)
        torch.testing.assert_close(vectors, expected, rtol=1e-12, atol=1e-12)
        assert vectors.dtype == torch.float64


def test_one_pass_a_batch():
    """Only the first batch asks the model what the layer's output is."""
    model, passes = conv_net(), []
    handle = model.register_forward_hook(lambda module, given, output: passes.append(len(given[0])))
    for extractor in (Extractor(model, "features"), Extractor(model)):
        extractor(torch.rand(3, 3, 16, 16))
        passes.clear()
        extractor(torch.rand(3, 3, 16, 16))
        assert passes == [3]
    handle.remove()


def test_tokens_without_the_class_token():
    model, images = model_of("vit_b_32"), torch.rand(2, 3, 224, 224)
    layer = "encoder.layers.encoder_layer_11"
    tokens = []
    handle = model.get_submodule(layer).register_forward_hook(lambda module, given, output: tokens.append(output))
    model(images)
    handle.remove()
    vectors, _ = Extractor(model, layer)(images)
    torch.testing.assert_close(vectors, tokens[0][:, 1:].mean(1), rtol=1e-5, atol=1e-5)


def test_half_precision_is_averaged_in_single():
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False)).to(torch.bfloat16)
    images = torch.rand(1, 1, 64, 64).to(torch.bfloat16)
    vectors, _ = Extractor(model, "0")(images)
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors, model(images).detach().double().mean((2, 3)).float(), rtol=1e-5, atol=1e-6)


class Late(nn.Module):
    """A softmax behind the last linear layer, and an auxiliary head that runs after it."""

    def __init__(self):
        super().__init__()
        self.main, self.other = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, images):
        hidden = images.flatten(1)[:, :8]
        output = self.main(hidden)
        self.other(hidden + 1)
        return output


def test_the_head_is_the_one_whose_output_is_the_models():
    images = torch.rand(2, 3, 4, 4)
    extractor = Extractor(Late())
    vectors, _ = extractor(images)
    torch.testing.assert_close(vectors, images.flatten(1)[:, :8])
    assert extractor.name == "input of main"


def test_mistakes():
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(ValueError, match="no linear layer whose input could be its last hidden layer: name a layer"):
        Extractor(model)(torch.rand(1, 3, 8, 8))
    with pytest.raises(ValueError, match="no layer named 'fc'"):
        Extractor(model, "fc")
    with pytest.raises(ValueError, match="`pool` must be one of mean, max, none, got 'sum'"):
        Extractor(model, "0", "sum")
    with pytest.raises(TypeError, match="TorchScript"):
        Extractor(torch.jit.script(model))
