"""The error of a reconstruction: of the images themselves, and of each copy's own, against formulas by hand."""

import threading

import pytest
import torch
from torch import Tensor, nn

import fastcam
from fastcam import targets
from tests.support.conv_net import images_for

pytestmark = pytest.mark.usefixtures("one_thread")


class Autoencoder(nn.Module):
    """Changes its input in place at first; returns the reconstruction alone, or first of three."""

    def __init__(self, kind: str = "plain") -> None:
        super().__init__()
        torch.manual_seed(3)
        self.kind = kind
        self.first = nn.LeakyReLU(0.5, inplace=True)
        self.encoder = nn.Conv2d(3, 6, 3, 2, 1).double()
        self.decoder = nn.ConvTranspose2d(6, 3, 4, 2, 1).double()
        self.eval()

    def code(self, x: Tensor) -> Tensor:
        return self.encoder(self.first(x))

    def forward(self, x: Tensor):
        code = self.code(x)
        result = self.decoder(code.tanh())
        if self.kind == "none":
            return code
        return {"plain": result, "tuple": (result, code, code.exp())}.get(self.kind, {"code": code, "image": result})


KINDS = ("plain", "tuple", "dict")


def images(count: int = 2) -> Tensor:
    return images_for(count=count).double()


def error_of(x: Tensor) -> Tensor:
    return (Autoencoder()(x.clone()) - x).square().flatten(1).mean(1)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind):
    inputs = images()
    found = fastcam.explain(Autoencoder(kind), inputs, "saliency", targets.Reconstruction())
    leaf = inputs.clone().requires_grad_()
    errors = error_of(leaf)
    torch.testing.assert_close(found.scores, errors.detach())
    (gradient,) = torch.autograd.grad(errors.sum(), leaf)
    torch.testing.assert_close(found.native, gradient.abs().amax(1))


def test_absolute_errors_and_the_map_of_errors():
    inputs, model = images(), Autoencoder()
    target = targets.Reconstruction("absolute")
    found = fastcam.explain(model, inputs, "saliency", target)
    difference = (model(inputs.clone()) - inputs).abs().detach()
    torch.testing.assert_close(found.scores, difference.mean((1, 2, 3)))
    torch.testing.assert_close(target.errors(model(inputs.clone()), inputs).detach(), difference.mean(1))


@pytest.mark.parametrize("engine", ["auto", "dense"])
def test_occluded_copies_have_errors_of_their_own(engine):
    inputs = images()
    options = {"window": 4, "stride": 4, "baseline": 0.0, "engine": engine}
    found = fastcam.explain(Autoencoder(), inputs, "occlusion", targets.Reconstruction(), **options)
    for top in range(0, 12, 4):
        for left in range(0, 12, 4):
            copy = inputs.clone()
            copy[:, :, top : top + 4, left : left + 4] = 0
            drop = error_of(inputs) - error_of(copy)
            torch.testing.assert_close(found.native[:, top, left], drop.detach())


def test_the_unchanged_images_where_activations_are_replaced():
    model, inputs = Autoencoder(), images()
    found = fastcam.explain(model, inputs, "ablation_cam", targets.Reconstruction(), "encoder")
    activations, clean = model.code(inputs.clone()), error_of(inputs)
    weights = []
    for channel in range(6):
        ablated = activations.clone()
        ablated[:, channel] = 0
        errors = (model.decoder(ablated.tanh()) - inputs).square().flatten(1).mean(1)
        weights.append((clean - errors) / clean)
    exact = torch.einsum("cn,nchw->nhw", torch.stack(weights), activations).relu()
    torch.testing.assert_close(found.native, exact.detach())


@pytest.mark.parametrize("method", ["rise", "smooth_grad", "integrated_gradients", "score_cam", "grad_cam"])
def test_a_batch_is_its_images(method):
    model, inputs = Autoencoder(), images(3)
    layer = "encoder" if method.endswith("cam") else None
    whole = fastcam.explain(model, inputs, method, targets.Reconstruction(), layer)
    for row in range(3):
        single = fastcam.explain(model, inputs[row : row + 1], method, targets.Reconstruction(), layer)
        torch.testing.assert_close(whole.scores[row], single.scores[0])
        if method in ("integrated_gradients", "score_cam", "grad_cam"):  # the others draw noise for each image
            torch.testing.assert_close(whole.native[row], single.native[0])


def test_nothing_stays():
    model, inputs = Autoencoder(), images()
    fastcam.explain(model, inputs, "saliency", targets.Reconstruction())
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    assert isinstance(model(inputs), Tensor)


def test_other_threads_get_the_plain_output(monkeypatch):
    model, inputs, seen = Autoencoder(), images(), []
    run = model.decoder.forward

    def spy(x: Tensor) -> Tensor:
        if threading.current_thread() is threading.main_thread():
            thread = threading.Thread(target=lambda: seen.append(model(inputs.clone())))
            thread.start()
            thread.join()
        return run(x)

    monkeypatch.setattr(model.decoder, "forward", spy)
    fastcam.explain(model, inputs, "saliency", targets.Reconstruction())
    assert all(isinstance(output, Tensor) for output in seen)
    assert seen


def test_mistakes():
    with pytest.raises(ValueError, match="`error` must be one of squared, absolute"):
        targets.Reconstruction("l3")
    with pytest.raises(ValueError, match="has no tensor of it"):
        fastcam.explain(Autoencoder("none"), images(), "saliency", targets.Reconstruction())
    with pytest.raises(TypeError, match="leave `select` out"):
        fastcam.explain(Autoencoder("tuple"), images(), "saliency", targets.Reconstruction(), select=0)
