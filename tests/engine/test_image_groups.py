"""Large batches in groups: the same explanation as all at once, for every method and every kind of target."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastcam
from fastcam.engine import image_groups
from fastcam.explanation import Explanation
from tests.support.conv_net import Call, conv_net, images_for, suited

pytestmark = pytest.mark.usefixtures("one_thread")

ONE_PASS = [each.name for each in fastcam.list_methods() if each.is_one_pass]
COUNT = 7


def groups_of(model: nn.Module) -> list[int]:
    """How many images each forward pass has from now on."""
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda _, arguments: sizes.append(len(arguments[0])))
    return sizes


def assert_equal(found: Explanation, expected: Explanation) -> None:
    for each in fields(Explanation):
        a, b = getattr(found, each.name), getattr(expected, each.name)
        if isinstance(b, Tensor):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
        elif each.name != "details":
            assert a == b
    assert found.details.keys() == expected.details.keys()
    assert found.status == expected.status


@pytest.mark.parametrize("method", ONE_PASS)
def test_every_method(method):
    model, layer = suited(method)
    images = images_for(count=COUNT)
    expected = fastcam.explain(model, images, method, 1, layer, batch_size=COUNT)
    sizes = groups_of(model)
    found = fastcam.explain(model, images, method, 1, layer, batch_size=3)
    assert sizes == [3, 3, 1]
    assert_equal(found, expected)


TARGETS = {
    "the highest": None,
    "one": 2,
    "a list": [0, 1, 2, 3, 4, 0, 1],
    "an array": np.arange(COUNT) % 5,
    "a tensor": torch.arange(COUNT) % 5,
    "several an image": torch.arange(2 * COUNT).reshape(COUNT, 2) % 5,
    "all": "all",
}


@pytest.mark.parametrize("name", TARGETS)
def test_every_kind_of_class(name):
    model, images = conv_net(), images_for(count=COUNT)
    expected = fastcam.explain(model, images, "grad_cam", TARGETS[name], "features", batch_size=COUNT)
    sizes = groups_of(model)
    found = fastcam.explain(model, images, "grad_cam", TARGETS[name], "features", batch_size=3)
    assert sizes == [3, 3, 1]
    assert_equal(found, expected)


def test_several_methods_and_layers():
    model, images = conv_net(), images_for(count=COUNT)
    options = {"method": ["grad_cam", "layer_cam"], "target_layer": ["stem", "features"], "fuse": None}
    expected = fastcam.explain(model, images, target=1, batch_size=COUNT, **options)
    found = fastcam.explain(model, images, target=1, batch_size=2, **options)
    assert list(found) == list(expected)
    for key, each in expected.items():
        assert_equal(found[key], each)


WHOLE = {
    "a score": {"target": fastcam.targets.Probability(1)},
    "a callable": {"target": lambda output: output[:, 1]},
    "callables": {"target": [lambda output: output[1]] * COUNT},
    "differentiable": {"target": 1, "differentiable": True},
}


@pytest.mark.parametrize("name", WHOLE)
def test_all_at_once_where_images_may_not_be_parted(name):
    model = conv_net()
    sizes = groups_of(model)
    fastcam.explain(model, images_for(count=COUNT), "grad_cam", target_layer="features", batch_size=3, **WHOLE[name])
    assert sizes == [COUNT]


def test_all_at_once_in_training():
    model = conv_net().train()
    sizes = groups_of(model)
    with pytest.warns(UserWarning, match="training mode"):
        fastcam.explain(model, images_for(count=COUNT), "grad_cam", 1, "features", batch_size=3)
    assert sizes == [COUNT]


def test_outputs_that_have_no_rows_cannot_be_joined():
    model = nn.Sequential(conv_net(), Call(lambda logits: (logits, "a word"))).eval()
    expected = fastcam.explain(model, images_for(count=COUNT), "grad_cam", 1, "0.features", select=0)
    words = nn.Sequential(conv_net(), Call(lambda logits: {"logits": logits, "mean": logits.mean()})).eval()
    found = fastcam.explain(words, images_for(count=COUNT), "grad_cam", 1, "0.features", select="logits", batch_size=3)
    torch.testing.assert_close(found.native, expected.native)
    assert len(found) == COUNT


def test_inputs_that_belong_to_the_images_go_with_them():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = conv_net()

        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            return self.net(x) * scale[:, None]

    inputs = (images_for(count=COUNT), torch.arange(1.0, COUNT + 1))
    model = Scaled().eval()
    expected = fastcam.explain(model, inputs, "grad_cam", 1, "net.features", batch_size=COUNT)
    assert_equal(fastcam.explain(model, inputs, "grad_cam", 1, "net.features", batch_size=2), expected)


def test_a_wrong_number_of_targets_is_told_as_ever():
    with pytest.raises(ValueError, match="7"):
        fastcam.explain(conv_net(), images_for(count=COUNT), "grad_cam", [1, 2], "features", batch_size=3)


def test_auto_takes_what_was_measured():
    model = conv_net()
    prepared = fastcam.prepare(model, images_for())
    prepared.batch_size = 2
    sizes = groups_of(prepared)
    fastcam.explain(prepared, images_for(count=COUNT), "grad_cam", 1, "features")
    assert sizes == [2, 2, 2, 1]


def test_the_usual_size_is_about_eight_photographs():
    assert image_groups.usual_size(torch.empty(100, 3, 224, 224)) == 8
    assert image_groups.usual_size(torch.empty(100, 3, 448, 448)) == 2
    assert image_groups.usual_size(torch.empty(4, 3, 4000, 4000)) == 1
    assert image_groups.usual_size(torch.empty(100, 3, 32, 32)) == 392
    assert image_groups.usual_size(torch.empty(100, 3, 224, 224, device="meta")) == 100


def test_copies_at_a_time_are_fewer_of_large_images():
    assert image_groups.usual_copies(torch.empty(1, 3, 224, 224)) == 16
    assert image_groups.usual_copies(torch.empty(5, 3, 448, 448)) == 4
    assert image_groups.usual_copies(torch.empty(1, 3, 4000, 4000)) == 1
    assert image_groups.usual_copies(torch.empty(1, 3, 32, 32)) == 16  # grows by itself where copies are small
    assert image_groups.usual_copies(torch.empty(1, 3, 224, 224, device="meta")) is None
