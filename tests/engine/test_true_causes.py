"""Errors name what the user did."""

import pytest
import torch
from torch import nn

import fastcam
from tests.support.conv_net import conv_net, images_for
from tests.support.networks import timm_network

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("method", ["grad_cam", "occlusion", "saliency"])
@pytest.mark.parametrize(
    ("images", "advice"),
    [
        (torch.rand(3, 12, 10), r"got \(3, 12, 10\), one image without the axis N: pass images\[None\]"),
        (torch.rand(12, 10, 3), r"without the axis N: pass images\.movedim\(-1, 0\)\[None\]"),
        (torch.rand(2, 12, 10, 3), r"with the channels last: pass images\.movedim\(-1, 1\)"),
    ],
    ids=["no batch", "no batch, channels last", "channels last"],
)
def test_shapes(images, advice, method):
    options = {"window": 4, "stride": 4} if method == "occlusion" else {}
    with pytest.raises(ValueError, match=r"`images` must be \(N, 3, H, W\), .*" + advice):
        fastcam.explain(conv_net(), images, method, **options)


def test_other_errors_of_the_model_are_its_own():
    class Failing(nn.Module):
        def forward(self, x):
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match=r"^mine$"):
        fastcam.explain(nn.Sequential(nn.Conv2d(3, 4, 1), Failing()), images_for(), "saliency")


def test_quantised_models():
    model = torch.ao.quantization.quantize_dynamic(conv_net().eval(), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(RuntimeError, match=r"the model is quantised.*no derivative.*occlusion, rise, score_cam"):
        fastcam.explain(model, images_for(), target=1)
    found = fastcam.explain(model, images_for(), "occlusion", 1, window=4, stride=4)
    assert found.status == ["ok", "ok"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [("GradCAM++", "grad_cam_pp"), ("gradcam", "grad_cam"), ("Score-CAM", "score_cam"), ("IntegratedGradient",
     "integrated_gradients"), ("guided backprop", "guided_backprop"), ("ODAM", "hires_cam"), ("D-RISE", "rise")],
)  # fmt: skip
def test_names_of_methods_in_other_spellings(name, meant):
    with pytest.raises(ValueError, match=rf"did you mean '{meant}'\?$"):
        fastcam.explain(conv_net(), images_for(), name)


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("target_layers", "target_layer"),
        ("target_category", "target"),
        ("n_steps", "steps"),
    ],
)
def test_names_of_options_in_other_tools(option, meant):
    with pytest.raises(TypeError, match=rf"no option '{option}'.*did you mean {meant}"):
        fastcam.explain(conv_net(), images_for(), **{option: 1})


def test_a_callable_that_holds_the_clean_images():
    """A reconstruction error, in a method that runs copies: told what is wrong, and right with the rows."""
    torch.manual_seed(0)
    model, images = (
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 1)).double().eval(),
        images_for().double(),
    )
    options = {"window": 4, "stride": 4, "engine": "dense"}
    with pytest.raises(RuntimeError) as caught:
        fastcam.explain(model, images, "occlusion", lambda out: (out - images).square().flatten(1).sum(1), **options)
    assert "fastcam.targets.PerRow passes it the rows" in caught.value.__notes__[0]

    def error(output, rows):
        return (output - images[rows]).square().flatten(1).sum(1)

    both = fastcam.explain(model, images, "occlusion", fastcam.targets.PerRow(error), **options).native
    for index in range(2):
        single = images[index : index + 1]
        alone = fastcam.explain(
            model, single, "occlusion", lambda out, single=single: (out - single).square().flatten(1).sum(1), **options
        )
        torch.testing.assert_close(both[index], alone.native[0], rtol=1e-9, atol=1e-9)


def test_one_hot_labels():
    labels = nn.functional.one_hot(torch.tensor([3, 4]), 5)
    with pytest.raises(ValueError, match=r"looks like one-hot labels \(2, 5\).*target\.argmax\(1\)"):
        fastcam.explain(conv_net(), images_for(), target=labels)
    assert fastcam.explain(conv_net(), images_for(), target=labels.argmax(1)).targets.tolist() == [3, 4]
    assert fastcam.explain(conv_net(), images_for(), target=[[0, 1], [1, 0]]).targets.tolist() == [[0, 1], [1, 0]]


def test_a_warning_in_code_without_a_module():
    """Code of exec, as notebooks and tests run it, need not have a name."""
    model = conv_net()
    model.train()
    with pytest.warns(UserWarning, match="training mode"):
        exec("fastcam.explain(model, images)", {"fastcam": fastcam, "model": model, "images": images_for()})


@pytest.mark.parametrize("network", [conv_net, lambda: timm_network("vit_tiny_patch16_224")])
def test_another_precision(network):
    images = torch.rand(2, 3, 224, 224, dtype=torch.float64)
    with pytest.raises(
        TypeError, match=r"are torch\.float64 and the model's parameters torch\.float32: pass images\.to"
    ):
        fastcam.explain(network(), images)


def test_another_device():
    with pytest.raises(
        ValueError, match=r'are on "cpu" and the model\'s parameters on "meta": pass images\.to\("meta"\)'
    ):
        fastcam.explain(conv_net().to("meta"), torch.rand(2, 3, 12, 10), target_layer="features")


def test_a_model_that_was_made_in_inference_mode():
    with torch.inference_mode():
        model = conv_net()
    with pytest.raises(RuntimeError, match=r"was made within torch\.inference_mode\(\).*make it, or load it, outside"):
        fastcam.explain(model, images_for(), "saliency", 1)
