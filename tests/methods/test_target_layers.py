"""Which layer is found without being named, and tokens as maps."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastcam
from tests.support import small_transformers
from tests.support.conv_net import Call
from tests.support.networks import (
    efficientnet_lite0,
    photographs,
    small_images,
    small_network,
    timm_network,
    torchvision_network,
)
from tests.support.tiers import slow

pytestmark = pytest.mark.usefixtures("one_thread")

TORCHVISION = {
    "resnet18": "layer4",
    "vgg11": "features",
    "mobilenet_v2": "features",
    "efficientnet_b0": "features",
    "densenet121": "features",
    "convnext_tiny": "features",
    "swin_t": "permute",  # its last module with the channels in front
}
TIMM = {
    "resnet18": "layer4",
    "mobilenetv3_small_100": "blocks",
    "convnext_atto": "stages",
    "efficientnet_lite0": "bn2",
}


@pytest.mark.parametrize(("name", "layer"), TORCHVISION.items(), ids=TORCHVISION)
def test_torchvision(name, layer):
    explanation = fastcam.explain(torchvision_network(name), photographs()[:1])
    assert explanation.layer == layer
    assert explanation.native.shape == (1, 7, 7)
    assert explanation.status == ["ok"]


@pytest.mark.parametrize(("name", "layer"), TIMM.items(), ids=TIMM)
def test_timm(name, layer):
    explanation = fastcam.explain(timm_network(name), photographs()[:1])
    assert explanation.layer == layer
    assert explanation.native.shape == (1, 7, 7)
    assert explanation.status == ["ok"]


def test_efficientnet_lite0_with_real_weights():
    explanation = fastcam.explain(efficientnet_lite0(), photographs())
    assert explanation.layer == "_swish"
    assert explanation.targets.tolist() == [282, 967]  # tiger cat, espresso
    assert explanation.status == ["ok", "ok"]


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("head", ["gap", "gmp"])
def test_small_networks_of_every_dimension(head, axes):
    assert fastcam.explain(small_network(head, axes), small_images(axes)).layer == "body"


@pytest.mark.parametrize(
    ("build", "name", "layer", "side"),
    [
        (small_transformers.build, "torchvision_vit", "encoder.layers.encoder_layer_1.ln_1", 4),
        (small_transformers.build, "timm_vit", "blocks.1.norm1", 4),
        (small_transformers.build, "timm_swin", "norm", 8),  # (N, h, w, C) is no (N, C, h, w)
        *slow(
            (torchvision_network, "vit_b_16", "encoder.layers.encoder_layer_11.ln_1", 14),
            (timm_network, "vit_tiny_patch16_224", "blocks.11.norm1", 14),
            (timm_network, "swin_tiny_patch4_window7_224", "norm", 7),
        ),
    ],
)
def test_networks_of_tokens(build, name, layer, side):
    """With a class token the norm in front of the last attention, otherwise the last norm."""
    model, images = build(name), images_of(side)
    found = fastcam.explain(model, images, target=3, relu=False, strict=True)
    assert found.layer == layer
    expected = tokens_by_hand(model, images, layer, 3, side)
    assert (found.native - expected).abs().max() <= 1e-5 * (expected.max() - expected.min())


def test_channels_behind_are_noticed_in_wide_images_too():
    """(N, 11, 11, 8) from a layer norm over the 8 channels, of images 11 wide, as Swin gives for very large ones."""
    behind, mean = Call(lambda x: x.movedim(1, -1)), Call(lambda x: x.mean((1, 2)))
    model = nn.Sequential(nn.Conv2d(3, 8, 1), behind, nn.LayerNorm(8), mean, nn.Linear(8, 5)).eval()
    images = torch.randn(2, 3, 11, 11)
    found = fastcam.explain(model, images, target=3, relu=False, strict=True)
    assert found.layer == "2"
    gradients = model[4].weight[3] / 121  # of the mean over the positions, at every one of them
    torch.testing.assert_close(found.native, (model[:3](images) @ gradients).detach())


def tokens_by_hand(model: nn.Module, images: Tensor, layer: str, target: int, side: int) -> Tensor:
    """Grad-CAM (1, side, side): of token t = prefix + side * i + j, at (i, j) it is sum_c (mean_t' G_t'c) A_tc."""
    kept = []
    handle = model.get_submodule(layer).register_forward_hook(lambda module, arguments, output: kept.append(output))
    score = model(images)[0, target]
    handle.remove()
    A, G = (
        each.detach().reshape(-1, each.shape[-1])[-side * side :]
        for each in (kept[0], *torch.autograd.grad(score, kept[0]))
    )
    return (A @ G.mean(0)).reshape(1, side, side)


def images_of(side: int) -> Tensor:
    """A photograph of the size that gives so many positions: the small networks take 64 x 64."""
    return photographs()[:1] if side in (7, 14) else F.interpolate(photographs()[:1], (64, 64), mode="bilinear")


SMALL_TOKENS = [
    (small_transformers.build, "torchvision_vit", "encoder.layers.encoder_layer_1.ln_1", fastcam.vit_reshape, 4),
    (small_transformers.build, "timm_vit", "blocks.1.norm1", fastcam.vit_reshape, 4),
    (small_transformers.build, "torchvision_swin", "features.3.0.norm1", fastcam.swin_reshape, 8),
    (small_transformers.build, "timm_swin", "layers.1.blocks.0.norm1", fastcam.swin_reshape, 8),
]
TOKENS = [
    (torchvision_network, "vit_b_16", "encoder.layers.encoder_layer_11.ln_1", fastcam.vit_reshape, 14),
    (timm_network, "vit_tiny_patch16_224", "blocks.11.norm1", fastcam.vit_reshape, 14),
    (torchvision_network, "swin_t", "features.7.1.norm1", fastcam.swin_reshape, 7),
    (timm_network, "swin_tiny_patch4_window7_224", "layers.3.blocks.1.norm1", fastcam.swin_reshape, 7),
]


@pytest.mark.parametrize(
    ("build", "name", "layer", "reshape", "side"),
    [*SMALL_TOKENS, *slow(*TOKENS)],
    ids=[f"{b.__name__}-{n}" for b, n, *_ in SMALL_TOKENS + TOKENS],
)
def test_reshaped_tokens_of_real_networks(build, name, layer, reshape, side):
    """A ready transform, the same as a function of one's own, and none give one map."""
    model, images = build(name), images_of(side)
    truth = tokens_by_hand(model, images, layer, 3, side)
    for transform in (reshape, lambda tokens: reshape(tokens), None):
        maps = fastcam.explain(model, images, "grad_cam", 3, layer, relu=False, reshape_transform=transform).native
        assert (maps - truth).abs().max() <= 1e-5 * (truth.max() - truth.min())


