"""Which layer is explained, and what layers may return."""

import copy
from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastcam
from tests.support.conv_net import Call, autograd_gradients, conv_net, images_for

pytestmark = pytest.mark.usefixtures("one_thread")


# --- naming -----------------------------------------------------------------------------------------------------------


def test_by_module_name_and_list_are_the_same():
    model = conv_net()
    by_name = fastcam.explain(model, images_for(), target=1, target_layer="features")
    for target_layer in (model.features, ["features"], [model.features], (model.features,)):
        explanation = fastcam.explain(model, images_for(), target=1, target_layer=target_layer)
        assert explanation.layer == by_name.layer == "features"
        assert torch.equal(explanation.raw, by_name.raw)


def test_one_layer_under_two_names():
    model = conv_net()
    model.alias = model.features
    by_name = fastcam.explain(model, images_for(), target=1, target_layer="features")
    assert torch.equal(fastcam.explain(model, images_for(), target=1, target_layer="alias").raw, by_name.raw)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_automatic_is_the_last_with_a_spatial_map(axes):
    model = conv_net(axes=axes)
    explanation = fastcam.explain(model, images_for(axes), target=1)
    assert explanation.layer == "relu"
    expected = fastcam.explain(model, images_for(axes), target=1, target_layer="relu")
    assert torch.equal(explanation.raw, expected.raw)


