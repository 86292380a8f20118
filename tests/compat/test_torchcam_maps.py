"""The same calls on torch-cam and on the package that takes its place: the same maps."""

import inspect
import threading

import numpy as np
import pytest
import torch
import torchcam.methods as peer
import torchvision
from PIL import Image
from torchcam.methods import _utils as peer_finding
from torchcam.utils import overlay_mask as peer_overlay

import fastcam
from fastcam.compat.torchcam import methods as ours
from fastcam.compat.torchcam import utils
from tests.conftest import conv_net

GRADIENT = ("GradCAM", "GradCAMpp", "XGradCAM", "LayerCAM")
SIZE = (3, 64, 64)


@pytest.fixture
def resnet():
    torch.manual_seed(0)
    return torchvision.models.resnet18(weights=None, num_classes=10).eval()


def maps(module, name, model, layers, images, classes, normalized=True, **options):
    exact = {"exact_peer": True} if module is ours else {}
    with getattr(module, name)(model, layers, input_shape=SIZE, **options, **exact) as extractor:
        with torch.set_grad_enabled(name in GRADIENT):
            scores = model(images)
        torch.manual_seed(0)
        arguments = (classes, scores) if name not in ("CAM", "SmoothGradCAMpp") else (classes,)
        return extractor(*arguments, normalized=normalized)


def close(found, expected, tolerance=1e-4):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        span = (b.max() - b.min()).item()
        assert span > 0
        assert (a - b).abs().max().item() < tolerance * span


@pytest.mark.parametrize("classes", [3, [3, 1]])
@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("name", [*GRADIENT, "CAM"])
def test_maps(resnet, name, classes, normalized):
    images = torch.randn(2, *SIZE)
    layers = "layer4" if name == "CAM" else ["layer3", "layer4"]
    call = (resnet, layers, images, classes, normalized)
    close(maps(ours, name, *call), maps(peer, name, *call))


@pytest.mark.parametrize("name", ["ScoreCAM", "SSCAM", "ISCAM", "SmoothGradCAMpp"])
def test_maps_of_many_copies(name):
    torch.manual_seed(0)
    model = conv_net(inplace=False)
    options = {"num_samples": 3} if name != "ScoreCAM" else {}
    call = (model, "features", torch.randn(2, 3, 16, 12), 1)
    close(maps(ours, name, *call, **options), maps(peer, name, *call, **options), 1e-3)


@pytest.mark.parametrize(("name", "method"), [("GradCAM", "grad_cam"), ("GradCAMpp", "grad_cam_pp")])
def test_the_default_is_the_papers(resnet, name, method):
    images = torch.randn(2, *SIZE)
    with getattr(ours, name)(resnet, "layer4") as extractor:
        found = extractor([3, 1], resnet(images))
    native = fastcam.explain(resnet, images, method, [3, 1], "layer4").native
    low, high = native.amin((1, 2), keepdim=True), native.amax((1, 2), keepdim=True)
    close(found, [(native - low) / (high - low)])


def test_finer_and_refined(resnet):
    images = torch.randn(2, *SIZE)
    for name, options in (("FinerCAM", {"gamma": 0.5}), ("FinerCAM", {"base_method": "LayerCAM"})):
        results = []
        for module in (ours, peer):
            given = {**options, "base_method": getattr(module, options.get("base_method", "GradCAM"))}
            with getattr(module, name)(resnet, "layer4", input_shape=SIZE, **given) as extractor:
                results.append(extractor([3, 1], resnet(images)))
        close(*results)
    results = []
    for module in (ours, peer):
        with module.RefineCAM(resnet, ["layer3", "layer4"], input_shape=SIZE, base_method=module.LayerCAM) as extractor:
            results.append(extractor(3, resnet(images)))
    close(*results, 1e-3)


def test_frozen_parameters_no_grad_and_what_is_left_behind(resnet):
    images = torch.randn(2, *SIZE)
    expected = maps(peer, "LayerCAM", resnet, "layer4", images, [3, 1])
    frozen = resnet.requires_grad_(False)
    extractor = ours.LayerCAM(frozen, "layer4")
    with torch.no_grad():
        scores = frozen(images)
    close(extractor([3, 1], scores), expected)
    extractor.remove_hooks()
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in frozen.modules())
    assert all(parameter.grad is None for parameter in frozen.parameters())


def test_threads_have_passes_of_their_own(resnet):
    batches = [torch.randn(1, *SIZE) for _ in range(4)]
    expected = [maps(ours, "LayerCAM", resnet, "layer4", each, 2)[0] for each in batches]
    found, start = [None] * 4, threading.Barrier(4)
    extractor = ours.LayerCAM(resnet, "layer4", exact_peer=True)

    def work(index):
        scores = resnet(batches[index])
        start.wait()
        found[index] = extractor(2, scores)[0]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    for a, b in zip(found, expected, strict=True):
        assert (a - b).abs().max() < 1e-5


def test_mistakes(resnet):
    extractor = ours.GradCAM(resnet, "layer4")
    with pytest.raises(AssertionError, match="no forward pass was kept"):
        extractor(1, torch.zeros(1, 10))
    scores = resnet(torch.randn(2, *SIZE))
    with pytest.raises(ValueError, match="one class for each of the 2 images, got 3"):
        extractor([1, 2, 3], scores)
    with pytest.raises(ValueError, match="layer4x"):
        ours.GradCAM(resnet, "layer4x")


def test_layers_that_are_found_and_fused(resnet):
    for model in (resnet, torchvision.models.vgg11(weights=None).eval()):
        expected = peer_finding.locate_candidate_layer(model, SIZE)
        assert ours._utils.locate_candidate_layer(model, SIZE) == expected
    stack = [torch.rand(2, 4, 4), torch.rand(2, 8, 8)]
    for name in ("GradCAM", "LayerCAM"):
        expected = getattr(peer, name).fuse_cams(stack)
        assert (getattr(ours, name).fuse_cams(stack) - expected).abs().max() < 1e-5


def test_overlays():
    random = np.random.default_rng(0)
    picture = Image.fromarray(random.integers(0, 255, (40, 30, 3), dtype=np.uint8))
    mask = Image.fromarray(random.random((7, 7), dtype=np.float32))
    for options in ({}, {"colormap": "viridis", "alpha": 0.3}):
        found, expected = (f(picture, mask, **options) for f in (utils.overlay_mask, peer_overlay))
        assert np.abs(np.asarray(found).astype(int) - np.asarray(expected)).max() <= 2


def test_every_public_name_is_here_with_its_parameters():
    names = {name for name, each in vars(peer).items() if inspect.isclass(each) and issubclass(each, object)}
    for name in names - {"OutputTarget"}:
        mine, theirs = getattr(ours, name), getattr(peer, name)
        for function in ("__init__", "__call__"):
            given = inspect.signature(getattr(mine, function)).parameters
            for parameter, each in inspect.signature(getattr(theirs, function)).parameters.items():
                if each.kind is each.VAR_KEYWORD or (inspect.isclass(each.default) and each.default is not each.empty):
                    continue
                assert parameter in given, (name, function, parameter)
                assert given[parameter].default == each.default or parameter == "base_method", (name, parameter)
