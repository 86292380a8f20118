"""Between the images and the maps the host does not wait for the device.

Tensors of FakeTensorMode say that they are on a GPU and those on the meta device have no values at all, so that both
show on any machine what the host would read. PyTorch's backward pass asks the GPU's driver even for fake tensors: what
has one runs on the meta device.
"""

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import fastcam
from fastcam import targets
from fastcam.devices import all_rows, take_rows
from fastcam.methods.registry import get_method
from fastcam.targets.binding import Bound
from fastcam.targets.class_indices import unread

READS = {"item", "_local_scalar_dense", "nonzero", "_unique2", "unique_dim", "masked_select", "equal", "is_nonzero"}
ONE_PASS = [method.name for method in map(get_method, fastcam.list_methods()) if method.is_one_pass]
CLOSED_FORM = [
    name
    for name in ONE_PASS
    if not any(need.endswith("_gradients") for need in get_method(name).needs) and name != "gmp_cam"
]


class Waits(TorchDispatchMode):
    """Collects the calls for which the host waits: reads of values, and copies in step between devices."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function._schema.name.removeprefix("aten::")
        if name in READS or (name in ("_to_copy", "copy_", "_copy_from") and self.is_in_step(args, kwargs)):
            self.calls.append(name)
        return function(*args, **kwargs)

    @staticmethod
    def is_in_step(args, kwargs):
        places = {argument.device.type for argument in args if isinstance(argument, torch.Tensor)}
        places |= {torch.device(kwargs["device"]).type} if kwargs.get("device") is not None else set()
        return len(places) > 1 and not kwargs.get("non_blocking")


def network(*head):
    head = head or (nn.Linear(8, 5),)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 8, 3, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        *head,
    ).eval()


def targets_on(device):
    """Every form of target by name, made before the host may not wait any more."""
    return {
        "highest": None,
        "one": 2,
        "list": [1, 2, 3, 0],
        "lists": [[1, 2], [2, 3], [3, 4], [0, 4]],
        "tensor": torch.tensor([1, 2, 3, 4], device=device),
        "all": "all",
        "callable": lambda output: output[:, 1] - output[:, 0],
        "probability": targets.Probability(3),
        "difference": targets.Difference(1),
        "similarity": targets.Similarity(torch.ones(5, device=device)),
    }


TARGETS = list(targets_on("cpu"))
CLASSES = ["highest", "one", "list", "lists", "tensor", "all"]


def explain(model, images, method, target):
    with Waits() as waits:
        explanation = fastcam.Explainer(model, method, "4")(images, target)
        assert explanation.maps.device == images.device
    assert waits.calls == []


@pytest.mark.parametrize("target", CLASSES)
@pytest.mark.parametrize("method", CLOSED_FORM)
def test_fake_gpu(method, target):
    all_rows(4)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cuda"):
        explain(network(), torch.randn(4, 3, 16, 16), method, targets_on("cuda")[target])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("method", [name for name in ONE_PASS if name not in ("cam", "gmp_cam")])
def test_meta_device(method, target):
    chosen = targets_on("meta")[target]
    with torch.device("meta"):
        model = network(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5))
        images = torch.empty(4, 3, 16, 16)
    if target in ("list", "lists"):  # these are sent: from pinned memory to a GPU, else in step
        fastcam.Explainer(model, method, "4")(images, chosen)
    else:
        explain(model, images, method, chosen)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("method", [name for name in ONE_PASS if name != "gmp_cam"])
def test_gpu(method, target):
    model, images, chosen = network().cuda(), torch.randn(4, 3, 16, 16, device="cuda"), targets_on("cuda")[target]
    if method == "cam" and target in ("callable", "similarity"):
        return  # it explains classes
    explainer = fastcam.Explainer(model, method, "4")
    for _ in range(2):  # libraries are loaded, the graph is recorded
        explainer(images, chosen)
    torch.cuda.set_sync_debug_mode("error")
    try:
        maps = explainer(images, chosen).maps
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = fastcam.Explainer(model.cpu(), method, "4")(images.cpu(), targets_on("cpu")[target]).maps
    torch.testing.assert_close(maps.cpu(), expected, rtol=1e-3, atol=1e-3)


class Unread(targets.Logit):
    """Classes that are bound as those of a tensor on a GPU."""

    def bind(self, output, count):
        indices = unread(self.classes, output.shape[1])
        return Bound(lambda out, rows: self.pick(out, indices, rows), indices, True)


@pytest.mark.parametrize("method", [*ONE_PASS[:1], *ONE_PASS[2:], "score_cam", "integrated_gradients"])
@pytest.mark.parametrize(
    ("classes", "known"),
    [
        ([1, 5, 2, -1], [True, False, True, False]),
        ([[1, 5], [0, 0], [7, 1], [2, 3]], [[True, False], [True, True], [False, True], [True, True]]),
    ],
    ids=["N", "K"],
)
def test_what_is_no_class_has_no_map(method, classes, known):
    model, images = network(), torch.randn(4, 3, 16, 16)
    classes = torch.tensor(classes)
    explanation = fastcam.Explainer(model, method, "4")(images, Unread(classes))
    expected = fastcam.Explainer(model, method, "4")(images, classes.clamp(0, 4))
    is_known = torch.tensor(known)
    torch.testing.assert_close(explanation.maps[is_known], expected.maps[is_known])
    assert explanation.maps[~is_known].isnan().all()
    assert explanation.scores[~is_known].isnan().all()
    assert explanation.targets.tolist() == classes.masked_fill(~is_known, -1).tolist()
    assert (np.array(explanation.causes) == "no such class").tolist() == (~is_known).tolist()
    assert (np.array(explanation.status) == "non-finite").tolist() == (~is_known).tolist()


def test_what_looks_one_hot_is_no_class():
    labels = torch.eye(5, dtype=torch.int64)[:4]
    assert unread(labels, 5).is_unknown.all()
    assert not unread(labels, 6).is_unknown.any()


def test_strict_reads_the_classes():
    explainer = fastcam.Explainer(network(), target_layer="4", strict=True)
    explainer(torch.randn(2, 3, 16, 16), Unread(torch.tensor([1, 4])))
    with pytest.raises(ValueError, match=r"no class of the model's output, -1 in \[1, -1\]"):
        explainer(torch.randn(2, 3, 16, 16), Unread(torch.tensor([1, 5])))


def test_rows():
    values = torch.arange(6.0).reshape(3, 2)
    assert take_rows(values, all_rows(3)) is values
    assert take_rows(values, torch.tensor([2, 0])).tolist() == [[4, 5], [0, 1]]
    assert take_rows(values, torch.tensor([0, 1, 2])).tolist() == values.tolist()
    assert all_rows(3) is all_rows(3)
    with torch.inference_mode():
        assert not all_rows(1234).is_inference()
