"""What is kept of a model from call to call: the next call sees every change that was made in between."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

import fastcam
from fastcam.model import memory
from fastcam.model.running import is_training
from tests.support.conv_net import conv_net

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def same_modules(model):
    return set(map(id, memory.all_modules(model))) == set(map(id, model.modules()))


def rename(model):
    model.body = model._modules.pop("classifier")


def wrap(model):
    model.features = nn.Sequential(model.features, nn.BatchNorm2d(8, affine=False).eval())


TREE_CHANGES = {
    "a new module": lambda model: model.add_module("more", nn.ReLU()),
    "another module in its place": lambda model: setattr(model, "features", copy.deepcopy(model.features)),
    "a module around it": wrap,
    "a module less": lambda model: model.stem.__delitem__(-1),
    "None in its place": lambda model: setattr(model, "probe", None),
    "another name": rename,
}


@pytest.mark.parametrize("change", TREE_CHANGES)
def test_changed_modules_are_seen(change):
    model = conv_net()
    memory.of(model)["known",] = 1
    assert memory.of(model)["known",] == 1
    assert same_modules(model)
    TREE_CHANGES[change](model)
    assert same_modules(model)
    assert ("known",) not in memory.of(model)


def test_a_module_at_the_place_of_one_that_is_gone():
    """Its id may be that of the old one."""
    model = conv_net()
    for _ in range(50):
        memory.of(model)["known",] = 1
        model.probe = nn.ReLU()
        assert ("known",) not in memory.of(model)
        assert same_modules(model)


def test_modules_are_checked_once_in_a_call():
    model, other = conv_net(), conv_net()
    with memory.checked_once(model):
        model.probe = nn.Tanh()
        assert not same_modules(model)
        assert same_modules(other)
        with memory.checked_once(other):
            assert same_modules(other)
        assert not same_modules(model)
    assert same_modules(model)


def test_modes_are_read_in_every_call():
    model = conv_net()
    assert not is_training(model)
    model.features.train()
    assert is_training(model)
    model.eval()
    assert not is_training(model)


CHANGES = {
    "train": lambda model: model.train(),
    "a new parameter": lambda model: setattr(
        model.features[0], "weight", nn.Parameter(torch.randn_like(model.features[0].weight))
    ),
    "a parameter changed in place": lambda model: model.features[0].weight.data.mul_(-1),
    "a hook": lambda model: model.features.register_forward_hook(lambda module, arguments, output: output * 2 - 1),
    "a pre-hook": lambda model: model.features.register_forward_pre_hook(lambda module, arguments: (-arguments[0],)),
    "a new module": lambda model: model.stem.append(nn.Tanh()),
    "another module in its place": lambda model: setattr(model, "features", nn.Conv2d(6, 8, 1)),
    "dtype": lambda model: model.double(),
    "a buffer": lambda model: [buffer.add_(0.5) for buffer in model.buffers() if buffer.is_floating_point()],
}


@pytest.mark.parametrize("method", ["grad_cam", "eigen_cam", "saliency", "score_cam"])
@pytest.mark.parametrize("change", CHANGES)
def test_an_explanation_after_a_change_is_that_of_a_new_model(change, method):
    """What was kept of the model before the change has no part in it."""
    changed = conv_net()
    known = fastcam.Explainer(changed, method)
    known(IMAGES, 1)
    torch.manual_seed(2)
    CHANGES[change](changed)
    fresh = conv_net()
    torch.manual_seed(2)
    CHANGES[change](fresh)
    images = IMAGES.double() if change == "dtype" else IMAGES
    torch.testing.assert_close(known(images, 1).maps, fastcam.explain(fresh, images, method, 1).maps)


@pytest.mark.parametrize("refers_back", [False, True])
def test_a_model_is_not_kept_alive(refers_back):
    model = conv_net()
    if refers_back:  # a hook of a layer that is a method of the model
        model.features.register_forward_hook(lambda *_, model=model: None)
    fastcam.explain(model, IMAGES, target=1)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