def tail(*modules: nn.Module) -> nn.Sequential:
    """A network with these modules between the last convolution, "0", and the classifier."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 4, 3), *modules, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (tail(), "0"),
        (tail(nn.ReLU(True)), "1"),
        (tail(nn.Dropout2d(), nn.Identity()), "0"),
        (tail(nn.AvgPool2d(2)), "0"),
        (tail(nn.MaxPool2d(2)), "1"),
        (tail(nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))), "1"),
        (tail(nn.Sequential(nn.Conv2d(4, 4, (10, 8)))), "0"),  # (4, 1, 1): one position is no map
        (tail(Call(lambda x: (x, x.relu())), Call(lambda pair: pair[0])), "2"),
    ],
)
def test_automatic_choice(model, name):
    assert fastcam.explain(model, images_for()).layer == name


def test_automatic_choice_follows_the_shape_and_the_model():
    model = tail(nn.Conv2d(4, 4, 3))
    assert fastcam.explain(model, images_for()).layer == "1"
    assert fastcam.explain(model, images_for()[..., :5, :5]).layer == "0"
    model.insert(2, nn.ReLU().eval())
    assert fastcam.explain(model, images_for()).layer == "2"
    del model[1:3]
    assert fastcam.explain(model, images_for()).layer == "0"


def test_automatic_choice_keeps_no_model_alive():
    import weakref

    model = tail()
    fastcam.explain(model, images_for())
    reference = weakref.ref(model)
    del model
    assert reference() is None


@pytest.mark.parametrize(
    ("target_layer", "error", "text"),
    [
        ("featurez", ValueError, "no layer named 'featurez'; did you mean 'features'"),
        ("features.9", ValueError, r"no layer named 'features.9'; did you mean 'features\.[01]'"),
        ("qqq", ValueError, "no layer named 'qqq'$"),
        ("classifier.weight", ValueError, "no layer named 'classifier.weight'"),
        (nn.Conv2d(3, 3, 1), ValueError, "must be a module of the model, got a Conv2d that is not"),
        ([], ValueError, "at least one layer, got an empty list"),
        ([3], TypeError, "`target_layer` must be a module, its name or a list of them, got int"),
        (3, TypeError, "`target_layer` must be a module, its name or a list of them, got int"),
        (torch.zeros(2), TypeError, "`target_layer` must be a module, its name or a list of them, got Tensor"),
        ("classifier", ValueError, r"'classifier' returns shape \(2, 5\), in which no map \(2, C, s, s\)"),
        (["features", "classifier"], ValueError, "'classifier' returns shape"),
    ],
)
def test_bad_layers(target_layer, error, text):
    with pytest.raises(error, match=text):
        fastcam.explain(conv_net(), images_for(), target_layer=target_layer)


@pytest.mark.parametrize("method", ["grad_cam", "eigen_cam"])
def test_layer_that_is_not_reached(method):
    model = conv_net()
    model.unused = nn.Conv2d(8, 8, 1).eval()
    with pytest.raises(RuntimeError, match="'unused' was not reached"):
        fastcam.explain(model, images_for(), method, target_layer="unused")


@pytest.mark.parametrize("target", [1, "all", lambda output: output[:, 1]], ids=["one", "all", "callable"])
@pytest.mark.parametrize("head", [None, nn.Conv2d(8, 8, 1), nn.Tanh()], ids=["linear", "conv", "tanh"])
@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
def test_layer_that_gets_no_gradient(head, target, frozen):
    model = conv_net(Call(Tensor.detach), *([head] if head else [])).requires_grad_(not frozen)
    with pytest.raises(RuntimeError, match="does not depend on target layer 'features'"):
        fastcam.explain(model, images_for(), target=target, target_layer="features")


@pytest.mark.parametrize("convolution", [False, True])
def test_no_gradient_behind_any_classifier(convolution):
    last = [nn.Conv2d(4, 5, 1), nn.Flatten()] if convolution else [nn.Flatten(), nn.Linear(4, 5, bias=False)]
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Call(Tensor.detach), nn.AdaptiveAvgPool2d(1), *last).eval()
    with pytest.raises(RuntimeError, match="does not depend on target layer '0'"):
        fastcam.explain(model, images_for(), target_layer="0")


def test_score_that_does_not_depend_on_the_output():
    for target in (lambda output: output.detach()[:, 0], lambda output: output.argmax(1), lambda o: torch.zeros(2)):
        with pytest.raises(RuntimeError, match="does not depend on target layer 'relu'"):
            fastcam.explain(conv_net(), images_for(), target=target, target_layer="relu")


def test_no_spatial_layer():
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(5)).eval()
    model(images_for())
    with pytest.raises(ValueError, match=r"no layer of Sequential with a map of the image \(12 x 10\) was found"):
        fastcam.explain(model, images_for())


# --- TorchScript and torch.compile ------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_torchscript_within_a_model_is_refused():
    scripted = torch.jit.script(conv_net().stem)
    model = conv_net()
    model.stem = scripted
    message = "TorchScript modules cannot be hooked"
    for target_layer in (scripted, "stem", "stem.0"):
        with pytest.raises(TypeError, match=message):
            fastcam.explain(model, images_for(), target_layer=target_layer)
    # A scripted part that is not the target is no obstacle.
    expected = fastcam.explain(conv_net(), images_for(), target=1)
    torch.testing.assert_close(fastcam.explain(model, images_for(), target=1).raw, expected.raw)


@pytest.mark.parametrize("layer", [None, "features"])
@pytest.mark.parametrize("run_before", [False, True])
@pytest.mark.parametrize("how", ["torch.compile", "compile()"])
def test_compiled_model(how, run_before, layer):
    model = conv_net()
    if how == "compile()":
        model.compile(backend="eager")
        compiled = model
    else:
        compiled = torch.compile(model, backend="eager")
    if run_before:
        compiled(images_for())
    explanation = fastcam.explain(compiled, images_for(), "layer_cam", [[0, 1], [2, 3]], layer)
    expected = fastcam.explain(conv_net(), images_for(), "layer_cam", [[0, 1], [2, 3]], layer)
    assert torch.equal(explanation.maps, expected.maps)


# --- what a layer returns ---------------------------------------------------------------------------------------------

Pair = namedtuple("Pair", ["first", "second"])


@dataclass
class Record:
    first: Tensor
    second: Tensor


@dataclass(frozen=True)
class FrozenRecord:
    first: Tensor
    second: Tensor


class Positional(dict):
    """A mapping that answers to positions too, as the outputs of Hugging Face models do."""

    def __getitem__(self, key):
        return super().__getitem__(key) if isinstance(key, str) else list(self.values())[key]


# What the layer returns for (x, x + 1), the element that is the second, how the model reads it, the type.
COLLECTIONS = {
    "tuple": (lambda x, y: (x, y), 1, lambda c: c[1]),
    "tuple, from the end": (lambda x, y: (x, y), -1, lambda c: c[1]),
    "tuple, beside other things": (lambda x, y: (None, y, "text", 3), 1, lambda c: c[1]),
    "list": (lambda x, y: [x, y], 1, lambda c: c[1]),
    "list, from the end": (lambda x, y: [x, y], -1, lambda c: c[1]),
    "dict": (lambda x, y: {"x": x, "y": y}, "y", lambda c: c["y"]),
    "OrderedDict": (lambda x, y: OrderedDict(x=x, y=y), "y", lambda c: c["y"]),
    "dict with numbers": (lambda x, y: {0: x, 7: y}, 7, lambda c: c[7]),
    "mapping by position": (lambda x, y: Positional(x=x, y=y), 1, lambda c: c["y"]),
    "namedtuple by index": (Pair, 1, lambda c: c.second),
    "namedtuple from the end": (Pair, -1, lambda c: c.second),
    "namedtuple by name": (Pair, "second", lambda c: c.second),
    "dataclass": (Record, "second", lambda c: c.second),
    "frozen dataclass": (FrozenRecord, "second", lambda c: c.second),
    "named result of torch": (lambda x, y: torch.stack([y, y - 1], -1).max(-1), 0, lambda c: c.values),
}


@pytest.mark.parametrize("method", ["layer_cam", "eigen_cam"])
@pytest.mark.parametrize("kind", COLLECTIONS)
def test_element_of_a_collection(kind, method):
    make, element, read = COLLECTIONS[kind]
    types = []

    def take(collection):
        types.append(type(collection))
        return read(collection)

    conv = nn.Conv2d(8, 8, 1)
    model = conv_net(Call(lambda x: make(x, x + 1)), Call(take), nn.ReLU(inplace=True), conv)
    twin = conv_net(Call(lambda x: x + 1), nn.ReLU(), conv)
    explanation = fastcam.explain(model, images_for(), method, [[0, 1]] * 2, "probe.0", layer_output=element)
    expected = fastcam.explain(twin, images_for(), method, [[0, 1]] * 2, "probe.0")
    torch.testing.assert_close(explanation.raw, expected.raw, rtol=0, atol=1e-6)
    torch.testing.assert_close(explanation.output, model(images_for()).detach())
    assert types == [type(make(torch.zeros(1), torch.zeros(1)))] * 2


@pytest.mark.parametrize("kind", ["tuple", "dict", "namedtuple by index"])
def test_the_layers_own_collection_is_not_changed(kind):
    make, element, read = COLLECTIONS[kind]
    kept = []
    model = conv_net(Call(lambda x: kept.append(make(x, x + 1)) or kept[-1]), Call(read))
    fastcam.explain(model, images_for(), target_layer="probe.0", layer_output=element)
    assert not read(kept[0]).requires_grad


@pytest.mark.parametrize(
    ("function", "element", "error", "text"),
    [
        (lambda x: (x, x), None, TypeError, "'probe.0' returns a tuple, not a tensor; choose .* with layer_output="),
        (lambda x: {"a": x}, None, TypeError, "'probe.0' returns a dict, not a tensor"),
        (lambda x: (x, x), 2, ValueError, "'probe.0' has no element 2 in its tuple"),
        (lambda x: (x, x), "a", ValueError, "'probe.0' has no element 'a' in its tuple"),
        (lambda x: {"a": x}, "b", ValueError, "'probe.0' has no element 'b' in its dict"),
        (lambda x: Record(x, x), "third", ValueError, "'probe.0' has no element 'third' in its Record"),
        (lambda x: (x, 3), 1, TypeError, "'probe.0' must return a floating point tensor, got int"),
        (lambda x: (x, x.int()), 1, TypeError, "'probe.0' must return a floating point tensor, got torch.int32"),
        (lambda x: x.int(), None, TypeError, "'probe.0' must return a floating point tensor, got torch.int32"),
        (lambda x: None, None, TypeError, "'probe.0' returns a NoneType"),
    ],
)
def test_bad_elements(function, element, error, text):
    model = conv_net(Call(function), Call(lambda x: torch.zeros(2, 8, 3, 3)))
    with pytest.raises(error, match=text):
        fastcam.explain(model, images_for(), target_layer="probe.0", layer_output=element)


class Twice(nn.Module):
    """One layer, run twice."""

    def __init__(self):
        super().__init__()
        self.stem, self.layer, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 5)

    def forward(self, x):
        x = self.layer(self.stem(x))
        return self.last(self.layer(F.relu_(x)))

    def last(self, x):
        return self.head(F.silu(x).square().mean((2, 3)))


@pytest.mark.parametrize("relu", [True, False])
def test_layer_that_runs_twice(relu):
    torch.manual_seed(3)
    model, images = Twice().eval(), images_for()
    explanation = fastcam.explain(model, images, "hires_cam", 1, "layer", relu=relu)
    activations = model.layer(model.layer(model.stem(images)).relu()).detach()
    expected = (activations * autograd_gradients(lambda a: model.last(a)[:, 1], activations)).sum(1)
    torch.testing.assert_close(explanation.native, expected.relu() if relu else expected, rtol=1e-5, atol=1e-6)


# --- several layers ---------------------------------------------------------------------------------------------------


def scaled(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """torch's bilinear interpolation, then min-max."""
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    out = F.interpolate(maps.unsqueeze(1), size=size, mode=mode, align_corners=False).squeeze(1).flatten(1)
    low, high = out.amin(1, keepdim=True), out.amax(1, keepdim=True)
    return ((out - low) / (high - low)).unflatten(1, size)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("method", ["layer_cam", "eigen_cam"])
