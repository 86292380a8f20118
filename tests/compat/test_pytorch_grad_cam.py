"""The same calls on pytorch-grad-cam and on the package that takes its place: the same maps."""

import contextlib
import inspect
import io

import numpy as np
import pytest
import pytorch_grad_cam as peer
import torch
import torchvision
from pytorch_grad_cam.utils import image as peer_image
from pytorch_grad_cam.utils import model_targets as peer_targets
from pytorch_grad_cam.utils import reshape_transforms as peer_reshapes
from torch import nn

import fastcam
from fastcam.compat import pytorch_grad_cam as ours
from fastcam.compat.pytorch_grad_cam.utils import image, model_targets, reshape_transforms
from tests.support.conv_net import conv_net
from tests.support.tiers import slow

CAMS = [
    "AblationCAM",
    "EigenCAM",
    "EigenGradCAM",
    "FEM",
    "FullGrad",
    "GradCAM",
    "GradCAMElementWise",
    "GradCAMPlusPlus",
    "HiResCAM",
    "KPCA_CAM",
    "LayerCAM",
    "RandomCAM",
    "ScoreCAM",
    "SegEigenCAM",
    "ShapleyCAM",
    "XGradCAM",
]
SMOOTHING = [
    each for each in CAMS if each not in ("EigenCAM", "EigenGradCAM", "FEM", "FullGrad", "KPCA_CAM", "SegEigenCAM")
]
EXACT_ON_REQUEST = ("EigenCAM", "EigenGradCAM", "GradCAMPlusPlus")


class Smooth(nn.Module):
    """A network whose score is no piecewise linear function of the activations."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.SiLU(), nn.Conv2d(6, 8, 3, stride=2), nn.ReLU())
        self.more = nn.Sequential(nn.Conv2d(8, 8, 3), nn.SiLU())
        self.classifier = nn.Linear(8, 5)

    def forward(self, images):
        return self.classifier(self.more(self.features(images)).mean((2, 3)))


@pytest.fixture(scope="module")
def networks():
    """A small network with normalisation, one without a piecewise linear head, and ResNet-18; in float64.

    Definitions are compared, and a maximum or the sign of a component may hang on the rounding of float32.
    """
    torch.manual_seed(0)
    small = conv_net(inplace=False).double()
    resnet = torchvision.models.resnet18(weights=None, num_classes=10).double().eval()
    return {
        "small": (small, [small.features], (16, 12)),
        "smooth": (Smooth().double().eval(), ["features"], (20, 20)),
        "resnet18": (resnet, [resnet.layer3, resnet.layer4], (64, 64)),
    }


def both(networks, which, name, **options):
    """The tool's object and ours, of one network, and images."""
    model, layers, size = networks[which]
    layers = [getattr(model, each) if isinstance(each, str) else each for each in layers]
    exact = {"exact_peer": True} if name in EXACT_ON_REQUEST or options.pop("exact", False) else {}
    return (
        getattr(peer, name)(model, layers),
        getattr(ours, name)(model, layers, **exact),
        torch.randn(2, 3, *size).double(),
    )


def called(cam, *arguments, **options):
    """The map, without the tool's progress bars, from one state of the random generators."""
    np.random.seed(0)
    torch.manual_seed(0)
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        found = cam(*arguments, **options)
    kept = getattr(cam, "base_cam", cam).activations_and_grads
    kept.activations, kept.gradients = [], []  # the tool detaches them in place when it goes, which views refuse
    return found


def close(found, expected, tolerance=1e-4):
    assert found.dtype == expected.dtype == np.float32
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < tolerance
    assert expected.max() > 0.5  # it shows something


@pytest.mark.parametrize("which", ["small", "smooth", *slow("resnet18")])
@pytest.mark.parametrize("name", CAMS)
def test_maps_of_the_highest_class(networks, which, name):
    theirs, mine, images = both(networks, which, name)
    close(called(mine, images, None), called(theirs, images, None), 2e-3 if name == "KPCA_CAM" else 1e-4)
    assert torch.allclose(mine.outputs, theirs.outputs.detach(), atol=1e-5)


