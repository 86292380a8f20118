"""What the package in the place of torch-cam does beyond it: the papers' numbers, no_grad, threads, sentences."""

import copy
import pickle
import threading

import pytest
import torch
import torchcam.methods as peer
import torchvision

import fastcam
from fastcam.compat import pytorch_grad_cam
from fastcam.compat.captum.attr import LayerGradCam, LayerIntegratedGradients
from fastcam.compat.pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from fastcam.compat.torchcam import methods as ours

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


@pytest.mark.parametrize(("name", "method"), [("GradCAM", "grad_cam"), ("GradCAMpp", "grad_cam_pp")])
def test_the_default_is_the_papers(resnet, name, method):
    images = torch.randn(2, *SIZE)
    with getattr(ours, name)(resnet, "layer4") as extractor:
        found = extractor([3, 1], resnet(images))
    native = fastcam.explain(resnet, images, method, [3, 1], "layer4").native
    low, high = native.amin((1, 2), keepdim=True), native.amax((1, 2), keepdim=True)
    close(found, [(native - low) / (high - low)])


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
    with pytest.raises(AssertionError, match="no forward pass was recorded"):
        extractor(1, torch.zeros(1, 10))
    scores = resnet(torch.randn(2, *SIZE))
    with pytest.raises(ValueError, match="one class for each of the 2 images, got 3"):
        extractor([1, 2, 3], scores)
    with pytest.raises(ValueError, match="layer4x"):
        ours.GradCAM(resnet, "layer4x")


@pytest.mark.parametrize("layer", ["layer3", "layer4"])
def test_a_living_extractor_leaves_other_methods_alone(resnet, layer):
    images, others = torch.randn(2, *SIZE), torch.randn(2, *SIZE)

    def explained():
        native = fastcam.explain(resnet, others, target=1, target_layer="layer4").native
        paths = LayerIntegratedGradients(resnet, resnet.layer4).attribute(others, target=1, n_steps=4)
        cam = pytorch_grad_cam.GradCAM(resnet, [resnet.layer4])(others, [ClassifierOutputTarget(1)] * 2)
        layer_cam = LayerGradCam(resnet, resnet.layer4).attribute(others, target=1)
        return [native, paths, torch.from_numpy(cam), layer_cam]

    without, expected = explained(), maps(peer, "GradCAM", resnet, layer, images, [3, 1])
    extractor = ours.GradCAM(resnet, layer, exact_peer=True)
    scores = resnet(images)
    close(explained(), without, 1e-6)
    close(extractor([3, 1], scores), expected)  # the record is still that of the user's pass


@pytest.mark.parametrize("name", ["GradCAM", "SmoothGradCAMpp", "ScoreCAM"])
def test_the_hooks_go_away_with_the_extractor(resnet, name):
    extractor = getattr(ours, name)(resnet, "layer4")
    resnet(torch.randn(1, *SIZE))
    del extractor
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in resnet.modules())


def test_a_copied_extractor_records_its_own_model(resnet):
    images = torch.randn(2, *SIZE)
    expected = maps(peer, "GradCAM", resnet, "layer4", images, [3, 1])
    extractor = ours.GradCAM(resnet, "layer4", exact_peer=True)
    for twin in (copy.deepcopy(extractor), pickle.loads(pickle.dumps(extractor))):
        close(twin([3, 1], twin.model(images)), expected)
        assert extractor.hook_a == [None]
    copy.deepcopy(resnet)(images)  # its hooks belong to no extractor
    assert extractor.hook_a == [None]
