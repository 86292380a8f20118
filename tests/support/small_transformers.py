"""The vision transformers of torchvision and timm with two blocks, for images of 64 x 64."""

from functools import cache

import timm
import torch
import torchvision
from torch import nn

_SWIN = {"embed_dim": 16, "num_heads": [1, 2]}
_BUILDERS = {
    "torchvision_vit": lambda: torchvision.models.VisionTransformer(
        image_size=64, patch_size=16, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64
    ),
    "torchvision_swin": lambda: torchvision.models.SwinTransformer(
        patch_size=[4, 4], depths=[1, 1], window_size=[4, 4], **_SWIN
    ),
    "timm_vit": lambda: timm.create_model("vit_tiny_patch16_224", img_size=64, embed_dim=48, depth=2),
    "timm_swin": lambda: timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=64, window_size=4, depths=(1, 1), **_SWIN
    ),
}


@cache
def build(name: str) -> nn.Module:
    """A seeded network whose head is not zero, as it is at torchvision's start."""
    torch.manual_seed(0)
    model = _BUILDERS[name]().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear) and not module.weight.any():
                module.weight.normal_(0, module.in_features**-0.5)
    return model
