"""Class activation maps of classifiers inside a model: the gradient of the summed logits, without a backward pass."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import fastcam

pytestmark = pytest.mark.usefixtures("one_thread")


class Head(nn.Module):
    """As a level of YOLO-NAS: the stem, a convolution of the classes, and one position of its output for each cell."""

    def __init__(self, channels: int, classes: int, kernel: int = 1, **options) -> None:
        super().__init__()
        self.cls_convs = nn.Sequential(nn.Conv2d(channels, 6, 3, padding=1), nn.ReLU(inplace=True))
        self.cls_pred = nn.Conv2d(6, classes, kernel, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.cls_pred(self.cls_convs(x)).relu_()  # in place: what was read must not change


class Pyramid(nn.Module):
    def __init__(self, kernel: int = 1, **options) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Conv2d(3, 5, 3, padding=1)
        self.heads = nn.ModuleList(Head(5, 4, kernel, **options) for _ in range(3))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.body(x)
        return [head(F.avg_pool2d(x, 2**level)) for level, head in enumerate(self.heads)]


KERNELS = {
    "one position": {},
    "three": {"kernel": 3, "padding": 1},
    "three without padding": {"kernel": 3},
    "with steps": {"kernel": 3, "padding": 1, "stride": 2},
    "one position with steps": {"stride": 2},
    "far apart": {"kernel": 3, "padding": 2, "dilation": 2},
    "of two sizes": {"kernel": (1, 3), "padding": (0, 1)},
}


def images(count: int = 2, side: int = 16) -> Tensor:
    return torch.randn(count, 3, side, side + 4, generator=torch.Generator().manual_seed(1)).double()


def by_autograd(read: Tensor, layer: nn.Module, classes: Tensor) -> Tensor:
    """For each image and class the sum over channels of what was read times the gradient of the summed logits."""
    maps = []
    for row, of_image in enumerate(classes.reshape(len(classes), -1).tolist()):
        for index in of_image:
            leaf = read[row : row + 1].detach().requires_grad_()
            (gradient,) = torch.autograd.grad(layer(leaf)[:, index].sum(), leaf)
            maps.append((gradient * leaf.detach())[0].sum(0))
    return torch.stack(maps).reshape(*classes.shape, *read.shape[2:])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("target", [None, 1, [3, 0], [[0, 1, 2], [3, 2, 1]], "all"])
def test_the_gradient_of_the_summed_logits(kernel, target):
    options = dict(KERNELS[kernel])
    model = Pyramid(options.pop("kernel", 1), **options).double().eval()
    inputs, names = images(), [f"heads.{level}.cls_pred" for level in range(3)]
    found = fastcam.class_maps(model, inputs, names, target)
    assert list(found) == names
    read = [head.cls_convs(F.avg_pool2d(model.body(inputs), 2**level)) for level, head in enumerate(model.heads)]
    logits = [head.cls_pred(each) for head, each in zip(model.heads, read, strict=True)]
    highest = torch.stack([each.flatten(2).amax(2) for each in logits])
    expected = {
        "None": highest.amax(0).argmax(1),
        "1": torch.tensor([1, 1]),
        "all": torch.arange(4).expand(2, 4),
    }.get(str(target), torch.tensor(target) if isinstance(target, list) else None)
    for level, name in enumerate(names):
        explanation = found[name]
        assert torch.equal(explanation.targets, expected)
        exact = by_autograd(read[level], model.heads[level].cls_pred, expected)
        torch.testing.assert_close(explanation.native, exact)
        scores = highest[level].gather(1, expected.reshape(2, -1)).reshape(expected.shape)
        torch.testing.assert_close(explanation.scores, scores.detach())
        assert explanation.layer == name
    assert not any(module._forward_hooks for module in model.modules())


def test_the_map_of_one_position_is_the_logit_without_its_bias():
    model = Pyramid().double().eval()
    found = fastcam.class_maps(model, images(), model.heads[0].cls_pred, 2)
    head = model.heads[0]
    logits = head.cls_pred(head.cls_convs(model.body(images())))[:, 2]
    torch.testing.assert_close(found.native, (logits - head.cls_pred.bias[2]).detach())


@pytest.mark.parametrize("fuse", ["max", "mean"])
def test_levels_together(fuse):
    """At the size of the images, each in units of its logit."""
    model, names = Pyramid().double().eval(), [f"heads.{level}.cls_pred" for level in range(3)]
    apart = fastcam.class_maps(model, images(), names, [[0, 1], [2, 3]])
    found = fastcam.class_maps(model, images(), names, [[0, 1], [2, 3]], fuse=fuse)
    large = torch.stack([F.interpolate(each.native, (16, 20), mode="bilinear") for each in apart.values()])
    torch.testing.assert_close(found.raw, large.amax(0) if fuse == "max" else large.mean(0))
    torch.testing.assert_close(found.scores, torch.stack([each.scores for each in apart.values()]).amax(0))
    assert found.layer == " + ".join(names)


def test_one_image_is_what_it_is_in_a_batch():
    model, inputs = Pyramid(3, padding=1).double().eval(), images(3)
    found = fastcam.class_maps(model, inputs, "heads.1.cls_pred")
    for row in range(3):
        alone = fastcam.class_maps(model, inputs[row : row + 1], "heads.1.cls_pred")
        torch.testing.assert_close(alone.native[0], found.native[row])


def test_a_classifier_behind_pooling_is_cam():
    """A ResNet's, where the map that was pooled is found; and an auxiliary one, which is not the model's output."""
    torch.manual_seed(0)
    resnet = torchvision.models.resnet18(weights=None, num_classes=6).eval()
    inputs = torch.rand(2, 3, 64, 64)
    found = fastcam.class_maps(resnet, inputs, "fc", [[1, 2], [3, 4]])
    expected = fastcam.explain(resnet, inputs, "cam", [[1, 2], [3, 4]], "layer4")
    torch.testing.assert_close(found.native, expected.native, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.scores, expected.scores)

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.late = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)
            self.auxiliary, self.main = nn.Linear(4, 3), nn.Linear(5, 3)

        def forward(self, x):
            x = self.body(x)
            self.auxiliary(x.mean((2, 3)))
            return self.main(self.late(x).mean((2, 3)))

    model = Two().eval()
    found = fastcam.class_maps(model, inputs, "auxiliary", 2)
    exact = (model.body(inputs) * model.auxiliary.weight[2][:, None, None]).sum(1)
    torch.testing.assert_close(found.native, exact.detach(), rtol=1e-4, atol=1e-5)


def small(name: str, **options) -> nn.Module:
    torch.manual_seed(0)
    plain = {"weights": None, "weights_backbone": None, "num_classes": 3}
    return torchvision.models.get_model(name, **plain, **options).eval()


def test_retinanet_with_its_anchors():
    """One classifier, shared by five levels, that has every class for each of nine anchors."""
    model = small("retinanet_resnet50_fpn", min_size=64, max_size=96)
    inputs = torch.rand(1, 3, 64, 96)
    found = fastcam.class_maps(model, inputs, "head.classification_head.cls_logits", 2, classes=3)
    assert len(found) == 5
    read = []
    layer = model.head.classification_head.cls_logits
    handle = layer.register_forward_hook(lambda module, given, output: read.append(given[0].detach()))
    with torch.no_grad():
        model(inputs)
    handle.remove()
    for explanation, each in zip(found.values(), read, strict=True):
        leaf = each.clone().requires_grad_()
        channels = layer(leaf).unflatten(1, (9, 3))[:, :, 2]
        (gradient,) = torch.autograd.grad(channels.sum(), leaf)
        exact = (gradient * each).sum(1)
        torch.testing.assert_close(explanation.native, exact, rtol=1e-3, atol=1e-3 * float(exact.abs().max()))
        torch.testing.assert_close(explanation.scores, channels.detach().flatten(1).amax(1))


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("fcn_resnet50", "classifier.4"),
        ("deeplabv3_resnet50", "classifier"),
        ("lraspp_mobilenet_v3_large", "classifier.high_classifier"),
    ],
)
def test_segmenters(name, layer):
    model, inputs = small(name), torch.rand(2, 3, 64, 64)
    found = fastcam.class_maps(model, inputs, layer, [[0, 2], [1, 1]])
    assert found.native.dim() == 4
    assert found.native.shape[:2] == (2, 2)
    assert found.native.abs().max() > 0


def test_linear_layers_over_positions():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

        def forward(self, x):
            return self.head(self.body(x).movedim(1, -1))

    model = Last().eval()
    found = fastcam.class_maps(model, images().float(), "head", 3)
    exact = (model.body(images().float()) * model.head.weight[3][:, None, None]).sum(1)
    torch.testing.assert_close(found.native, exact.detach(), rtol=1e-4, atol=1e-5)


def test_a_final_relu():
    model = Pyramid().double().eval()
    plain = fastcam.class_maps(model, images(), "heads.0.cls_pred", 1)
    found = fastcam.class_maps(model, images(), "heads.0.cls_pred", 1, relu=True)
    torch.testing.assert_close(found.native, plain.native.relu())
    torch.testing.assert_close(found.signed, plain.native)


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.unused = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)
        self.groups, self.norm = nn.Conv2d(4, 4, 1, groups=2), nn.BatchNorm2d(4)
        self.strange, self.rows = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x):
        x = self.norm(self.groups(self.body(x)))
        self.rows(x.flatten(2).transpose(1, 2))
        return self.strange(x.flatten(2).median(2).values)


@pytest.mark.parametrize(
    ("classifier", "options", "told"),
    [
        ("groups", {}, "must be a Linear or a convolution, got 'groups', a Conv2d"),
        ("norm", {}, "must be a Linear or a convolution, got 'norm', a BatchNorm2d"),
        ("unused", {}, "'unused' was not reached"),
        ("strange", {}, r"'strange' reads \(2, 4\), which is the mean of no map"),
        ("rows", {}, r"'rows' reads tokens \(2, 252, 4\)"),
        ("nowhere", {}, "no layer named 'nowhere'"),
        ("body", {"target": 9}, r"`target` must lie in \[0, 4\)"),
        ("body", {"classes": 3}, "`classes` must divide the 4 channels of 'body', got 3"),
        ([], {}, "at least one module"),
        ("body", {"fuse": "sum"}, '`fuse` must be "mean", "max" or None, got \'sum\''),
    ],
)
def test_mistakes(classifier, options, told):
    with pytest.raises(ValueError, match=told):
        fastcam.class_maps(Odd().eval(), images().float(), classifier, **options)


def test_classifiers_of_other_numbers_of_classes():
    model = Pyramid().double().eval()
    model.heads[1].cls_pred = nn.Conv2d(6, 7, 1).double()
    names = ["heads.0.cls_pred", "heads.1.cls_pred"]
    with pytest.raises(ValueError, match="the classifiers tell 4, 7 classes apart: name the class"):
        fastcam.class_maps(model, images(), names)
    assert len(fastcam.class_maps(model, images(), names, 3)) == 2


def test_explain_takes_a_classifier():
    model, names = Pyramid().double().eval(), [f"heads.{level}.cls_pred" for level in range(3)]
    found = fastcam.explain(model, images(), "cam", [1, 3], classifier=names)
    expected = fastcam.class_maps(model, images(), names, [1, 3], fuse="mean")
    torch.testing.assert_close(found.maps, expected.maps)
    apart = fastcam.explain(model, images(), "cam", 2, classifier=names, fuse=None, relu=True, classes=2 * 2)
    for name, level in fastcam.class_maps(model, images(), names, 2, relu=True).items():
        torch.testing.assert_close(apart[name].native, level.native)
    maps = torch.empty(2, 16, 20, dtype=torch.double)
    one = fastcam.explain(model, images(), "cam", 2, classifier=model.heads[0].cls_pred, out=maps)
    torch.testing.assert_close(one.native, fastcam.class_maps(model, images(), names[0], 2).native)
    torch.testing.assert_close(maps, one.maps)


@pytest.mark.parametrize(
    ("method", "options", "told"),
    [
        ("grad_cam", {}, "`classifier` is an option of the one method \"cam\", got 'grad_cam'"),
        (["cam"], {}, r"`classifier` is an option of the one method \"cam\", got \['cam'\]"),
        ("cam", {"window": 8}, "cam of a classifier has no option 'window'; known: classes, classifier"),
        ("cam", {"target_layer": "body"}, "`target_layer` says nothing of the maps of a classifier"),
        ("cam", {"layer_run": 0}, "`layer_run` says nothing of the maps of a classifier"),
        ("cam", {"batch_size": 1}, "`batch_size` says nothing of the maps of a classifier"),
    ],
)
def test_mistakes_of_explain(method, options, told):
    with pytest.raises(TypeError, match=told):
        fastcam.explain(Pyramid().double().eval(), images(), method, 1, classifier="heads.0.cls_pred", **options)
    with pytest.raises(TypeError, match="`classifier` must be a module, its name or a list of them, got NoneType"):
        fastcam.explain(Pyramid().double().eval(), images(), "cam", 1, classifier=None)
    with pytest.raises(TypeError, match=r'did you mean fastcam.explain\(..., "cam", classifier=\)'):
        fastcam.Explainer(Pyramid(), "cam", classifier="heads.0.cls_pred")
