"""Model specifications: architecture, preprocessing and class names, without a download."""

import sys

import pytest
import torch

from fastcam.classifiers import models
from fastcam.classifiers.models import Preprocessing, load


def test_torchvision_brings_its_names_and_preprocessing():
    classifier = load("torchvision:squeezenet1_1")
    assert classifier.random_weights
    assert not classifier.model.training
    assert classifier.preprocessing == Preprocessing(256, (224, 224))
    assert classifier.class_names(1000)[285] == "Egyptian cat"


def test_another_number_of_classes_has_no_names():
    classifier = load("torchvision:squeezenet1_1", num_classes=3)
    assert classifier.model(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
    assert classifier.class_names(3) == ["0", "1", "2"]


def test_given_names_come_first_and_must_be_as_many_as_outputs():
    classifier = load("torchvision:squeezenet1_1", num_classes=2, class_names=["cat", "dog"])
    assert classifier.class_names(2) == ("cat", "dog")
    with pytest.raises(ValueError, match="the model has 1000 outputs, but 2 class names were given"):
        classifier.class_names(1000)


def test_timm_brings_its_preprocessing():
    classifier = load("timm:mobilenetv3_small_050")
    assert classifier.random_weights
    assert classifier.preprocessing == Preprocessing(256, (224, 224), interpolation="bicubic")
    assert classifier.class_names(1000)[967] == "espresso"


def test_no_part_of_a_model_is_downloaded(monkeypatch):
    def refuse(*arguments, **keywords):
        raise AssertionError("a download was tried")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision._internally_replaced_utils.load_state_dict_from_url", refuse, raising=False)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse, raising=False)
    assert load("torchvision:lraspp_mobilenet_v3_large").random_weights


FACTORIES = """
import torch
from fastcam.classifiers import Preprocessing
def plain():
    return torch.nn.Flatten()
def named():
    model = torch.nn.Flatten()
    model.preprocessing = Preprocessing(40, (32, 32))
    model.class_names = ["cat", "dog"]
    return model
def odd():
    model = torch.nn.Flatten()
    model.preprocessing = 3
    return model
def broken():
    raise KeyError("oops")
def number():
    return 3
"""


@pytest.fixture
def factories(tmp_path, monkeypatch):
    (tmp_path / "factories_of_a_test.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    return "factories_of_a_test"


def test_a_factory_of_the_working_folder_brings_its_own(factories):
    assert load(f"{factories}:plain").preprocessing == Preprocessing()
    classifier = load(f"{factories}:named")
    assert classifier.preprocessing == Preprocessing(40, (32, 32))
    assert classifier.class_names(2) == ("cat", "dog")
    assert not classifier.random_weights


@pytest.mark.parametrize(
    ("name", "error", "sentence"),
    [
        ("odd", TypeError, "`preprocessing` must be a fastcam.classifiers.Preprocessing, got int"),
        ("broken", ValueError, "could not be built: KeyError: 'oops'"),
        ("number", TypeError, "must return an nn.Module, got int"),
        ("plan", ValueError, "has no function 'plan'; did you mean plain"),
    ],
)
def test_bad_factories_get_a_sentence(factories, name, error, sentence):
    with pytest.raises(error, match=sentence):
        load(f"{factories}:{name}")


@pytest.mark.parametrize(
    ("specification", "sentence"),
    [
        ("resnet50", "a model is torchvision:NAME, timm:NAME or package.module:factory, got 'resnet50'"),
        ("torchvision:", "a model is torchvision:NAME"),
        ("torchvision:resnet51", "torchvision has no model 'resnet51'; did you mean resnet50"),
        ("timm:resnet51", "timm has no model 'resnet51'; did you mean"),
        ("timm:hf-hub:timm/resnet18", "timm has no model 'hf-hub:timm/resnet18'"),
        ("no_such_package.module:make", "cannot be imported: No module named 'no_such_package'"),
    ],
)
def test_unknown_models_get_a_sentence(specification, sentence):
    with pytest.raises(ValueError, match=sentence):
        load(specification)


def test_imagenet_names_are_1000_in_the_right_order():
    names = models.imagenet_names()
    assert len(names) == 1000
    assert (names[0], names[282], names[657], names[999]) == ("tench", "tiger cat", "missile", "toilet tissue")
