"""One scale for all maps: what is normal looks normal, in maps, pictures and masks, of one size or several."""

import pytest
import torch

import fastcam
from tests.support.conv_net import conv_net, images_for

pytestmark = pytest.mark.usefixtures("one_thread")


def explain(images, **options):
    return fastcam.explain(conv_net().double(), images, "hires_cam", 1, "features", relu=False, **options)


def test_the_scale_of_normal_images():
    maps = torch.randn(200, 5, 6, generator=torch.Generator().manual_seed(0)).double()
    scale = fastcam.Scale.fit(maps.split(33), 0.9)
    assert scale.low == maps.min()
    assert scale.threshold == pytest.approx(maps.flatten(1).amax(1).quantile(0.9).item())
    shown = scale(maps)
    assert (shown.flatten(1).amax(1) <= 0.5).double().mean().item() == pytest.approx(0.9, abs=0.01)
    torch.testing.assert_close(
        scale(torch.tensor([scale.low, scale.threshold]).double()), torch.tensor([0.0, 0.5]).double()
    )
    assert scale(torch.tensor([2 * scale.threshold - scale.low + 1, scale.low - 1])).tolist() == [1, 0]
    assert torch.equal(scale.exceeds(maps), maps > scale.threshold)
    assert scale(torch.tensor([float("nan")])).isnan().all()


def test_explanations_with_a_scale():
    images = images_for(count=3).double()
    plain = explain(images)
    scale = fastcam.Scale.fit([plain.raw[:2]])
    found = plain.with_scale(scale)
    torch.testing.assert_close(found.maps, scale(plain.raw))
    out = torch.empty_like(found.maps)
    plain.with_scale(scale).write_maps(out)
    torch.testing.assert_close(out, found.maps)
    assert (plain.maps.flatten(1).amax(1) == 1).all()  # each on its own
    assert found.with_scale(None).scale is None
    drawn = found.overlay(torch.zeros(3, *images.shape[2:], 3).byte().numpy(), colormap="gray", alpha=1.0)
    assert drawn.max(axis=(1, 2, 3)).tolist() == pytest.approx((255 * found.maps.flatten(1).amax(1)).tolist(), abs=1)


def test_images_of_several_sizes():
    images = [
        images_for(count=1).double()[0],
        torch.randn(3, 16, 14, generator=torch.Generator().manual_seed(0)).double(),
    ]
    plain = explain(images)
    scale = fastcam.Scale(-1.0, 2.0)
    found = plain.with_scale(scale)
    for row, part in enumerate(plain.parts):
        height, width = part.size
        torch.testing.assert_close(found.maps[row, :height, :width], scale(part.raw)[0])


def test_several_targets():
    plain = fastcam.explain(conv_net().double(), images_for().double(), "hires_cam", [[0, 1], [2, 3]], "features")
    scale = fastcam.Scale(0.0, float(plain.raw.max()))
    torch.testing.assert_close(plain.with_scale(scale).maps, plain.raw / (2 * scale.threshold))


@pytest.mark.parametrize(
    ("maps", "share", "told"),
    [
        ([], 0.9, "no maps of normal images"),
        ([torch.full((1, 2, 2), float("inf"))], 0.9, "not finite"),
        ([torch.zeros(2, 2, 2)], 0.9, "`threshold` must be larger than `low`"),
        ([torch.rand(2, 2, 2)], 0.0, "`share` must lie"),
    ],
)
def test_mistakes(maps, share, told):
    with pytest.raises(ValueError, match=told):
        fastcam.Scale.fit(maps, share)