@pytest.mark.parametrize("name", CAMS)
def test_maps_of_chosen_classes(networks, name):
    theirs, mine, images = both(networks, "smooth", name)
    expected = called(theirs, images, [peer_targets.ClassifierOutputTarget(each) for each in (3, 1)])
    close(called(mine, images, [model_targets.ClassifierOutputTarget(each) for each in (3, 1)]), expected)
    close(called(mine, images, [peer_targets.ClassifierOutputTarget(each) for each in (3, 1)]), expected)


@pytest.mark.parametrize("name", SMOOTHING)
def test_smoothed_by_components(networks, name):
    theirs, mine, images = both(networks, "smooth", name, exact=True)
    close(called(mine, images, None, eigen_smooth=True), called(theirs, images, None, eigen_smooth=True), 1e-3)


@pytest.mark.parametrize("name", ["GradCAM", "LayerCAM", "FullGrad"])
def test_smoothed_by_augmentation(networks, name):
    theirs, mine, images = both(networks, "smooth", name)
    close(called(mine, images, None, aug_smooth=True), called(theirs, images, None, aug_smooth=True))


@pytest.mark.parametrize("target", ["ClassifierOutputSoftmaxTarget", "ClassifierOutputReST"])
@pytest.mark.parametrize("name", ["GradCAM", "GradCAMPlusPlus", "ScoreCAM", "AblationCAM", "ShapleyCAM"])
def test_other_targets(networks, name, target):
    theirs, mine, images = both(networks, "smooth", name)
    expected = called(theirs, images, [getattr(peer_targets, target)(each) for each in (3, 1)])
    close(called(mine, images, [getattr(model_targets, target)(each) for each in (3, 1)]), expected)


@pytest.mark.parametrize("kernel", ["linear", "poly", "rbf", "sigmoid", "cosine"])
def test_kernels(networks, kernel):
    model, _, size = networks["smooth"]
    images = torch.randn(2, 3, *size).double()
    expected = called(peer.KPCA_CAM(model, [model.features], kernel=kernel, gamma=0.3), images, None)
    close(called(ours.KPCA_CAM(model, [model.features], kernel=kernel, gamma=0.3), images, None), expected, 2e-3)


def test_grad_cam_plus_plus_is_the_papers(networks):
    model, _, size = networks["smooth"]
    images = torch.randn(2, 3, *size).double()
    expected = fastcam.explain(model, images, "grad_cam_pp", None, "features").maps.numpy()
    assert np.abs(ours.GradCAMPlusPlus(model, [model.features])(images, None) - expected).max() < 0.02


@pytest.mark.parametrize("options", [{}, {"alpha": 0.5}, {"comparison_categories": [1, 2]}, {"target_idx": 2}])
def test_finer_cam(networks, options):
    model, _, size = networks["smooth"]
    images = torch.randn(3, 3, *size).double()
    expected = called(peer.FinerCAM(model, [model.features]), images, **options)
    close(called(ours.FinerCAM(model, [model.features]), images, **options), expected)
    based = called(ours.FinerCAM(model, [model.features], base_method=ours.LayerCAM), images, **options)
    close(based, called(peer.FinerCAM(model, [model.features], base_method=peer.LayerCAM), images, **options))


def test_volumes():
    torch.manual_seed(0)
    model = conv_net(axes=3, inplace=False)
    volumes = torch.randn(2, 3, 6, 8, 10)
    for name in ("GradCAM", "LayerCAM", "FEM"):
        expected = called(getattr(peer, name)(model, [model.features]), volumes, None)
        close(called(getattr(ours, name)(model, [model.features]), volumes, None), expected)


def test_transformers():
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=6).eval()
    nn.init.normal_(model.heads[0].weight)
    layers = [model.encoder.layers[-1].ln_1]
    images = torch.randn(2, 3, 32, 32)

    def reshaped(tokens):
        return peer_reshapes.vit_reshape_transform(tokens, 4, 4)

    def own(tokens):
        return reshape_transforms.vit_reshape_transform(tokens, 4, 4)

    for name in ("GradCAM", "LayerCAM", "ScoreCAM"):
        expected = called(getattr(peer, name)(model, layers, reshaped), images, None)
        close(called(getattr(ours, name)(model, layers, own), images, None), expected)


