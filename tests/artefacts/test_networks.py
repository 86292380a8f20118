"""Networks scripted, traced, frozen and exported are explained like the modules they were made from."""

import copy
import io

import pytest
import torch

import fastcam
from fastcam.artefacts import as_module
from tests.support.networks import efficientnet_lite0, photographs, small_images, small_network, torchvision_network
from tests.support.tiers import slow

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"),
]
SIZES = {"vit_b_16": 224}
LAYERS = {
    "resnet18": "layer4.1",
    "resnet50": "layer3",
    "vgg11": "features.19",
    "mobilenet_v3_small": "features.11",
    "densenet121": "features.denseblock4",
    "squeezenet1_1": "features.11",
    "convnext_tiny": "features.7",
    "vit_b_16": "encoder.layers.encoder_layer_11.ln_1",
    "efficientnet_lite0": "_conv_head",
}
METHODS = ["grad_cam", "grad_cam_pp", "layer_cam", "eigen_cam"]


def network(name):
    return efficientnet_lite0() if name == "efficientnet_lite0" else torchvision_network(name)


def images_for(name):
    size = SIZES.get(name, 96)
    return torch.nn.functional.interpolate(photographs()[:2], (size, size), mode="bilinear")


def reloaded(script):
    buffer = io.BytesIO()
    torch.jit.save(script, buffer)
    buffer.seek(0)
    return torch.jit.load(buffer)


def exported(model, images):
    count = torch.export.Dim("count", min=1, max=512)
    return torch.export.export(model, (images.expand(2, -1, -1, -1),), dynamic_shapes=({0: count},))


MADE = {
    "script": lambda model, images: reloaded(torch.jit.script(model)),
    "trace": lambda model, images: reloaded(torch.jit.trace(model, images, check_trace=False)),
    "program": exported,
}


def agree(found, expected, tolerance=1e-5):
    for name in expected:
        span = float(expected[name].native.abs().amax())
        assert span > 0
        assert float((found[name].native - expected[name].native).abs().amax()) <= tolerance * span, name


EVERY = [(name, form) for name in LAYERS for form in MADE]
EVERY.remove(("efficientnet_lite0", "script"))  # whose source TorchScript does not compile
SOME = [("resnet18", "script"), ("resnet18", "trace"), ("resnet18", "program"), ("mobilenet_v3_small", "script")]
SOME += [("efficientnet_lite0", "trace"), ("squeezenet1_1", "program")]


@pytest.mark.parametrize(("name", "form"), [*SOME, *slow(*(each for each in EVERY if each not in SOME))])
def test_maps_are_those_of_the_module(name, form):
    model, images, layer = network(name), images_for(name), LAYERS[name]
    options = {"reshape_transform": fastcam.vit_reshape} if "vit" in name else {}
    artefact = MADE[form](model, images)
    methods = METHODS[:3] if "vit" in name else METHODS  # the sign of its main component hangs on rounding
    expected = fastcam.explain(model, images, methods, [1, 3], layer, **options)
    agree(fastcam.explain(artefact, images, methods, [1, 3], layer, **options), expected)
    if "vit" not in name:  # the layer is found by itself, too
        expected = fastcam.explain(model, images, METHODS[:1])
        agree(fastcam.explain(artefact, images, METHODS[:1]), expected)


FROZEN = ["resnet18", "efficientnet_lite0"]
VALUES = {"densenet121": "features3_1"}  # the module that is found ends before the last ReLU


@pytest.mark.parametrize("name", [*FROZEN, *slow(*(name for name in LAYERS if name not in FROZEN))])
def test_frozen_scripts(name):
    """Batch norms are folded in them and no module is left: the values have the names of the graph. In float64, for
    what is folded is rounded in other places."""
    model, images = copy.deepcopy(network(name)).double(), images_for(name).double()
    is_traced = name == "efficientnet_lite0"
    made = torch.jit.trace(model, images, check_trace=False) if is_traced else torch.jit.script(model)
    frozen = reloaded(torch.jit.freeze(made))
    found = fastcam.explain(frozen, images, ["grad_cam", "layer_cam"], [1, 3], VALUES.get(name))
    expected = fastcam.explain(model, images, ["grad_cam", "layer_cam"], [1, 3])
    agree(found, expected, 1e-9)


@pytest.mark.parametrize("form", list(MADE))
@pytest.mark.parametrize("name", ["small", *slow("resnet18")])
def test_methods_of_every_kind(name, form):
    if name == "small":
        model, images, side = small_network("gap"), small_images()[:1], 3
    else:
        model, images, side = network(name), images_for(name)[:1, :, :64, :64], 32
    artefact = MADE[form](model, images)
    for method, options in {
        "cam": {},
        "score_cam": {},
        "occlusion": {"window": side, "stride": side},
        "guided_backprop": {},
        "integrated_gradients": {"steps": 4},
        "saliency": {},
    }.items():
        found, expected = (fastcam.explain(each, images, method, 3, **options) for each in (artefact, model))
        agree({method: found}, {method: expected}, 1e-4)


@pytest.mark.parametrize("form", list(MADE))
def test_artefacts_are_not_prepared(form):
    images = images_for("resnet18")
    artefact = MADE[form](torchvision_network("resnet18"), images)
    with pytest.raises(TypeError, match="no scripted or patched one and no program"):
        fastcam.prepare(as_module(artefact), images)


def test_names_of_a_programs_values():
    program = exported(torchvision_network("resnet18"), images_for("resnet18"))
    read = as_module(program)
    names = [name for name, _ in read.named_modules()]
    assert {"layer4.1", "layer4.1.bn2", "conv1"} <= set(names)
    found = fastcam.explain(program, images_for("resnet18"), "grad_cam", 1, "layer4.1.add__7")
    assert found.native.shape == (2, 3, 3)
    with pytest.raises(ValueError, match=r"the model has no layer named 'layer4\.3'; did you mean 'layer4"):
        fastcam.explain(program, images_for("resnet18"), "grad_cam", 1, "layer4.3")
