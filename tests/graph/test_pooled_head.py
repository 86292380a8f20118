"""Which heads are recognised from the recorded graph, with which weight, and which are not."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastcam.graph import pooled_head
from fastcam.model.capture import Layer, forward
from tests.support.conv_net import Call
from tests.support.networks import SmallNetwork, photographs, small_images, timm_network, torchvision_network

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES, CHANNELS = 5, 6
HEIGHT, WIDTH = 9, 11


def recognize(model: nn.Module, layer: str, images: Tensor) -> pooled_head.Head | None:
    captured = forward(model, images, [Layer(layer, model.get_submodule(layer))], with_graph=True)
    with torch.enable_grad():
        return pooled_head.recognize(captured.output, captured.activations[0])


def small(*modules: nn.Module) -> SmallNetwork:
    return SmallNetwork(nn.Sequential(*modules)).eval()


def linear(bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(CHANNELS, CLASSES, bias=bias)


def pointwise() -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(CHANNELS, CLASSES, 1)


def weight_of(model: nn.Module) -> Tensor:
    last = [module for module in model.head.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
    return last.weight.flatten(1)


AVERAGE = {
    "AdaptiveAvgPool2d, Flatten": lambda: small(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear()),
    "AdaptiveAvgPool2d((1, 1))": lambda: small(nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), linear()),
    "x.mean((2, 3))": lambda: small(Call(lambda x: x.mean((2, 3))), linear()),
    "x.mean([-2, -1])": lambda: small(Call(lambda x: x.mean([-2, -1])), linear()),
    "x.mean((2, 3), keepdim=True)": lambda: small(Call(lambda x: x.mean((2, 3), keepdim=True)), nn.Flatten(), linear()),
    "x.flatten(2).mean(-1)": lambda: small(Call(lambda x: x.flatten(2).mean(-1)), linear()),
    "x.flatten(2).mean(2)": lambda: small(Call(lambda x: x.flatten(2).mean(2)), linear()),
    "x.view(n, c, -1).mean(-1)": lambda: small(Call(lambda x: x.view(len(x), CHANNELS, -1).mean(-1)), linear()),
    "F.adaptive_avg_pool2d, view": lambda: small(
        Call(lambda x: F.adaptive_avg_pool2d(x, 1).view(len(x), -1)), linear()
    ),
    "F.adaptive_avg_pool2d, [:, :, 0, 0] by squeeze": lambda: small(
        Call(lambda x: F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1)), linear()
    ),
    "AvgPool2d of the whole": lambda: small(nn.AvgPool2d((HEIGHT, WIDTH)), nn.Flatten(), linear()),
    "no bias": lambda: small(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(bias=False)),
    "dropout in evaluation mode": lambda: small(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), linear()),
    "identity modules": lambda: small(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Identity(), linear()),
    "1x1 convolution, pooling": lambda: small(pointwise(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    "pooling, 1x1 convolution": lambda: small(nn.AdaptiveAvgPool2d(1), pointwise(), nn.Flatten()),
    "1x1 convolution, x.mean((2, 3))": lambda: small(pointwise(), Call(lambda x: x.mean((2, 3)))),
}
MAXIMUM = {
    "AdaptiveMaxPool2d, Flatten": lambda: small(nn.AdaptiveMaxPool2d(1), nn.Flatten(), linear()),
    "x.amax((2, 3))": lambda: small(Call(lambda x: x.amax((2, 3))), linear()),
    "x.flatten(2).amax(-1)": lambda: small(Call(lambda x: x.flatten(2).amax(-1)), linear()),
    "MaxPool2d of the whole": lambda: small(nn.MaxPool2d((HEIGHT, WIDTH)), nn.Flatten(), linear()),
    "F.adaptive_max_pool2d, no bias": lambda: small(
        Call(lambda x: F.adaptive_max_pool2d(x, 1).flatten(1)), linear(bias=False)
    ),
    "max pooling, 1x1 convolution": lambda: small(nn.AdaptiveMaxPool2d(1), pointwise(), nn.Flatten()),
}


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("written", AVERAGE)
def test_average_pooling_and_a_linear_layer(written, layout, count):
    if layout == torch.channels_last and ".view" in written and "adaptive" not in written:
        pytest.skip("view() of channels_last memory is an error of the model's own")
    model = AVERAGE[written]().to(memory_format=layout)
    found = recognize(model, "body", small_images(count=count).contiguous(memory_format=layout))
    assert found is not None
    assert found.pooling == "mean"
    assert torch.equal(found.weight, weight_of(model))
    assert not found.weight.requires_grad


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("written", MAXIMUM)
def test_max_pooling_and_a_linear_layer(written, layout, count):
    model = MAXIMUM[written]().to(memory_format=layout)
    found = recognize(model, "body", small_images(count=count).contiguous(memory_format=layout))
    assert found is not None
    assert found.pooling == "max"
    assert torch.equal(found.weight, weight_of(model))


class TwoPoolings(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * CHANNELS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1))


class BiasFromActivations(nn.Module):
    """logits = max pooling + W mean pooling, in one addmm whose bias depends on the activations."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(CHANNELS, CHANNELS))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(x.amax((2, 3)), x.mean((2, 3)), self.weight)