class Tokens(Smooth):
    """The same network, with what the layer returns as tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Identity()

    def forward(self, images):
        maps = self.features(images)
        tokens = self.tokens(maps.flatten(2).mT)
        return self.classifier(self.more(tokens.mT.unflatten(2, maps.shape[2:])).mean((2, 3)))


def test_shapley_cam_of_tokens():
    model, images = Tokens().eval(), torch.randn(2, 3, 20, 20)
    expected = called(peer.ShapleyCAM(model, [model.features]), images, None)
    close(ours.ShapleyCAM(model, [model.features])(images, None), expected)
    reshaped = ours.ShapleyCAM(model, [model.tokens], lambda tokens: tokens.mT.unflatten(2, (9, 9)))
    close(reshaped(images, None), expected)  # the tool itself knows no tokens here


def test_a_users_own_method_gets_what_it_is_written_for(networks):
    def weights(self, input_tensor, target_layer, targets, activations, grads):
        assert isinstance(activations, np.ndarray)
        assert activations.shape == grads.shape
        assert isinstance(target_layer, nn.Module)
        return (grads * activations).max(axis=(2, 3)) + input_tensor.mean().item()

    for base in ("BaseCAM", "GradCAM"):
        theirs = type("Own", (getattr(peer, base, peer.base_cam.BaseCAM),), {"get_cam_weights": weights})
        mine = type("Own", (getattr(ours, base),), {"get_cam_weights": weights})
        model, layers, size = networks["resnet18"]
        images = torch.randn(2, 3, *size).double()
        close(called(mine(model, layers), images, None), called(theirs(model, layers), images, None))


def test_guided_backpropagation(networks):
    model, _, size = networks["small"]
    images = torch.randn(1, 3, *size).double()
    for target in (None, 2):
        expected = peer.GuidedBackpropReLUModel(model)(images.clone(), target)
        found = ours.GuidedBackpropReLUModel(model)(images, target)
        assert found.shape == (*size, 3)
        assert np.abs(found - expected).max() < 1e-6 * max(1, np.abs(expected).max())
    pictures = (image.deprocess_image(found), peer_image.deprocess_image(expected))
    assert np.abs(pictures[0].astype(int) - pictures[1]).max() <= 1


def test_nothing_is_left_behind():
    model, size = torchvision.models.resnet18(weights=None, num_classes=10).train(), (64, 64)
    layers = [model.layer3, model.layer4]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with ours.GradCAM(model, layers) as cam:
        cam(torch.randn(2, 3, *size), None)
    assert model.training
    model.eval()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(
        ValueError, match="`targets` must have one callable for each of the 2 rows of the output, got 1"
    ):
        cam(torch.randn(2, 3, *size), [model_targets.ClassifierOutputTarget(1)])
    with pytest.raises(IndexError), ours.GradCAM(model, layers):
        raise IndexError


def test_the_sign_of_components_is_that_of_the_activations(networks):
    model, layers, size = networks["small"]
    images = torch.randn(3, 3, *size).double()
    found = ours.EigenCAM(model, layers)(images, None)
    expected = [called(peer.EigenCAM(model, layers), images, None)]
    mirrored = np.abs(found - expected[0]).max(axis=(1, 2)) > 1e-3
    exact = ours.EigenCAM(model, layers, exact_peer=True)(images, None)
    assert np.abs(exact - expected[0]).max() < 1e-4
    assert np.abs(found[~mirrored] - expected[0][~mirrored]).max(initial=0) < 1e-3


def test_pictures():
    random = np.random.default_rng(0)
    picture, mask = random.random((30, 20, 3), dtype=np.float32), random.random((30, 20), dtype=np.float32)
    for options in ({}, {"use_rgb": True}, {"colormap": 4, "image_weight": 0.7}):
        assert np.array_equal(
            image.show_cam_on_image(picture, mask, **options), peer_image.show_cam_on_image(picture, mask, **options)
        )
    for bad in ({"img": picture * 300}, {"image_weight": 1.5}):
        arguments = {"img": picture, "mask": mask, **bad}
        with pytest.raises(ValueError, match="must"):
            image.show_cam_on_image(**arguments)
    for given in (picture, (255 * picture).astype(np.uint8)):
        expected = peer_image.preprocess_image(given, [0.4, 0.5, 0.6], [0.2, 0.3, 0.1])
        assert torch.allclose(image.preprocess_image(given, [0.4, 0.5, 0.6], [0.2, 0.3, 0.1]), expected, atol=1e-6)
    maps = random.normal(size=(3, 7, 5)).astype(np.float32)
    for size in (None, (20, 33), (3, 4)):
        assert np.abs(image.scale_cam_image(maps, size) - peer_image.scale_cam_image(maps, size)).max() < 1e-5
    stacks = random.normal(size=(2, 4, 7, 5)).astype(np.float32)
    expected = peer_image.scale_accross_batch_and_channels(stacks, (9, 11))
    assert np.abs(image.scale_accross_batch_and_channels(stacks, (9, 11)) - expected).max() < 1e-5
    labels = {0: "a,b,c,d", 1: "e", 2: "f,g"}
    scores = random.random((2, 3))
    assert image.create_labels_legend(scores, labels) == peer_image.create_labels_legend(scores, labels)


def test_targets_say_the_same():
    outputs = torch.randn(4, 6)
    for name, arguments in (
        ("ClassifierOutputTarget", (2,)),
        ("ClassifierOutputSoftmaxTarget", (2,)),
        ("ClassifierOutputReST", (2,)),
        ("BinaryClassifierOutputTarget", (1,)),
        ("BinaryClassifierOutputTarget", (0,)),
        ("SoftmaxOutputTarget", ()),
        ("RawScoresOutputTarget", ()),
        ("FinerWeightedTarget", (0, [1, 3], 0.7)),
    ):
        found, expected = getattr(model_targets, name)(*arguments), getattr(peer_targets, name)(*arguments)
        for output in (outputs, outputs[0]):
            assert torch.allclose(found(output), expected(output), atol=1e-6), name
    mask = np.random.default_rng(0).random((5, 4)).astype(np.float32)
    segmented = torch.randn(3, 5, 4)
    arguments = (1, mask)
    found = model_targets.SemanticSegmentationTarget(*arguments)(segmented)
    assert torch.allclose(found, peer_targets.SemanticSegmentationTarget(*arguments)(segmented))
    boxes = {"boxes": torch.tensor([[0.0, 0, 10, 10], [5, 5, 20, 20]]), "labels": torch.tensor([1, 2])}
    boxes["scores"] = torch.tensor([0.9, 0.8])
    for labels in ([1, 2], [2, 2], [1]):
        arguments = (labels, [np.array([1.0, 1, 10, 10]), np.array([5.0, 5, 19, 19])])
        found = model_targets.FasterRCNNBoxScoreTarget(*arguments)(boxes)
        assert torch.allclose(found, peer_targets.FasterRCNNBoxScoreTarget(*arguments)(boxes))


def test_shapes():
    tokens = torch.randn(2, 17, 5)
    expected = peer_reshapes.vit_reshape_transform(tokens, 4, 4)
    assert torch.equal(reshape_transforms.vit_reshape_transform(tokens, 4, 4), expected)
    expected = peer_reshapes.swinT_reshape_transform(tokens[:, 1:], 4, 4)
    assert torch.equal(reshape_transforms.swinT_reshape_transform(tokens[:, 1:], 4, 4), expected)
    pyramid = {"0": torch.randn(1, 3, 16, 16), "pool": torch.randn(1, 3, 4, 4)}
    expected = peer_reshapes.fasterrcnn_reshape_transform(pyramid)
    assert torch.allclose(reshape_transforms.fasterrcnn_reshape_transform(pyramid), expected)


def parameters(function):
    return {
        name: each.default
        for name, each in inspect.signature(function).parameters.items()
        if name not in ("self", "exact_peer")
    }


def test_every_public_name_is_here_with_its_parameters():
    public = {name for name, each in vars(peer).items() if inspect.isclass(each) or inspect.isfunction(each)}
    assert public <= set(ours.__all__)
    for name in public - {"AblationLayer", "AblationLayerVit", "AblationLayerFasterRCNN", "ActivationsAndGradients"}:
        found, expected = parameters(getattr(ours, name)), parameters(getattr(peer, name))
        assert list(found) == list(expected), name
        for parameter, default in expected.items():
            # The tool's default of a transform is a type, by mistake.
            if parameter not in ("ablation_layer", "base_method", "reshape_transform"):
                assert found[parameter] == default, (name, parameter)
    for module, own in ((peer_targets, model_targets), (peer_reshapes, reshape_transforms), (peer_image, image)):
        names = {name for name, each in vars(module).items() if getattr(each, "__module__", "") == module.__name__}
        for name in names - {"show_factorization_on_image"}:
            assert list(parameters(getattr(own, name))) == list(parameters(getattr(module, name))), name
