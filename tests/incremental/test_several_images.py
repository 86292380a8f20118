"""Images that are swept together: one recording, one plan, and the maps of each image alone."""

import copy

import pytest
import torch
from torch import nn

import fastcam
from fastcam.incremental import Sweep, scores, sweep
from fastcam.model.batching import Batches
from fastcam.model.progress import ProgressReporter
from tests.incremental.sweeps import windows
from tests.support.networks import photographs, small_network, torchvision_network

pytestmark = pytest.mark.usefixtures("one_thread")
OPTIONS = {"window": 5, "stride": 4, "engine": "incremental"}


def images_of(count, size=(24, 26)):
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1)).double()


def native(model, images, **options):
    return fastcam.explain(model, images, "occlusion", 1, **{**OPTIONS, **options}).native


@pytest.fixture
def counted(monkeypatch):
    """How many recordings and plans are made."""
    made = {"record": 0, "make_plan": 0}

    def count(name):
        function = getattr(sweep, name)

        def call(*arguments):
            made[name] += 1
            return function(*arguments)

        monkeypatch.setattr(sweep, name, call)

    for name in made:
        count(name)
    return made


@pytest.mark.parametrize("size", [1, 2, 7, "auto"])
@pytest.mark.parametrize("count", [2, 5])
def test_together_is_as_alone(count, size):
    model, images = small_network("mlp").double(), images_of(count)
    alone = torch.cat([native(model, image[None]) for image in images])
    torch.testing.assert_close(native(model, images, batch_size=size), alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "googlenet", "shufflenet_v2_x1_0", "efficientnet_b0"])
def test_networks(name):
    """Residual sums, joins, pooling, gates and views, with whole images of their own behind the patches of each."""
    model, images = torchvision_network(name), photographs()[:2]
    options = {"window": 96, "stride": 64}
    dense = fastcam.explain(model, images, "occlusion", [1, 3], engine="dense", **options).details["grid"]
    found = fastcam.explain(model, images, "occlusion", [1, 3], engine="incremental", **options).details["grid"]
    span = float(dense.amax() - dense.amin())
    assert float((found - dense).abs().amax()) < 1e-3 * span
    assert float((dense[0] - dense[1]).abs().amax()) > 0.1 * span  # taking the other image's would show


def test_one_recording_and_one_plan_for_all(counted):
    model, images = small_network("gap").double(), images_of(40)
    native(model, images[:2])
    assert counted["record"] == 1
    for_two = counted["make_plan"]
    counted.update(record=0, make_plan=0)
    native(model, images)
    assert counted["record"] == 1
    assert counted["make_plan"] <= 3 * for_two  # groups of one size share a plan, and the last is smaller


def test_as_many_images_as_fill_a_block_and_fit_in_memory(monkeypatch):
    model, images = small_network("gap").double(), images_of(3)
    one = Sweep(model, images, torch.zeros_like(images))
    some, batches = windows(5, 5, 4), Batches(64, torch.device("cpu"), ProgressReporter())
    groups = len(one.buckets(some))
    assert scores.images_together(one, some, batches) == -(-64 * groups // 25)
    assert scores.images_together(one, some, Batches(1, torch.device("cpu"), ProgressReporter())) == 1
    of_one = one.analysis.bytes_read
    assert of_one >= images[0].nbytes
    monkeypatch.setattr(scores, "MAX_BYTES", 2.5 * of_one)
    assert scores.images_together(one, some, batches) == 2


class Deciding(nn.Module):
    """Reads the sign of the image's mean, which its operations do not show."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, images):
        sign = torch.from_numpy(images.detach().numpy().mean((1, 2, 3))).sign()
        return self.last(self.conv(images).relu().mean((2, 3))) * sign[:, None]


def test_models_that_do_something_else_with_another_image():
    model, images = Deciding().double().eval(), images_of(3) * 0.01
    images = images + torch.tensor([1.0, 1.0, -1.0]).double()[:, None, None, None]
    native(model, images[:2])
    with pytest.raises(ValueError, match="the model does not run the same operations for every image"):
        native(model, images)
    dense, auto = (native(model, images, engine=engine) for engine in ("dense", "auto"))
    assert torch.equal(auto, dense)


class Scaled(nn.Module):
    """Takes a number of each image beside it."""

    def __init__(self):
        super().__init__()
        self.net = small_network("mlp").double()

    def forward(self, images, numbers):
        return self.net(images * numbers[:, None, None, None]) + numbers[:, None]


def test_arguments_of_each_image_are_recorded_with_it(counted):
    model, images, numbers = Scaled().eval(), images_of(3), torch.tensor([1.0, -2.0, 0.5]).double()
    found = native(model, (images, numbers))
    assert counted["record"] >= 3
    torch.testing.assert_close(found, native(model, (images, numbers), engine="dense"), rtol=0, atol=1e-12)


def test_scores_that_are_not_finite_stay_so():
    model, images = small_network("gap").double(), images_of(2)
    images[1, 0, 0, 0] = torch.nan
    found, dense = (native(model, images, engine=engine) for engine in ("incremental", "dense"))
    torch.testing.assert_close(found, dense, equal_nan=True)


def test_a_score_of_nearly_zero_is_no_difference():
    """Rounding is that of the output, however small the chosen score."""
    model, images = copy.deepcopy(small_network("gap")), images_of(3).float()
    with torch.no_grad():
        last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        last.bias[1] -= model(images)[:, 1].mean()
    found, dense = (native(model, images, engine=engine) for engine in ("incremental", "dense"))
    torch.testing.assert_close(found, dense, rtol=1e-3, atol=1e-5)


def test_memory_that_runs_out_for_several_images(monkeypatch):
    model, images = small_network("gap").double(), images_of(5)
    expected, clean, counts = native(model, images), sweep.clean_values, []

    def limited(analysis, some):
        counts.append(len(some))
        if len(some) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return clean(analysis, some)

    monkeypatch.setattr(sweep, "clean_values", limited)
    torch.testing.assert_close(native(model, images, batch_size=200), expected, rtol=0, atol=1e-12)
    assert counts[0] == 5
    assert counts[-1] <= 2
