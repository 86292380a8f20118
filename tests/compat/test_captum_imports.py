"""Captum's import paths and names in the package in its place, and its methods in Captum's own wrappers."""

import importlib
import importlib.util
import inspect
import json
import pkgutil
import subprocess
import sys

import captum
import captum.attr as peer
import captum.concept
import captum.metrics
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fastcam.compat.captum
from fastcam import compat
from fastcam.compat.captum import attr as ours
from tests.compat.captum_calls import Small, product, quiet

OWN = vars(ours)["__all__"]
BASES = ["Attribution", "GradientAttribution", "LayerAttribution", "PerturbationAttribution"]


# Runs every script that it reads in a fork of its own, and writes its exit status and what it printed.
FORKING = """
import json, os, sys, traceback
import numpy, torch
for line in sys.stdin:
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.dup2(writing, 1)
        try:
            exec(json.loads(line), {"__name__": "__main__"})
        except BaseException:
            print(traceback.format_exc(), flush=True)
            os._exit(1)
        sys.stdout.flush()
        os._exit(0)
    os.close(writing)
    with open(reading) as printed:
        text = printed.read()
    print(json.dumps([os.wait()[1], text]), flush=True)
"""


def walked(package):
    """The names of a package's modules, private ones too."""
    root = importlib.import_module(package)
    return [package, *(found.name for found in pkgutil.walk_packages(root.__path__, f"{package}."))]


@pytest.fixture(scope="module")
def in_a_new_process():
    """A function that gives what a script prints, by lines; its process has imported torch and numpy before."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", FORKING], stdin=pipe, stdout=pipe, text=True) as process:

        def output(script, *, without_captum=False):
            hidden = "import sys; sys.modules['captum'] = None\n" if without_captum else ""
            process.stdin.write(json.dumps(hidden + script) + "\n")
            process.stdin.flush()
            code, printed = json.loads(process.stdout.readline())
            assert code == 0, printed
            return printed.splitlines()

        yield output
        process.stdin.close()


def own_classes(theirs):
    """Those of the public names of one of Captum's modules that this package has itself."""
    names = {**{name: getattr(ours, name) for name in OWN}, **vars(fastcam.compat.captum.metrics)}
    found = {name: each for name, each in vars(theirs).items() if getattr(each, "__module__", "") == theirs.__name__}
    return {name: names[name] for name in found if name in OWN + captum.metrics.__all__}


@pytest.mark.parametrize("module", [*walked("captum"), "captum.testing.helpers.basic_models"])
def test_every_module_is_found_with_our_classes(module):
    with quiet():
        theirs = importlib.import_module(module)
        found = importlib.import_module(f"fastcam.compat.{module}")
    for name, each in vars(theirs).items():
        if not name.startswith("_"):
            assert getattr(found, name, None) is not None or each is None, name
    for name, own in own_classes(theirs).items():
        assert getattr(found, name) is own
    assert theirs.__spec__.name == module
    if not found.__name__.startswith("fastcam."):
        assert found is theirs


@pytest.mark.parametrize("package", compat.NAMES)
def test_every_module_is_found_under_the_tools_name(package):
    names = walked(package)
    with quiet():
        theirs = {name: importlib.import_module(name) for name in names}
        compat.activate(package)
        try:
            found = {name: importlib.import_module(name) for name in names}
            again = {name: sys.modules[name] for name in names}
        finally:
            compat.deactivate(package)
    for name in names:
        assert found[name] is again[name] is importlib.import_module(f"fastcam.compat.{name}")
        assert sys.modules[name] is theirs[name]
        assert theirs[name].__spec__.name == name


def test_the_tools_modules_found_first_under_its_name_in_a_new_process(in_a_new_process):
    script = """
import sys
import fastcam.compat
fastcam.compat.activate("captum")
from captum.concept._core.tcav import TCAV
from captum.attr._core.layer.layer_conductance import LayerConductance
from captum.attr._utils.attribution import Attribution, NeuronAttribution
from captum.attr._core.noise_tunnel import NoiseTunnel, NoiseTunnelType
from captum.attr import *
import captum
import captum.module.stochastic_gates_base
print(captum.__name__, captum.__version__, captum.concept.TCAV is TCAV, LayerConductance.__module__)
print(Attribution.__module__, NeuronAttribution.__module__, NoiseTunnel.__module__, NoiseTunnelType.__module__)
print(DeepLift.__module__, IntegratedGradients.__module__, visualization.__name__)
fastcam.compat.deactivate("captum")
import captum
print(captum.__name__, captum.concept.TCAV is TCAV, issubclass(IntegratedGradients, captum.attr.Attribution))
"""
    private = "fastcam.compat.captum.attr"
    assert in_a_new_process(script) == [
        "fastcam.compat.captum 0.9.0 True captum.attr._core.layer.layer_conductance",
        f"{private}._bases captum.attr._utils.attribution {private}._noise captum.attr._core.noise_tunnel",
        f"captum.attr._core.deep_lift {private}._paths captum.attr._utils.visualization",
        "captum True True",
    ]