def test_fusion_by_hand(method, axes):
    model, images = conv_net(axes=axes), images_for(axes)
    chosen = ["stem.0", "stem", "features"]  # two sizes
    apart = fastcam.explain(model, images, method, 1, chosen, fuse=None)
    assert list(apart) == chosen
    single = [fastcam.explain(model, images, method, 1, layer).native for layer in chosen]
    for layer, native in zip(chosen, single, strict=True):
        torch.testing.assert_close(apart[layer].native, native, rtol=1e-4, atol=1e-6)
        assert apart[layer].layer == layer

    size = tuple(images.shape[2:])
    parts = torch.stack([scaled(native, size) for native in single])
    for fuse, combined in (("mean", parts.mean(0)), ("max", parts.amax(0))):
        explanation = fastcam.explain(model, images, method, 1, chosen, fuse=fuse)
        assert explanation.layer == "stem.0 + stem + features"
        torch.testing.assert_close(explanation.raw, combined, rtol=0, atol=1e-4)
        torch.testing.assert_close(explanation.native, combined, rtol=0, atol=1e-4)  # the stem has the image's size
        expected = scaled(combined, size)
        torch.testing.assert_close(explanation.maps, expected, rtol=0, atol=1e-4)


def test_fusion_of_targets_and_methods():
    model, images, chosen = conv_net(), images_for(), ["stem", "features"]
    target = [[0, 1, 2], [3, 4, 0]]
    several = fastcam.explain(model, images, ["grad_cam", "layer_cam"], target, chosen)
    apart = fastcam.explain(model, images, ["grad_cam", "layer_cam"], target, chosen, fuse=None)
    assert set(several) == {"grad_cam", "layer_cam"}
    assert set(apart) == {(method, layer) for method in several for layer in chosen}
    for k in range(3):
        single = [row[k] for row in target]
        for method, explanation in several.items():
            expected = fastcam.explain(model, images, method, single, chosen)
            torch.testing.assert_close(explanation.maps[:, k], expected.maps, rtol=0, atol=1e-4)
            for layer in chosen:
                expected = fastcam.explain(model, images, method, single, layer)
                torch.testing.assert_close(apart[method, layer].maps[:, k], expected.maps, rtol=0, atol=1e-4)


