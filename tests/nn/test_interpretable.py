"""The interpretable convolution against the paper's formulas, written out one by one in float64."""

import copy
import math

import pytest
import torch
from torch import nn

import fastcam
from fastcam.nn import InterpretableConv2d, filter_loss, filter_losses, location_instability

pytestmark = pytest.mark.usefixtures("one_thread")


def template(size, place, beta=4.0):
    """max(1 - beta |p - m|_1 / n, -1), position by position."""
    n = max(size)
    return [
        [max(1 - beta * (abs(i - place[0]) + abs(j - place[1])) / n, -1) for j in range(size[1])]
        for i in range(size[0])
    ]


@pytest.mark.parametrize("size", [(5, 5), (3, 6)])
def test_forward(size):
    torch.manual_seed(0)
    layer = InterpretableConv2d(2, 3, 3, padding=1).double()
    images = torch.randn(2, 2, *size, dtype=torch.float64)
    plain = torch.relu(nn.functional.conv2d(images, layer.weight, layer.bias, padding=1))
    found = layer(images)
    for n in range(2):
        for c in range(3):
            place = divmod(int(plain[n, c].argmax()), size[1])
            expected = torch.relu(plain[n, c] * torch.tensor(template(size, place), dtype=torch.float64))
            torch.testing.assert_close(found[n, c], expected, rtol=1e-12, atol=0)
            assert found[n, c].max() == plain[n, c].max()
    assert "beta=4.0" in repr(layer)
    with pytest.raises(ValueError, match="`beta` must be positive, got 0"):
        InterpretableConv2d(2, 3, 3, beta=0)


def loss_by_hand(x, size, beta):
    """-sum_T p(T) sum_x p(x|T) log(p(x|T) / p(x)) of one filter's maps (N, h, w)."""
    tau = 0.5 / max(size) ** 2
    places = [(i, j) for i in range(size[0]) for j in range(size[1])]
    kinds = [[[tau * t for t in row] for row in template(size, place, beta)] for place in places]
    kinds.append([[-tau] * size[1]] * size[0])
    prior = 1 / len(kinds)
    fits = [
        [sum(float(one[i, j]) * kind[i][j] for i, j in places) for one in x] for kind in kinds
    ]  # tr(x T), by template and image
    given = [[math.exp(fit) / sum(map(math.exp, row)) for fit in row] for row in fits]
    evidence = [sum(prior * row[n] for row in given) for n in range(len(x))]
    return -sum(prior * sum(row[n] * math.log(row[n] / evidence[n]) for n in range(len(x))) for row in given)


@pytest.mark.parametrize(("size", "beta"), [((3, 3), 4.0), ((2, 4), 2.5)])
def test_loss(size, beta):
    maps = 20 * torch.rand(4, 2, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = [loss_by_hand(maps[:, c], size, beta) for c in range(2)]
    found = filter_loss(maps, beta)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-14)
    assert torch.autograd.gradcheck(lambda x: filter_loss(x, beta), maps.requires_grad_())
    with pytest.raises(ValueError, match=r"of at least 2 images, got \(1, 2"):
        filter_loss(maps[:1])
    with pytest.raises(ValueError, match="at most 4096 positions, got 65 x 64"):
        filter_loss(torch.zeros(2, 1, 65, 64))


def test_loss_tells_parts_from_noise():
    """One peak in half of the images, at several places, is worth more than peaks everywhere."""
    parts, noise = torch.zeros(8, 1, 6, 6), torch.zeros(8, 1, 6, 6)
    for n in range(4):
        parts[n, 0, n, 2 * n % 6] = 900.0
    noise[:] = 900 / 36 * torch.rand(8, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    assert filter_loss(parts) < 10 * filter_loss(noise) < 0


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), InterpretableConv2d(6, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(4, 3),
    ).double()  # fmt: skip


def test_losses_of_a_model():
    model, images = network(), torch.randn(5, 3, 8, 8, dtype=torch.float64)
    with filter_losses(model) as losses:
        model(images)
    plain = model[2].maps(nn.Conv2d.forward(model[2], model[1](model[0](images))))
    torch.testing.assert_close(torch.cat(losses), filter_loss(plain))
    torch.cat(losses).sum().backward()
    assert model[2].weight.grad.abs().sum() > 0
    assert model[0].weight.grad.abs().sum() > 0
    assert not model[2].maps._forward_hooks
    copy.deepcopy(model)


@pytest.mark.parametrize("method", [each.name for each in fastcam.list_methods() if each.name != "gmp_cam"])
def test_every_method_explains_it(method):
    """The masked maps are what the class is made of: with average pooling CAM is exact on them."""
    model, images = network().eval(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    options = {"rise": {"masks": 20}, "occlusion": {"window": 4}, "score_cam": {}}.get(method, {})
    found = fastcam.explain(model, images, method, target=1, **options)
    assert found.raw.isfinite().all()
    if method in ("cam", "grad_cam"):
        with fastcam.recording(model, "2") as seen:
            model(images)
        expected = torch.einsum("c,nchw->nhw", model[5].weight[1], seen["2"]).detach()
        expected = expected if method == "cam" else expected.relu() / 64
        torch.testing.assert_close(found.native, expected, rtol=1e-9, atol=1e-12)


def test_location_instability():
    maps = torch.zeros(3, 2, 4, 4)
    for n, place in enumerate([(0, 0), (1, 1), (2, 2)]):
        maps[(n, 0, *place)] = 1  # moves with the landmark
        maps[n, 1, 0, 3 * (n == 1)] = 1
    landmarks = torch.tensor([[[0.125, 0.125]], [[0.375, 0.375]], [[0.625, 0.625]]])
    found = location_instability(maps, landmarks)
    assert found[0].item() == pytest.approx(0, abs=1e-6)
    distances = torch.tensor([0.0, math.hypot(0.25, 0.5), math.hypot(0.5, 0.5)]) / math.sqrt(2)
    assert found[1].item() == pytest.approx(distances.std(correction=0).item(), rel=1e-5)