@pytest.mark.parametrize("module", ["captum", "captum.attr", "captum.metrics", "captum.attr._core.noise_tunnel"])
def test_a_star_import_has_all_that_captums_has(module):
    mine, theirs = {}, {}
    exec(f"from fastcam.compat.{module} import *", mine)
    exec(f"from {module} import *", theirs)
    assert not theirs.keys() - mine.keys()
    for name in theirs.keys() - {"__builtins__", *OWN, *captum.metrics.__all__, "attr", "metrics"}:
        assert mine[name] is theirs[name], name
    for name in mine.keys() & set(OWN):
        assert mine[name] is getattr(ours, name)


def test_without_captum(in_a_new_process):
    script = """
from fastcam.compat.captum.attr import *
import fastcam.compat.captum.attr as attr
print(len(attr.__all__), IntegratedGradients.__name__)
from fastcam.compat.captum import *
for module in ("concept", "attr._core.deep_lift"):
    try:
        __import__(f"fastcam.compat.captum.{module}")
    except ModuleNotFoundError as error:
        print(error.name)
try:
    attr.DeepLift
except AttributeError as error:
    print(str(error)[:49])
"""
    assert in_a_new_process(script, without_captum=True) == [
        f"{len(OWN)} IntegratedGradients",
        "fastcam.compat.captum.concept",
        "fastcam.compat.captum.attr._core.deep_lift",
        "fastcam.compat.captum.attr has no 'DeepLift', and",
    ]


def test_captum_is_imported_only_when_it_is_asked_for(in_a_new_process):
    script = """
import sys
import fastcam.compat.captum
from fastcam.compat.captum.attr import IntegratedGradients
from fastcam.compat.captum.metrics import infidelity
from fastcam.compat.captum.attr._core.noise_tunnel import NoiseTunnel
print("captum" in sys.modules)
import fastcam.compat.captum.log
print("captum" in sys.modules)
"""
    assert in_a_new_process(script) == ["False", "True"]


def test_a_module_that_captum_does_not_have_either():
    assert importlib.util.find_spec("fastcam.compat.captum.none") is None
    with pytest.raises(ModuleNotFoundError) as caught:
        importlib.import_module("fastcam.compat.captum.attr._core.none")
    assert caught.value.name == "fastcam.compat.captum.attr._core.none"


@pytest.mark.parametrize("name", OWN)
def test_classes_are_subclasses_of_captums_bases_and_captums_of_ours(name):
    mine, theirs = getattr(ours, name), getattr(peer, name)
    for base in BASES:
        expected = issubclass(theirs, getattr(peer, base))
        assert issubclass(mine, getattr(peer, base)) == expected
        assert issubclass(theirs, getattr(ours, base)) == expected
        assert issubclass(mine, getattr(ours, base)) == expected
    assert issubclass(peer.DeepLift, ours.GradientAttribution)
    assert not issubclass(peer.DeepLift, ours.LayerAttribution)


@pytest.mark.parametrize("first", ["fastcam.compat.captum.attr", "captum.attr"])
def test_the_order_of_the_imports_makes_no_difference(first, in_a_new_process):
    second = ({"fastcam.compat.captum.attr", "captum.attr"} - {first}).pop()
    script = f"""
import {first}
import {second}
import fastcam.compat.captum.attr as ours, captum.attr as theirs
print(isinstance(ours.Saliency(len), theirs.GradientAttribution), isinstance(theirs.Saliency(len), ours.Attribution))
print(isinstance(ours.Saliency(len), theirs.LayerAttribution), isinstance(object(), ours.Attribution))
theirs.DataLoaderAttribution(ours.FeatureAblation(len))
"""
    assert in_a_new_process(script) == ["True True", "False False"]