@pytest.mark.parametrize("order", [["stem", "features"], ["features", "stem"]])
def test_a_parent_and_its_last_child_and_any_order(order):
    model = conv_net()
    apart = fastcam.explain(model, images_for(), "layer_cam", 1, [*order, "features.1"], fuse=None)
    assert torch.equal(apart["features"].raw, apart["features.1"].raw)
    for layer in order:
        expected = fastcam.explain(model, images_for(), "layer_cam", 1, layer)
        torch.testing.assert_close(apart[layer].raw, expected.raw, rtol=1e-4, atol=1e-6)


# --- other numbers of axes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize(
    "method", ["grad_cam", "grad_cam_pp", "xgrad_cam", "hires_cam", "layer_cam", "cam", "eigen_cam"]
)
def test_signals_and_volumes_are_pictures_with_other_axes(axes, method):
    """A 1-D network is a 2-D network on pictures of one row; a 3-D one with one slice is a 2-D network."""
    flat, other = conv_net(), conv_net(axes=axes)
    state = {name: of_axes(value, axes) for name, value in flat.state_dict().items()}
    other.load_state_dict(state)
    flattened = images_for(axes) if axes == 1 else images_for(2)
    picture = flattened.unsqueeze(2) if axes == 1 else flattened
    signal = flattened if axes == 1 else flattened.unsqueeze(2)
    layer = "relu" if method == "cam" else "features"
    for target in (1, [[0, 1], [2, 3]]):
        expected = fastcam.explain(flat, picture, method, target, layer)
        explanation = fastcam.explain(other, signal, method, target, layer)
        assert explanation.maps.shape[-axes:] == signal.shape[2:]
        shape = explanation.maps.shape
        torch.testing.assert_close(explanation.raw, expected.raw.reshape(shape), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(explanation.maps, expected.maps.reshape(shape), rtol=0, atol=1e-3)


def of_axes(value: Tensor, axes: int) -> Tensor:
    """A 2-D kernel as the 1-D or 3-D one that does the same to one row or one slice."""
    if value.dim() != 4:
        return value
    return value[:, :, 1] if axes == 1 else F.pad(value.unsqueeze(2), (0, 0, 0, 0, 1, 1))


def test_deep_copies_and_two_models_do_not_meet():
    model = conv_net()
    other = copy.deepcopy(model)
    other.probe = nn.Conv2d(8, 8, 1).eval()
    assert [fastcam.explain(each, images_for()).layer for each in (model, other, model)] == ["relu", "probe", "relu"]
