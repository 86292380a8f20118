"""Behind global average pooling and one linear layer, dy/dA = W / P: no backward pass, and the same maps."""

import pytest
import torch
from torch import Tensor, nn

import fastcam
from tests.support.conv_net import Call
from tests.support.networks import SmallNetwork, small_images, small_network

pytestmark = pytest.mark.usefixtures("one_thread")

METHODS = [method.name for method in fastcam.list_methods() if "gradients" in method.needs and method.is_flat]
TARGETS = {
    "highest class": None,
    "one class": 3,
    "a class per image": [4, 1],
    "K classes per image": [[0, 4, 2], [1, 1, 3]],
    "all classes": "all",
    "callable": lambda output: output[:, 2] - output[:, 0],
    "callable with two scores": lambda output: torch.stack([output.log_softmax(1)[:, 1], output[:, 3].exp()], 1),
    "a callable per image": [lambda logits: logits[1] - logits[0], lambda logits: logits[4].tanh()],
}


def disguised(model: SmallNetwork) -> SmallNetwork:
    """The same function with logits * 1, which is none of the operations of a pooling-and-linear head."""
    model.head = nn.Sequential(model.head, Call(lambda logits: logits * 1.0)).eval()
    return model


@pytest.fixture
def differentiated(monkeypatch) -> list[tuple[int, ...]]:
    """Shapes of everything that torch.autograd.grad differentiates with respect to."""
    shapes, grad = [], torch.autograd.grad

    def watched(outputs, inputs, *arguments, **keywords):
        shapes.extend(tuple(each.shape) for each in inputs)
        return grad(outputs, inputs, *arguments, **keywords)

    monkeypatch.setattr(torch.autograd, "grad", watched)
    return shapes


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_no_backward_through_the_network_and_the_same_maps(axes, target, differentiated):
    images = small_images(axes)
    closed = fastcam.explain(small_network("gap", axes), images, METHODS, target, target_layer="body")
    assert all(shape == (2, 5) for shape in differentiated)  # at most dy/d(output), for callables
    assert bool(differentiated) == (callable(target) or (isinstance(target, list) and callable(target[0])))
    backward = fastcam.explain(disguised(small_network("gap", axes)), images, METHODS, target, target_layer="body")
    assert (2, 6, *images.shape[2:]) in differentiated  # the disguise works: dy/dA was asked for
    for name in METHODS:
        torch.testing.assert_close(closed[name].native, backward[name].native, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("relu", [True, False])
def test_the_sign_is_kept_where_asked_for(relu):
    closed = fastcam.explain(small_network("gap"), small_images(), METHODS, "all", "body", relu=relu)
    backward = fastcam.explain(disguised(small_network("gap")), small_images(), METHODS, "all", "body", relu=relu)
    for name in METHODS:
        torch.testing.assert_close(closed[name].native, backward[name].native, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("target", [3, [[0, 4, 2], [1, 1, 3]]], ids=["one class", "K classes"])
def test_channels_last(target, differentiated):
    model = small_network("gap").to(memory_format=torch.channels_last)
    images = small_images().contiguous(memory_format=torch.channels_last)
    maps = fastcam.explain(model, images, METHODS, target, "body")
    assert differentiated == []
    plain = fastcam.explain(small_network("gap"), small_images(), METHODS, target, "body")
    for name in METHODS:
        torch.testing.assert_close(maps[name].native, plain[name].native, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "target", [3, [[0, 4, 2], [1, 1, 3]], TARGETS["callable"]], ids=["class", "K classes", "callable"]
)
def test_bfloat16(target, differentiated):
    """Within 2 % of the range of the float32 maps: eight bits of mantissa in A and G."""
    model, images = small_network("gap").bfloat16(), small_images().bfloat16()
    maps = fastcam.explain(model, images, METHODS, target, "body")
    assert (2, 6, 9, 11) not in differentiated
    plain = fastcam.explain(small_network("gap"), small_images(), METHODS, target, "body")
    for name in METHODS:
        truth = plain[name].native
        assert (maps[name].native - truth).abs().max() <= 0.02 * (truth.max() - truth.min()), name


@pytest.mark.parametrize("name", [*METHODS, "cam", "eigen_cam"])
def test_maps_of_bfloat16_activations_are_float32(name):
    """Rounding a map would be its largest error."""
    native = fastcam.explain(small_network("gap").bfloat16(), small_images().bfloat16(), name, 3, "body").native
    assert native.dtype == torch.float32


def test_a_layer_before_the_last_gets_its_backward_pass_and_the_last_its_closed_form(differentiated):
    model = small_network("gap")
    apart = fastcam.explain(model, small_images(), "grad_cam", 3, ["body.1", "body"], fuse=None)
    assert differentiated == [(2, 8, 9, 11)]
    for layer in ("body.1", "body"):
        alone = fastcam.explain(disguised(small_network("gap")), small_images(), "grad_cam", 3, layer)
        torch.testing.assert_close(apart[layer].native, alone.native, rtol=1e-4, atol=1e-6)


def test_cam_over_the_positions_is_grad_cam_before_its_relu():
    """Selvaraju et al. 2017, section 3.1: alpha_k = w_k / Z."""
    maps = fastcam.explain(small_network("gap"), small_images(), ["cam", "grad_cam"], "all", "body", relu=False)
    torch.testing.assert_close(maps["cam"].native / (9 * 11), maps["grad_cam"].native)
    backward = fastcam.explain(disguised(small_network("gap")), small_images(), "grad_cam", "all", "body", relu=False)
    torch.testing.assert_close(maps["cam"].native / (9 * 11), backward.native)


def test_grad_cam_hires_cam_and_xgrad_cam_agree_where_the_gradient_is_the_same_everywhere():
    """G_kp = W_k / P for every p, so that the three weights are equal (Draelos and Carin 2020, section 3.3)."""
    maps = fastcam.explain(
        small_network("gap"), small_images(), ["grad_cam", "hires_cam", "xgrad_cam"], "all", "body", relu=False
    )
    torch.testing.assert_close(maps["hires_cam"].native, maps["grad_cam"].native)
    torch.testing.assert_close(maps["xgrad_cam"].native, maps["grad_cam"].native)


def test_cam_behind_one_by_one_convolution_before_the_pooling():
    """Fully convolutional heads: the classifier's map itself is the CAM, less its bias."""
    torch.manual_seed(0)
    classifier = nn.Conv2d(6, 5, 1)
    model = SmallNetwork(nn.Sequential(classifier, nn.AdaptiveAvgPool2d(1), nn.Flatten())).eval()
    maps = fastcam.explain(model, small_images(), "cam", "all", "body").native
    truth = classifier(model.body(small_images())).detach() - classifier.bias.detach()[:, None, None]
    torch.testing.assert_close(maps, truth)


@pytest.mark.parametrize(
    ("name", "head", "pooling"), [("cam", "gmp", "average"), ("gmp_cam", "gap", "max"), ("cam", "mlp", "average")]
)
def test_a_head_of_another_kind_is_named(name, head, pooling):
    with pytest.raises(ValueError, match=f"global {pooling} pooling and one linear layer follow target layer 'body'"):
        fastcam.explain(small_network(head), small_images(), name, 3, "body")


def test_cam_has_no_row_for_a_callable():
    with pytest.raises(ValueError, match="a callable target has no row in the classifier"):
        fastcam.explain(small_network("gap"), small_images(), "cam", TARGETS["callable"], "body")


def test_gmp_cam_is_highest_where_the_class_is_decided():
    """Oquab et al. 2015: with one positive weight the map's maximum is the position that max pooling chose."""
    model = small_network("gmp")
    with torch.no_grad():
        model.head[2].weight.copy_(torch.eye(6)[:5])
    maps = fastcam.explain(model, small_images(), "gmp_cam", "all", "body").native
    activations = model.body(small_images()).detach()
    torch.testing.assert_close(maps, activations[:, :5])
    torch.testing.assert_close(maps.amax((2, 3)) + model.head[2].bias, model(small_images()))


def slopes(model: nn.Module) -> Tensor:
    """dy/dA of class 0, averaged over the images and positions, (C,)."""
    kept = []
    handle = model.body.register_forward_hook(lambda module, arguments, output: kept.append(output))
    score = model(small_images())[:, 0].sum()
    handle.remove()
    return torch.autograd.grad(score, kept[0])[0].mean((0, 2, 3))


def test_the_weights_are_read_anew_at_every_call():
    model = small_network("gap")
    explainer = fastcam.Explainer(model, "grad_cam", "body", relu=False)
    before = explainer(small_images(), 0).native
    with torch.no_grad():
        model.head[2].weight.mul_(-2)
    torch.testing.assert_close(explainer(small_images(), 0).native, -2 * before)
    truth = torch.einsum("k,nkhw->nhw", slopes(model), model.body(small_images())).detach()
    torch.testing.assert_close(explainer(small_images(), 0).native, truth)
