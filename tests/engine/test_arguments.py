"""Arguments beside the images, for every method: packed in any way, and never mixed up between copies."""

from typing import Any, NamedTuple

import captum.attr
import pytest
import torch
from torch import Tensor, nn

import fastcam
from tests.support.conv_net import conv_net, images_for
from tests.support.engine_cases import METHODS, cheap, explain

pytestmark = pytest.mark.usefixtures("one_thread")

METHODS = [name for name in METHODS if name not in ("cam", "gmp_cam")]  # those want another end of the network
PACKED = ("grad_cam", "saliency", "full_grad", "ablation_cam", "occlusion", "smooth_grad")  # of every kind one
FACTORS = torch.tensor([[0.5, 1.0, 2.0, 1.5, -1.0], [1.0, -2.0, 0.3, 0.7, 1.1], [2.0, 0.1, 1.2, -0.4, 0.9]])
CLASSES = [1, 4, 0]


class Packed(NamedTuple):
    factors: Tensor
    name: str


# How the factors of every image reach the model, and how it unpacks them.
PACKINGS: dict[str, tuple[Any, Any]] = {
    "tensor": ((FACTORS,), lambda others: others[0]),
    "list": (([FACTORS, "x"],), lambda others: others[0][0]),
    "dict": (({"factors": FACTORS, "flag": True},), lambda others: others[0]["factors"]),
    "named tuple": ((None, Packed(FACTORS, "x")), lambda others: others[1].factors),
    "deep": (({"a": [{"b": (FACTORS,)}]}, 3), lambda others: others[0]["a"][0]["b"][0]),
}


class Scaled(nn.Module):
    """Logits times each image's factors."""

    def __init__(self, unpack: Any) -> None:
        super().__init__()
        self.net, self.unpack = conv_net(), unpack

    def forward(self, images: Tensor, *others: Any) -> Tensor:
        factors = self.unpack(others)
        assert len(factors) == len(images)
        return self.net(images) * factors


@pytest.mark.parametrize(
    ("method", "packing"),
    [(method, "tensor") for method in METHODS] + [(m, p) for m in PACKED for p in PACKINGS if p != "tensor"],
)
def test_rows_stay_with_their_images(method, packing):
    """A logit's map times its factor, or for methods that compare scores, the map of that factor times the logit."""
    others, unpack = PACKINGS[packing]
    model, images = Scaled(unpack).double().eval(), images_for(count=3).double()
    found = explain(method, (images, *others), CLASSES, model, target_layer="net.features", batch_size=7)
    factors = FACTORS[torch.arange(3), CLASSES]
    alone = conv_net().double()

    def score(row: int) -> Any:
        return lambda output: output[:, CLASSES[row]] * factors[row]

    for row in range(3):
        settings = {"target_layer": "features"} if fastcam.get_method(method).has_layer else {}
        expected = fastcam.explain(alone, images[row : row + 1], method, score(row), **settings, **cheap(method))
        torch.testing.assert_close(found.native[row], expected.native[0], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("method", METHODS)
def test_both_branches_of_two(method):
    """The first argument is explained, the second moves with it; the other way round through a twin."""

    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = conv_net(), conv_net(dropout=0.5)

        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return self.left(left) + self.right(right).tanh()

    class Swapped(nn.Module):
        def __init__(self, twins: nn.Module) -> None:
            super().__init__()
            self.twins = twins

        def forward(self, right: Tensor, left: Tensor) -> Tensor:
            return self.twins(left, right)

    twins = Twins().double().eval()
    left, right = images_for(count=3).double(), images_for(count=3, seed=9).double()
    for model, inputs, layer in [
        (twins, (left, right), "left.features"),
        (Swapped(twins).eval(), (right, left), "twins.right.features"),
    ]:
        found = explain(method, inputs, CLASSES, model, target_layer=layer, batch_size=7)
        assert torch.equal(found.images, inputs[0])
        for row in range(3):
            one = tuple(each[row : row + 1] for each in inputs)
            alone = explain(method, one, [CLASSES[row]], model, target_layer=layer)
            torch.testing.assert_close(found.native[row], alone.native[0], rtol=1e-5, atol=1e-8)


def test_saliency_of_captum():
    model, images = Scaled(lambda others: others[0]).double().eval(), images_for(count=3).double()
    found = fastcam.explain(model, (images, FACTORS), "saliency", CLASSES)
    peer = captum.attr.Saliency(model)
    leaf = images.clone().requires_grad_()
    expected = peer.attribute(leaf, torch.tensor(CLASSES), abs=False, additional_forward_args=(FACTORS,))
    torch.testing.assert_close(found.attributions, expected)


@pytest.mark.parametrize("method", METHODS)
def test_arguments_of_inference_mode(method):
    model = Scaled(lambda others: others[0]["factors"]).eval()
    expected = explain(method, (images_for(), {"factors": FACTORS[:2]}), 1, model, target_layer="net.features")
    with torch.inference_mode():
        inputs = images_for(), {"factors": FACTORS[:2].clone()}
    found = explain(method, inputs, 1, model, target_layer="net.features")
    torch.testing.assert_close(found.native, expected.native, rtol=1e-4, atol=1e-6)


def test_the_layer_is_found_with_the_other_arguments():
    model = Scaled(lambda others: others[0]["factors"]).eval()
    assert fastcam.explain(model, (images_for(), {"factors": FACTORS[:2]})).layer == "net.relu"