def test_reshaped_tokens_with_k_targets_are_those_of_each_target():
    model, images = timm_network("vit_tiny_patch16_224"), photographs()
    methods = [method.name for method in fastcam.list_methods() if "gradients" in method.needs]
    explainer = fastcam.Explainer(model, methods, "blocks.11.norm1", relu=False, reshape_transform=fastcam.vit_reshape)
    together = explainer(images, [[3, 8], [1, 5]])
    for k, classes in enumerate([[3, 1], [8, 5]]):
        alone = explainer(images, classes)
        for name in set(methods) - {"grad_cam_pp", "xgrad_cam"}:  # whose quotients magnify the rounding of sums near 0
            difference = (together[name].native[:, k] - alone[name].native).abs().max()
            assert difference <= 1e-4 * alone[name].native.abs().max(), name


def numbered(*shape: int) -> Tensor:
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_vit_reshape_moves_token_prefix_plus_3i_plus_j_to_row_i_column_j(prefix):
    tokens = numbered(2, prefix + 9, 4)
    maps = fastcam.vit_reshape(tokens)
    assert maps.shape == (2, 4, 3, 3)
    for i in range(3):
        for j in range(3):
            assert torch.equal(maps[:, :, i, j], tokens[:, prefix + 3 * i + j])


def test_vit_reshape_of_patches_that_are_not_square():
    tokens = numbered(2, 1 + 6, 4)
    for maps in (fastcam.vit_reshape(tokens, grid=(2, 3)), fastcam.vit_reshape(tokens, prefix=1, grid=(2, 3))):
        assert torch.equal(maps[:, :, 1, 2], tokens[:, 1 + 3 * 1 + 2])
        assert torch.equal(maps[:, :, 0, 1], tokens[:, 1 + 1])


def test_swin_reshape_moves_the_channels_to_the_front():
    features = numbered(2, 3, 5, 4)
    maps = fastcam.swin_reshape(features)
    assert maps.shape == (2, 4, 3, 5)
    assert torch.equal(maps[1, 2], features[1, :, :, 2])
    flat = numbered(2, 9, 4)
    assert torch.equal(fastcam.swin_reshape(flat)[:, :, 2, 1], flat[:, 3 * 2 + 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fastcam.vit_reshape(torch.zeros(2, 3, 3, 4)), r"needs tokens of shape \(N, T, C\)"),
        (lambda: fastcam.vit_reshape(torch.zeros(2, 8, 4), prefix=1), "8 tokens less 1 do not fill a grid of 2 x 2"),
        (lambda: fastcam.vit_reshape(torch.zeros(2, 8, 4), prefix=1, grid=(2, 3)), "do not fill a grid of 2 x 3"),
        (lambda: fastcam.swin_reshape(torch.zeros(2, 8, 4)), "8 tokens less 0 do not fill"),
        (lambda: fastcam.swin_reshape(torch.zeros(2, 8)), r"needs shape \(N, h, w, C\) or \(N, h \* w, C\)"),
    ],
)
def test_tokens_that_fill_no_grid_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_layers_by_module_by_name_and_none_are_one():
    model, images = small_network("gap"), small_images()
    maps = [fastcam.explain(model, images, target_layer=layer).native for layer in (model.body, "body", None)]
    assert torch.equal(maps[0], maps[1])
    assert torch.equal(maps[0], maps[2])


def test_a_model_without_a_spatial_map_says_so():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 9 * 11, 5))
    with pytest.raises(ValueError, match=r"no layer of Sequential with a map of the image \(9 x 11\) was found"):
        fastcam.explain(model.eval(), small_images())
