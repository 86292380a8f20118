"""The same calls on Captum and on the package that takes its place: the same attributions."""

import captum.attr as peer
import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from fastcam.compat.captum import attr as ours
from tests.compat.captum_calls import CALLS, CASES, Dense, Small, both, close, method, quiet

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture
def images():
    return torch.randn(3, 3, 14, 12)


@pytest.mark.parametrize(("name", "layers", "given"), CASES)
def test_attributions(small, images, name, layers, given):
    close(*both(name, small, layers, images, target=2, **given))


TARGETS = {
    "int": 1,
    "scalar": torch.tensor(1),
    "one": torch.tensor([1]),
    "list": [1, 0, 4],
    "tensor": torch.tensor([1, 0, 4]),
    "tuple": (1,),
    "tuples": [(1,), (0,), (4,)],
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", CALLS)
def test_forms_of_the_target(small, images, name, target):
    layers, given = CALLS[name][0]
    found, expected = both(name, small, layers, images, target=TARGETS[target], **given)
    close(found, expected)


@pytest.mark.parametrize("name", CALLS)
def test_additional_arguments(small, images, name):
    layers, given = CALLS[name][0]
    additional = (None, torch.rand(3, 1) + 0.5, 3)
    close(*both(name, small, layers, images, target=[1, 0, 4], additional_forward_args=additional, **given))


@pytest.mark.parametrize("name", CALLS)
def test_scores_of_positions(images, name):
    torch.manual_seed(0)
    model = Dense().eval()
    layers, given = CALLS[name][0]
    layers = ("layers.1",) if layers else ()
    for target in ((1, 6, 5), [(1, 6, 5), (0, 2, 2), (3, 13, 11)]):
        close(*both(name, model, layers, images, target=target, **given))


OF_TUPLES = {
    "Saliency": {},
    "InputXGradient": {},
    "GuidedBackprop": {},
    "Deconvolution": {},
    "IntegratedGradients": {"n_steps": 6, "baselines": (0, 0.5)},
    "GradientShap": {"n_samples": 3, "stdevs": (0.1, 0.2)},
    "Occlusion": {"sliding_window_shapes": ((3, 4, 4), (2, 5, 6)), "strides": ((3, 2, 2), 2)},
    "FeatureAblation": {"feature_mask": (torch.arange(14)[:, None] // 4, torch.arange(12) // 3), "baselines": (1, 0.0)},
}


@pytest.mark.parametrize("name", OF_TUPLES)
def test_tuples_of_inputs(small, images, name):
    pair = (images, torch.randn(3, 3, 14, 12))
    given = dict(OF_TUPLES[name])
    if name == "GradientShap":
        given["baselines"] = (torch.randn(4, 3, 14, 12), torch.randn(5, 3, 14, 12))
    results = []
    for module in (ours, peer):
        torch.manual_seed(0)
        np.random.seed(0)
        with quiet():
            results.append(method(module, name, small, ()).attribute(pair, target=1, **given))
    close(*results)
    assert all(not each.requires_grad for each in pair)


@pytest.mark.parametrize(
    "name", ["GuidedGradCam", "LayerGradCam", "LayerGradientXActivation", "LayerIntegratedGradients"]
)
def test_tuples_of_inputs_and_layers(small, images, name):
    pair = (images, torch.randn(3, 3, 14, 12))
    results = []
    for module in (ours, peer):
        with quiet():
            results.append(
                method(module, name, small, ("fc",) if "Guided" not in name else ("second",)).attribute(pair, target=1)
            )
    close(*results)


class Pair(nn.Module):
    """Returns two tensors."""

    def forward(self, features):
        return features.relu(), features.tanh()


class OfPairs(nn.Module):
    """A layer with two tensors in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.front, self.pair, self.fc = nn.Conv2d(3, 6, 3), Pair(), nn.Linear(6, 5)

    def forward(self, images):
        a, b = self.pair(self.front(images))
        return self.fc((a * b).mean((2, 3)))


@pytest.mark.parametrize(
    "name", ["LayerActivation", "LayerGradCam", "LayerGradientXActivation", "LayerIntegratedGradients"]
)
def test_layers_of_several_tensors(images, name):
    torch.manual_seed(0)
    model = OfPairs().eval()
    given = {} if name == "LayerActivation" else {"target": 1}
    close(*both(name, model, ("pair",), images, **given))


class Branches(nn.Module):
    """Two layers side by side; the one that comes first in the module runs last."""

    def __init__(self) -> None:
        super().__init__()
        self.late, self.early, self.fc = nn.Conv2d(3, 6, 3), nn.Conv2d(3, 6, 3, stride=2), nn.Linear(6, 5)

    def forward(self, images):
        early = self.early(images).tanh().mean((2, 3))
        return self.fc(early * self.late(images).tanh().mean((2, 3)))


@pytest.mark.parametrize("at_input", [False, True])
def test_lists_of_layers(images, at_input):
    torch.manual_seed(0)
    model = Branches().eval()
    for name, given in (("LayerIntegratedGradients", {"n_steps": 5}), ("LayerGradientXActivation", {})):
        call = (model, ("late", "early"), images)
        close(*both(name, *call, target=1, attribute_to_layer_input=at_input, **given))


@pytest.mark.parametrize("at_input", [False, True])
def test_activations(small, images, at_input):
    for layers in (("second",), ("first", "second")):
        close(*both("LayerActivation", small, layers, images, attribute_to_layer_input=at_input))


NETWORKS = {
    "resnet18": "layer4",
    "vgg11": "features.18",
    "vit": "encoder.layers.encoder_layer_1.ln_1",
    "convnext": "features.5",
}


@pytest.fixture(scope="module")
def network():
    made = {}

    def get(name):
        torch.manual_seed(0)
        if name not in made:
            sizes = {
                "image_size": 64,
                "patch_size": 16,
                "num_layers": 2,
                "num_heads": 2,
                "hidden_dim": 32,
                "mlp_dim": 64,
            }
            if name == "vit":
                model = torchvision.models.VisionTransformer(**sizes, num_classes=10)
                nn.init.normal_(model.heads[0].weight)
            elif name == "convnext":
                model = torchvision.models.convnext_tiny(weights=None, num_classes=10)
            else:
                model = getattr(torchvision.models, name)(weights=None, num_classes=10)
            made[name] = model.eval()
        return made[name]

    return get


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("name", [name for name in CALLS if "Guided" not in name and name != "Deconvolution"])
def test_networks(network, kind, name):
    layers = (NETWORKS[kind],) if CALLS[name][0][0] else ()
    if (kind, name) == ("vgg11", "LayerIntegratedGradients"):
        layers = ("features.20",)  # Captum cannot exchange what a module in place works on
    given = {"n_steps": 4} if "Integrated" in name else {}
    if name == "Occlusion":
        given = {"sliding_window_shapes": (3, 32, 32), "strides": (3, 16, 16)}
    if name == "FeatureAblation":
        given = {"feature_mask": (torch.arange(64)[:, None] // 16 * 4 + torch.arange(64) // 16)[None]}
    close(*both(name, network(kind), layers, torch.randn(2, 3, 64, 64), target=[3, 1], **given), 1e-3)


@pytest.mark.parametrize("kind", ["smoothgrad", "smoothgrad_sq", "vargrad"])
@pytest.mark.parametrize("inner", [name for name in CALLS if name != "GradientShap"])
def test_noise(small, images, inner, kind):
    layers, given = CALLS[inner][0]
    options = dict(given, target=[1, 0, 4], nt_samples=3, stdevs=0.2, nt_type=kind)
    if options.pop("feature_mask", None):
        options["feature_mask"] = torch.arange(14).reshape(1, 1, 14, 1).expand(1, 3, 14, 12) // 4
    results = []
    for module in (ours, peer):
        torch.manual_seed(0)
        with quiet():
            tunnel = module.NoiseTunnel(method(module, inner, small, layers))
            results.append(tunnel.attribute(images.clone(), nt_samples_batch_size=2, **options))
    close(*results, 1e-3)


@pytest.mark.parametrize("name", ["IntegratedGradients", "LayerIntegratedGradients", "GradientShap"])
def test_convergence_deltas(small, images, name):
    layers, given = CALLS[name][0]
    found, expected = both(name, small, layers, images, target=[1, 0, 4], return_convergence_delta=True, **given)
    close(found[0], expected[0])
    assert found[1].shape == expected[1].shape
    assert torch.allclose(found[1], expected[1], atol=1e-5)
    results = []
    for module in (ours, peer):
        torch.manual_seed(0)
        np.random.seed(0)
        if name == "GradientShap":
            continue
        tunnel = module.NoiseTunnel(method(module, name, small, layers))
        with quiet():
            options = dict(given, nt_samples=3, stdevs=0.1, target=[1, 0, 4], return_convergence_delta=True)
            results.append(tunnel.attribute(images.clone(), **options))
    if results:
        close(results[0][0], results[1][0])
        assert torch.allclose(results[0][1], results[1][1], atol=1e-5)


def test_ablation_of_whole_outputs_and_of_sums(small, images):
    results = []
    mask = torch.arange(14).reshape(1, 1, 14, 1) // 4
    for module in (ours, peer):
        found = []
        for function in (
            small,
            lambda given: small(given).sum(),
            lambda given: small(given).sum(0, keepdim=True),
            lambda given: small(given).sum(0),
            lambda given: float(small(given).sum()),
        ):
            for kind, given in (
                ("FeatureAblation", {"feature_mask": mask}),
                ("Occlusion", {"sliding_window_shapes": (3, 5, 5), "strides": (3, 3, 4)}),
            ):
                found.append(getattr(module, kind)(function).attribute(images, **given))
        found.append(module.FeatureAblation(small).attribute(images[:1, :, :4, :4], target=1))
        found.append(
            module.FeatureAblation(small).attribute(
                images, target=1, feature_mask=torch.stack([mask[0], mask[0] % 3, mask[0] * 7])
            )
        )
        results.append(found)
    for mine, theirs in zip(*results, strict=True):
        close(mine, theirs.to(mine.dtype) if mine.dtype == torch.float64 else theirs)


def test_inputs_of_other_ranks():
    torch.manual_seed(0)
    tabular, volumes = (
        nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3)),
        nn.Sequential(nn.Conv3d(2, 3, 2), nn.Flatten(), nn.Linear(3 * 3 * 4 * 3, 4)),
    )
    rows, blocks = torch.randn(4, 7), torch.randn(2, 2, 4, 5, 4)
    for model, given, windows in (
        (tabular, rows, [((3,), 2)]),
        (volumes, blocks, [((2, 2, 2, 2), 2), ((1, 2, 3, 2), (1, 2, 1, 2)), ((2, 4, 2, 3), (1, 1, 2, 1))]),
    ):
        for name in ("Saliency", "InputXGradient", "IntegratedGradients", "FeatureAblation"):
            close(*[getattr(module, name)(model).attribute(given.clone(), target=1) for module in (ours, peer)])
        for shape, stride in windows:
            results = [module.Occlusion(model).attribute(given, shape, stride, target=2) for module in (ours, peer)]
            close(*results)


@pytest.mark.parametrize("name", ["LayerGradCam", "LayerGradientXActivation", "GuidedGradCam"])
def test_what_a_layer_takes_also_goes_around_it(network, name):
    close(
        *both(
            name,
            network("resnet18"),
            ("layer3.1.conv1",),
            torch.randn(2, 3, 64, 64),
            target=1,
            attribute_to_layer_input=True,
        ),
        1e-3,
    )