def test_signatures_stay_as_they_are():
    for name in OWN:
        function = vars(getattr(ours, name)).get("attribute")
        if function is not None:
            assert inspect.signature(function) == inspect.signature(function.__wrapped__)
            assert next(iter(inspect.signature(function).parameters)) == "self"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Saliency", {}),
        ("IntegratedGradients", {"n_steps": 7, "baselines": 0.2}),
        ("IntegratedGradients", {"n_steps": 7, "method": "riemann_left", "return_convergence_delta": True}),
        ("Occlusion", {"sliding_window_shapes": (2,)}),
    ],
)
def test_captums_noise_tunnel_of_our_method(name, options):
    inputs = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))

    def run(method):
        torch.manual_seed(4)
        return peer.NoiseTunnel(method).attribute(inputs, nt_samples=6, stdevs=0.1, **options)

    with quiet():
        expected = run(getattr(peer, name)(product))
        found = run(getattr(ours, name)(product))
    pairs = zip(found, expected, strict=True) if isinstance(expected, tuple) else [(found, expected)]
    for mine, theirs in pairs:
        assert theirs.abs().max() > 0.1
        torch.testing.assert_close(mine.double(), theirs.double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("place", [peer, ours])
@pytest.mark.parametrize("passes", [1, 3])
def test_a_data_loaders_attribution_of_our_ablation(place, passes):
    generator = torch.Generator().manual_seed(2)
    data = TensorDataset(torch.randn(7, 4, generator=generator), torch.randn(7, 3, generator=generator))
    loader = DataLoader(data, batch_size=3)

    def run(ablation):
        return place.DataLoaderAttribution(ablation).attribute(
            loader,
            baselines=(0.3, torch.tensor([[0.1, -0.2, 0.4]])),
            feature_mask=(torch.tensor([[0, 0, 1, 2]]), torch.tensor([[2, 3, 4]])),
            reduce=lambda total, output, inputs: output.sum() + (0 if total is None else total),
            to_metric=lambda total: (total / 7).reshape(1),
            perturbations_per_pass=passes,
        )

    expected = run(peer.FeatureAblation(product))
    found = run(ours.FeatureAblation(product))
    for mine, theirs in zip(found, expected, strict=True):
        assert theirs.abs().max() > 0.1
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6, check_dtype=False)


class Directions(captum.concept.Classifier):
    """A classifier of two concepts: the difference of their means, in the place of one that is trained."""

    def __init__(self):
        pass

    def train_and_eval(self, dataloader, **kwargs):
        values, labels = (torch.cat(each) for each in zip(*dataloader, strict=True))
        difference = values[labels == labels.min()].mean(0) - values[labels == labels.max()].mean(0)
        self.found = torch.stack([difference, -difference])
        self.labels = sorted(labels.unique().tolist())

    def weights(self):
        return self.found

    def classes(self):
        return self.labels


@pytest.mark.parametrize("name", ["LayerIntegratedGradients", "LayerGradientXActivation"])
def test_concepts_by_our_layer_methods(name, tmp_path):
    torch.manual_seed(5)
    model = Small().eval()
    sets = [torch.randn(4, 3, 9, 8) + shift for shift in (0.0, 1.0)]
    images = torch.randn(3, 3, 9, 8)
    options = {"n_steps": 5} if name == "LayerIntegratedGradients" else {}

    def run(module):
        concepts = [captum.concept.Concept(i, f"c{i}", DataLoader(each, batch_size=2)) for i, each in enumerate(sets)]
        method = getattr(module, name)(model, None)
        place = str(tmp_path / module.__name__)
        tcav = captum.concept.TCAV(
            model, ["second"], classifier=Directions(), layer_attr_method=method, save_path=place
        )
        return tcav.interpret(images, [concepts], target=1, **options)["0-1"]["second"]

    with quiet():
        expected, found = run(peer), run(ours)
    assert expected["magnitude"].abs().max() > 0
    for part in ("sign_count", "magnitude"):
        torch.testing.assert_close(found[part], expected[part], rtol=1e-4, atol=1e-6)


def test_a_users_own_method_in_captums_noise_tunnel():
    class Doubled(ours.Saliency):
        def attribute(self, inputs, factor=2):
            return factor * super().attribute(inputs)

    linear = nn.Linear(3, 1)
    found = peer.NoiseTunnel(Doubled(linear)).attribute(torch.randn(2, 3), factor=3)
    torch.testing.assert_close(found, 3 * linear.weight.detach().abs().expand(2, 3))
