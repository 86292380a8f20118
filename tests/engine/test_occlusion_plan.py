"""What a sweep would compute: by hand for one layer, and layer by layer for real networks."""

import pytest
import torch
from torch import nn

import fastcam
from tests.support.networks import small_network, torchvision_network

pytestmark = pytest.mark.usefixtures("one_thread")


def test_one_convolution_by_hand(capsys):
    """A window of 4 x 4 changes 6 x 6 places behind a kernel of 3; 5 x 6 at a border, 5 x 5 in a corner."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 512, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 4)]
    model = nn.Sequential(*layers).eval()
    plan = fastcam.occlusion_plan(model, (24, 28), 4, 4)
    convolution, linear = plan.layers
    assert (convolution.module, convolution.operation, convolution.size) == ("0", "convolution", (24, 28))
    assert convolution.multiplications == 24 * 28 * 512 * 27
    assert plan.windows == 42
    least, most = (5 * 5 * 4 + 5 * 6 * 14 + 6 * 6 * 24) / 42, 36  # in one group each, or all in one
    assert least / (24 * 28) <= convolution.share <= most / (24 * 28) + 1e-9
    assert (linear.module, linear.share, linear.multiplications) == ("3", 1.0, 4 * 512)
    whole, part = convolution.multiplications, convolution.multiplications * convolution.share
    assert plan.limit == pytest.approx((whole + 4 * 512) / (part + 4 * 512))
    plan.show()
    shown = capsys.readouterr().out
    assert f"42 windows in {plan.groups} groups: {plan.limit:.2f} times fewer multiplications" in shown
    assert len(shown.splitlines()) == 3


def test_shares_grow_and_the_model_is_as_it_was():
    model = torchvision_network("resnet18")
    plan = fastcam.occlusion_plan(model, 224, 32, 16)
    shares = {each.module: each.share for each in plan.layers}
    assert shares["conv1"] < shares["layer1.1.conv2"] < shares["layer2.1.conv2"] < shares["layer3.1.conv2"] < 1
    assert shares["layer4.1.conv2"] == shares["fc"] == 1.0
    assert 2 < plan.limit < 3
    assert 2 < plan.gain < 3
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in model.modules())
    assert sum(each.multiplications for each in plan.layers) == pytest.approx(1.814e9, rel=1e-3)  # of ResNet-18


def test_reasons():
    assert "patches would make it 1.0" in str(fastcam.occlusion_plan(torchvision_network("vit_b_16"), 224, 32, 16))

    class Viewing(nn.Module):
        def forward(self, images):
            images = images * 1.0
            images[:, 0] = 0
            return images.flatten(1)[:, :7]

    plan = fastcam.occlusion_plan(Viewing().eval(), 32)
    assert "every window runs the whole model: the model writes into a view" in str(plan)
    assert plan.layers == ()


@pytest.mark.parametrize(
    ("size", "options", "text"),
    [
        (
            (24, 28, 3),
            {},
            r"`image_size` must be a side, \(height, width\) or images \(N, C, H, W\), got \(24, 28, 3\)",
        ),
        (torch.zeros(3, 9, 9), {}, r"images must have shape \(N, C, H, W\), got \(3, 9, 9\)"),
        (20, {"window": 30}, r"`window` must fit into images of size \(20, 20\), got \(30, 30\)"),
    ],
)
def test_bad_input(size, options, text):
    with pytest.raises(ValueError, match=text):
        fastcam.occlusion_plan(small_network("gap"), size, **options)
    with pytest.raises(ValueError, match="training mode"):
        fastcam.occlusion_plan(nn.Sequential(nn.Conv2d(3, 4, 3)).train(), 24)
