"""FullGrad: its map against the formula, and the score taken apart completely."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastcam
from tests.support.conv_net import conv_net, images_for
from tests.support.networks import in_double, small_images, small_network, torchvision_network

pytestmark = pytest.mark.usefixtures("one_thread")


def biases_and_gradients(model: nn.Module, images: Tensor, target: int) -> tuple[dict[str, Tensor], Tensor]:
    """By layer, bias times dy/d(output) (N, C, *S), the batch norms' statistics counted in; and x dy/dx."""
    kept: dict[str, tuple[Tensor, Tensor]] = {}

    def hook(name: str):
        def keep(module, arguments, output):
            zero = torch.zeros_like(output).requires_grad_()  # its gradient is that of the output
            kept[name] = (constant(module, arguments[0]), zero)
            return output + zero

        return keep

    named = [(n, m) for n, m in model.named_modules() if getattr(m, "bias", None) is not None]
    handles = [module.register_forward_hook(hook(name)) for name, module in named]
    leaf = images.clone().requires_grad_()
    score = model(leaf)[:, target].sum()
    for handle in handles:
        handle.remove()
    gradients = torch.autograd.grad(score, [leaf, *(zero for _, zero in kept.values())])
    products = {}
    for (name, (bias, _)), gradient in zip(kept.items(), gradients[1:], strict=True):
        products[name] = bias * gradient
    return products, leaf.detach() * gradients[0]


def constant(module: nn.Module, x: Tensor) -> Tensor:
    """What the layer says of zeros: its bias, explicit and implicit, at every position."""
    with torch.no_grad():
        return module.forward(torch.zeros_like(x))


def psi(product: Tensor, size: torch.Size, rescale: str) -> Tensor:
    """|.|, scaled to [0, 1] by sample or by channel, every channel upsampled apart, and their sum."""
    product = product.abs()
    axes = [1, 2, 3] if rescale == "sample" else [2, 3]
    low, high = product.amin(axes, keepdim=True), product.amax(axes, keepdim=True)
    scaled = torch.where(high > low, (product - low) / (high - low), 0)
    return F.interpolate(scaled, size, mode="bilinear", align_corners=False).sum(1)


@pytest.mark.parametrize("rescale", ["sample", "channel"])
def test_map(rescale):
    model, images = in_double(conv_net()), images_for().double()
    products, input_term = biases_and_gradients(in_double(conv_net(inplace=False)), images, 1)
    spatial = [each for each in products.values() if each.dim() == 4]
    assert len(spatial) == 4  # two convolutions, two batch norms
    expected = sum(psi(each, images.shape[2:], rescale) for each in [input_term, *spatial])
    explanation = fastcam.explain(model, images, "full_grad", 1, rescale=rescale)
    torch.testing.assert_close(explanation.raw, expected, rtol=1e-8, atol=1e-10)


def test_terms():
    model, images = in_double(conv_net()), images_for().double()
    products, input_term = biases_and_gradients(in_double(conv_net(inplace=False)), images, 1)
    details = fastcam.explain(model, images, "full_grad", 1).details
    torch.testing.assert_close(details["input_term"], input_term.flatten(1).sum(1))
    assert set(details["bias_terms"]) == set(products)
    for name, product in products.items():
        torch.testing.assert_close(details["bias_terms"][name], product.flatten(1).sum(1))


@pytest.mark.parametrize("name", ["alexnet", "resnet18", "densenet121", "googlenet", "squeezenet1_1"])
def test_completeness_of_networks(name):
    """The input's share and those of the biases make the score, to rounding in float64."""
    model, images = in_double(torchvision_network(name)), torch.randn(1, 3, 64, 64, dtype=torch.float64)
    explanation = fastcam.explain(model, images, "full_grad", 3)
    whole = explanation.details["input_term"] + sum(explanation.details["bias_terms"].values())
    torch.testing.assert_close(whole, explanation.scores, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(explanation.scores, model(images)[:, 3].detach())
    assert explanation.details["completeness_gap"].abs().max() <= 1e-9 * explanation.scores.abs().max() + 1e-9
    assert explanation.details["input_term"].abs().max() > 0


def test_the_gap_is_told_where_the_network_is_not_piecewise_linear():
    model, images = in_double(small_network("mlp")), small_images().double()  # a tanh in its head
    explanation = fastcam.explain(model, images, "full_grad", 1)
    whole = explanation.details["input_term"] + sum(explanation.details["bias_terms"].values())
    gap = explanation.details["completeness_gap"]
    torch.testing.assert_close(gap, whole - explanation.scores)
    assert gap.abs().min() > 1e-3


def test_several_targets_are_the_single_ones():
    model, images, targets = conv_net(), images_for(), [[0, 4, 2], [1, 1, 3]]
    together = fastcam.explain(model, images, "full_grad", targets)
    for k in range(3):
        alone = fastcam.explain(model, images, "full_grad", [row[k] for row in targets])
        torch.testing.assert_close(together.raw[:, k], alone.raw)
        for name in ("input_term", "completeness_gap"):
            torch.testing.assert_close(together.details[name][:, k], alone.details[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("axes", [1, 3])
def test_signals_and_volumes(axes):
    explanation = fastcam.explain(conv_net(axes=axes), images_for(axes), "full_grad", 1)
    assert explanation.raw.shape == (2, *images_for(axes).shape[2:])
    assert explanation.details["completeness_gap"].abs().max() < 1e-5


def test_unknown_rescaling():
    with pytest.raises(ValueError, match='`rescale` must be "sample" or "channel", got \'layer\''):
        fastcam.explain(conv_net(), images_for(), "full_grad", rescale="layer")
