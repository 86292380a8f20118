"""What the tests of the package in Captum's place call: small models, the calls of every class, the comparison."""

import contextlib
import inspect
import warnings

import captum.attr as peer
import numpy as np
import torch
from torch import nn

from fastcam.compat.captum import attr as ours


class Small(nn.Module):
    """Two blocks, mean pooling and a linear layer; may take a second picture, a factor for each image, and a number."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2), nn.ReLU())
        self.fc = nn.Linear(8, 5)

    def forward(self, images, other=None, factor=None, exponent=1):
        features = self.second(self.first(images))
        if other is not None:
            features = features + 0.5 * self.second(self.first(other.flip(-1)))
        scores = self.fc(features.mean((2, 3))) ** exponent
        return scores if factor is None else scores * factor


class Dense(nn.Module):
    """A score for every position and class, (N, 4, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 1))

    def forward(self, images):
        return self.layers(images)


# Arguments of the constructor behind the model, and of ``attribute``: what every method is called with.
CALLS = {
    "Saliency": [((), {}), ((), {"abs": False})],
    "InputXGradient": [((), {})],
    "GuidedBackprop": [((), {})],
    "Deconvolution": [((), {})],
    "GuidedGradCam": [(("second",), {}), (("first",), {"interpolate_mode": "bilinear"})],
    "LayerGradCam": [
        (("second",), {}),
        (("second",), {"relu_attributions": True}),
        (("second",), {"attr_dim_summation": False}),
        (("second",), {"attribute_to_layer_input": True}),
        (("fc",), {}),
    ],
    "LayerGradientXActivation": [
        (("second",), {}),
        (("first", "second"), {}),
        (("fc",), {"attribute_to_layer_input": True}),
    ],
    "IntegratedGradients": [
        ((), {"n_steps": 9}),
        *(((), {"n_steps": 5, "method": f"riemann_{each}"}) for each in ("left", "right", "middle", "trapezoid")),
        ((), {"n_steps": 6, "baselines": 0.3, "internal_batch_size": 4}),
    ],
    "LayerIntegratedGradients": [
        (("second",), {"n_steps": 7}),
        (("second",), {"n_steps": 7, "attribute_to_layer_input": True, "baselines": 0.1}),
    ],
    "GradientShap": [((), {"n_samples": 4, "stdevs": 0.1})],
    "Occlusion": [
        ((), {"sliding_window_shapes": (3, 4, 5), "strides": (3, 2, 3)}),
        ((), {"sliding_window_shapes": (2, 5, 3), "strides": 2, "baselines": 0.5}),
        ((), {"sliding_window_shapes": (1, 7, 12), "strides": (1, 4, 1), "perturbations_per_eval": 4}),
        ((), {"sliding_window_shapes": (3, 13, 11)}),
    ],
    "FeatureAblation": [((), {"feature_mask": "blocks"}), ((), {"feature_mask": "rows", "baselines": -0.4})],
}
CASES = [(name, made, given) for name, calls in CALLS.items() for made, given in calls]


def method(module, name, model, layers):
    """An instance, of a layer where it has one, of a list of layers where there are several."""
    found = [model.get_submodule(each) for each in layers]
    kind = getattr(module, name)
    takes_exact = module is ours and "exact_peer" in inspect.signature(kind.__init__).parameters
    exact = {"exact_peer": True} if takes_exact else {}
    return kind(model, *([found] if len(found) > 1 else found), **exact)


def called(module, name, model, layers, images, **given):
    """What a method finds, from one state of the random generators."""
    torch.manual_seed(3)
    np.random.seed(3)
    if given.get("feature_mask") == "blocks":
        given["feature_mask"] = torch.arange(6).reshape(1, 2, 3).repeat_interleave(7, 1).repeat_interleave(4, 2)
    if given.get("feature_mask") == "rows":
        given["feature_mask"] = (
            3 * torch.arange(14).reshape(1, 1, 14, 1) + torch.arange(len(images))[:, None, None, None]
        )
    if name == "GradientShap":
        given.setdefault("baselines", torch.randn(4, *images.shape[1:], generator=torch.Generator().manual_seed(1)))
    return method(module, name, model, layers).attribute(images.clone(), **given)


def flat(found):
    return [tensor for each in found for tensor in flat(each)] if isinstance(found, tuple | list) else [found]


def close(found, expected, tolerance=1e-4):
    """The same structure, shapes and dtypes, and numbers to a share of the range of the peer's."""
    assert type(found) is type(expected)
    mine, theirs = flat(found), flat(expected)
    assert len(mine) == len(theirs)
    for a, b in zip(mine, theirs, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        span = (b.max() - b.min()).item()
        assert span > 0, "attributions without a range test nothing"
        assert (a - b).abs().max().item() < tolerance * span


def both(name, *arguments, **given):
    with quiet():
        expected = called(peer, name, *arguments, **dict(given))
    return called(ours, name, *arguments, **dict(given)), expected


@contextlib.contextmanager
def quiet():
    """Without the peer's warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def product(*values):
    """A score of each row in which no two values play the same part."""
    flat = torch.cat([value.reshape(len(value), -1) for value in values], 1).double()
    weights = torch.linspace(-1, 2, flat.shape[1], dtype=torch.float64)
    return (flat * weights).sum(1).sin() * flat[:, 0] + (flat**2 * weights).sum(1)


def compare(run):
    """The same numbers from both modules, at least one of them not 0."""
    torch.manual_seed(3)
    with quiet():
        expected = run(peer)
    torch.manual_seed(3)
    found = run(ours)
    assert type(found) is type(expected)
    for mine, theirs in zip(*(each if isinstance(each, tuple) else (each,) for each in (found, expected)), strict=True):
        assert mine.shape == theirs.shape
        assert theirs.abs().max() > 0
        # Captum's ablations and quadratures round to float32.
        torch.testing.assert_close(mine.double(), theirs.double(), rtol=1e-4, atol=1e-5)


def refusal(call):
    """The type of what a call raises, None where it answers."""
    try:
        call()
    except Exception as error:
        return type(error)
    return None