class WeightFromActivations(nn.Module):
    """logits = pooled (pooled^T pooled): a weight that depends on the activations."""

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3))
        return pooled @ (pooled.T @ pooled)


class SumOfPoolings(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(CHANNELS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.mean((2, 3)) + x.amax((2, 3)))


OTHERS = {
    "ReLU between": lambda: small(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.ReLU(), linear()),
    "ReLU before the pooling": lambda: small(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear()),
    "ReLU after the classifier": lambda: small(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(), nn.ReLU()),
    "softmax": lambda: small(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(), nn.Softmax(1)),
    "normalisation between": lambda: small(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(CHANNELS), linear()),
    "logits times two": lambda: small(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(), Call(lambda y: 2 * y)),
    "some of the logits": lambda: small(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(), Call(lambda y: y[:, :3])),
    "two linear layers": lambda: small(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, CHANNELS), nn.Linear(CHANNELS, CLASSES)
    ),
    "1x1 convolution and linear": lambda: small(
        nn.Conv2d(CHANNELS, CHANNELS, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear()
    ),
    "1x1 convolution before max pooling": lambda: small(pointwise(), nn.AdaptiveMaxPool2d(1), nn.Flatten()),
    "3x3 convolution": lambda: small(nn.Conv2d(CHANNELS, CLASSES, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    "1x1 convolution with stride": lambda: small(
        nn.Conv2d(CHANNELS, CLASSES, 1, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ),
    "1x1 convolution with padding": lambda: small(
        nn.Conv2d(CHANNELS, CLASSES, 1, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ),
    "1x1 convolution in groups": lambda: small(
        nn.Conv2d(CHANNELS, CHANNELS, 1, groups=2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ),
    "mean over one axis": lambda: small(Call(lambda x: x[..., :1].mean((2, 3))), linear()),
    "mean over the channels": lambda: small(Call(lambda x: x.mean(1).flatten(1)), nn.Linear(HEIGHT * WIDTH, CLASSES)),
    "mean over the images too": lambda: small(
        Call(lambda x: x.mean((0, 2, 3), keepdim=True).flatten(1).expand(len(x), -1)), linear()
    ),
    "square pooling of a part": lambda: small(
        Call(lambda x: F.adaptive_avg_pool2d(x[:, :, :6, :6], 1)), nn.Flatten(), linear()
    ),
    "AdaptiveAvgPool2d(2)": lambda: small(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * CHANNELS, CLASSES)),
    "AvgPool2d of a part": lambda: small(nn.AvgPool2d(8, stride=8), nn.Flatten(), linear()),
    "padded AvgPool2d": lambda: small(nn.AvgPool2d((HEIGHT, WIDTH), padding=4, stride=99), nn.Flatten(), linear()),
    "AvgPool2d with another divisor": lambda: small(
        nn.AvgPool2d((HEIGHT, WIDTH), divisor_override=7), nn.Flatten(), linear()
    ),
    "sum of the positions": lambda: small(Call(lambda x: x.sum((2, 3))), linear()),
    "Flatten without pooling": lambda: small(nn.Flatten(), nn.Linear(CHANNELS * HEIGHT * WIDTH, CLASSES)),
    "mean and maximum side by side": lambda: small(TwoPoolings()),
    "mean and maximum added": lambda: small(SumOfPoolings()),
    "a bias that depends on the activations": lambda: small(BiasFromActivations()),
    "a weight that depends on the activations": lambda: small(WeightFromActivations()),
}


@pytest.mark.parametrize("written", OTHERS)
def test_anything_else_is_not_recognised(written):
    torch.manual_seed(0)
    assert recognize(OTHERS[written](), "body", small_images()) is None


def test_dropout_in_training_mode_is_not_recognised():
    model = small(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), linear())
    model.head[2].train()
    assert recognize(model, "body", small_images()) is None


def test_a_permutation_that_keeps_the_shape_is_not_recognised():
    """Channels and rows exchanged, 6 of each: every shape looks like global average pooling."""
    model = small(Call(lambda x: x.transpose(1, 2)), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear())
    assert recognize(model, "body", torch.randn(2, 3, CHANNELS, 7)) is None


def test_pooling_windows_of_regrouped_positions_are_not_recognised():
    """(N, 8, 4, 4) seen as (N, 2, 8, 8) and pooled by 4 x 4: (N, 8) again, but of other groups of values."""
    regroup = Call(lambda x: x.view(len(x), 2, 8, 8))
    model = SmallNetwork(
        nn.Sequential(regroup, nn.AvgPool2d(4), nn.Flatten(), nn.Linear(8, CLASSES)), channels=8
    ).eval()
    assert recognize(model, "body", torch.randn(2, 3, 4, 4)) is None


def test_a_layer_before_the_last_is_not_followed_by_the_head_alone():
    model = small(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear())
    assert recognize(model, "body.1", small_images()) is None
    assert recognize(model, "body.3", small_images()) is not None


@pytest.mark.parametrize("output", [None, (1, 2), torch.zeros(2, 3, 4)], ids=["None", "tuple", "three axes"])
def test_other_outputs_are_not_recognised(output):
    assert pooled_head.recognize(output, torch.zeros(2, 3, 4, 4, requires_grad=True)) is None


NETWORKS = [
    (torchvision_network, "resnet18", "layer4", "fc"),
    (torchvision_network, "mobilenet_v2", "features", "classifier.1"),
    (torchvision_network, "efficientnet_b0", "features", "classifier.1"),
    (torchvision_network, "swin_t", "permute", "head"),
    (timm_network, "resnet18", "layer4", "fc"),
    (timm_network, "efficientnet_lite0", "bn2", "classifier"),
]


@pytest.mark.parametrize(
    ("build", "name", "layer", "classifier"), NETWORKS, ids=[f"{b.__name__}-{n}" for b, n, *_ in NETWORKS]
)
def test_real_networks(build, name, layer, classifier):
    model = build(name)
    found = recognize(model, layer, photographs()[:1])
    assert found is not None
    assert found.pooling == "mean"
    assert torch.equal(found.weight, model.get_submodule(classifier).weight)


@pytest.mark.parametrize(
    ("name", "layer"), [("vgg11", "features"), ("densenet121", "features"), ("convnext_tiny", "features")]
)
def test_real_networks_with_more_behind_their_features(name, layer):
    assert recognize(torchvision_network(name), layer, photographs()[:1]) is None
