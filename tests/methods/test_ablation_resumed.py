"""Ablated channels on networks that are hard to run from the middle on: each against whole forwards with a hook.

What one network runs in front of the layer and still needs behind it, what runs twice, and which axis the next layer
takes for its channels: wherever a shortcut does not hold, the scores must come from whole forwards.
"""

import pytest
import torch
from torch import Tensor, nn

import fastcam
from tests.support.conv_net import Call, images_for

pytestmark = pytest.mark.usefixtures("one_thread")


@torch.no_grad()
def brute_force(model: nn.Module, images: Tensor, layer: str) -> Tensor:
    """sum_k (y - y_k) / y A_k of class 2, y_k with channel k zeroed the last time that the layer runs."""
    kept = []
    module = model.get_submodule(layer)
    handle = module.register_forward_hook(lambda *call: kept.append(call[2].clone()))
    clean = model(images)[:, 2]
    handle.remove()
    total = torch.zeros_like(kept[-1][:, 0])
    for channel in range(kept[-1].shape[1]):
        changed, runs = kept[-1].clone(), []
        changed[:, channel] = 0

        def exchange(*call, changed=changed, runs=runs):
            runs.append(call)
            return changed.clone() if len(runs) == len(kept) else None

        handle = module.register_forward_hook(exchange)
        weight = (clean - model(images)[:, 2]) / clean
        handle.remove()
        total += weight[:, None, None] * kept[-1][:, channel]
    return total


class Middle(nn.Module):
    """Convolutions `first` and `layer`, a classifier behind the maximum over positions, and what a test makes of it."""

    def __init__(self, forward) -> None:
        super().__init__()
        self.first, self.layer = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.relu, self.classifier = nn.ReLU(), nn.Linear(6, 5)
        self.table = nn.Parameter(torch.randn(6, 12, 10))
        self.function = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.function(self, x).tanh().amax((2, 3)))


def skip(model: Middle, x: Tensor) -> Tensor:
    y = model.first(x)
    return model.layer(y) + y


def skip_from_the_images(model: Middle, x: Tensor) -> Tensor:
    return model.layer(model.first(x)) + x.mean(1, keepdim=True)


def addition_in_place(model: Middle, x: Tensor) -> Tensor:
    y = model.first(x)
    z = model.layer(y.tanh())
    y += z
    return y


def a_view_of_the_front_changed_behind(model: Middle, x: Tensor) -> Tensor:
    y = model.first(x)
    part = y[:, :2]
    z = model.layer(y.tanh())
    part.add_(1)
    y.mul_(2)
    return z + y


def a_buffer_written_in_slices(model: Middle, x: Tensor) -> Tensor:
    buffer = torch.zeros(len(x), 12, 12, 10, dtype=x.dtype)
    buffer[:, :6] = model.first(x)
    buffer[:, 6:] = model.layer(buffer[:, :6].tanh())
    return buffer[:, 3:9]


def a_table_of_the_front(model: Middle, x: Tensor) -> Tensor:
    table = model.table.sin()  # six rows, whatever the number of images
    return model.layer(model.first(x).tanh()) * table


def a_vector_of_the_front(model: Middle, x: Tensor) -> Tensor:
    vector = model.table[:, 0, 0].sin()
    return model.layer(model.first(x).tanh()) * vector[:, None, None]


def queries_expanded_in_front(model: Middle, x: Tensor) -> Tensor:
    queries = model.table.expand(len(x), -1, -1, -1)
    return model.layer(model.first(x).tanh()) * queries


def a_number_read_in_front(model: Middle, x: Tensor) -> Tensor:
    y = model.first(x)
    strongest = y.detach().abs().max().item()
    rows, channels = y.shape[:2]
    return model.layer(y).reshape(rows * channels, 1, 12, 10).reshape(rows, channels, 12, 10) / strongest


def no_gradient_in_front(model: Middle, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = model.first(x).sin_()
    return model.layer(y) * y


RESUMED = [
    skip,
    addition_in_place,
    a_buffer_written_in_slices,
    a_table_of_the_front,
    a_vector_of_the_front,
    queries_expanded_in_front,
    a_number_read_in_front,
    no_gradient_in_front,
]
RUN_WHOLE = [skip_from_the_images, a_view_of_the_front_changed_behind]


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("forward", RESUMED + RUN_WHOLE, ids=lambda function: function.__name__)
def test_what_the_front_leaves_behind(forward, count):
    model, images = Middle(forward).double().eval(), images_for(count=count).double()
    expected = brute_force(model, images, "layer")
    found = fastcam.explain(model, images, "ablation_cam", 2, "layer", relu=False, batch_size=4).native
    assert expected.abs().max() > 1e-4
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("forward", RESUMED, ids=lambda function: function.__name__)
def test_no_whole_forwards(forward, monkeypatch):
    from fastcam.engine import ablation

    def refuse(*_):
        raise AssertionError("a whole forward pass for every channel")

    monkeypatch.setattr(ablation, "_full_forward_scores", refuse)
    fastcam.explain(Middle(forward).double().eval(), images_for().double(), "ablation_cam", 2, "layer")


# --- layers that run several times ------------------------------------------------------------------------------------


def with_a_skip(model: Middle, x: Tensor) -> Tensor:
    y = model.relu(model.first(x))
    return model.relu(model.layer(y)) + y


def of_different_shapes(model: Middle, x: Tensor) -> Tensor:
    return model.relu(model.layer(model.relu(model.first(x))[:, :, ::2, ::2]))


def three_times_the_next_layer(model: Middle, x: Tensor) -> Tensor:
    x = model.layer(model.layer(model.first(x)).tanh()).tanh()
    return model.layer(model.relu(x))


@pytest.mark.parametrize("batch_size", [1, 5, "auto"])
@pytest.mark.parametrize("forward", [with_a_skip, of_different_shapes, three_times_the_next_layer])
def test_the_last_run_counts(forward, batch_size):
    model, images = Middle(forward).double().eval(), images_for().double()
    found = fastcam.explain(model, images, "ablation_cam", 2, "relu", relu=False, batch_size=batch_size).native
    expected = brute_force(model, images, "relu")
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


# --- what the next layer takes for channels ---------------------------------------------------------------------------


def then(*following: nn.Module) -> nn.Sequential:
    torch.manual_seed(4)
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), *following).double().eval()


NEXT = {
    "a 1x1 convolution of flat activations": lambda: then(
        *(nn.Flatten(), nn.Unflatten(1, (720, 1, 1)), nn.Conv2d(720, 7, 1), nn.Tanh(), nn.Flatten(), nn.Linear(7, 5))
    ),
    "channels as rows, linear": lambda: then(
        *(Call(lambda x: x.flatten(0, 1).flatten(1)), nn.Linear(120, 4), nn.Tanh()),
        *(Call(lambda x: x.reshape(-1, 24)), nn.Linear(24, 5)),
    ),
    "channels as rows, convolution": lambda: then(
        *(Call(lambda x: x.flatten(0, 1).unsqueeze(1)), nn.Conv2d(1, 4, 3), nn.Tanh()),
        *(Call(lambda x: x.amax((2, 3)).reshape(-1, 24)), nn.Linear(24, 5)),
    ),
    "a pooling over channels": lambda: then(
        *(Call(lambda x: x.flatten(2).unsqueeze(1)), nn.MaxPool2d((2, 1)), nn.Flatten()),
        *(nn.Linear(360, 4), nn.Tanh(), nn.Linear(4, 5)),
    ),
    "a convolution over height as channels": lambda: then(
        *(Call(lambda x: x.reshape(-1, 6, 120)), nn.Conv1d(6, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(472, 5))
    ),
    "a transposed convolution": lambda: then(
        *(nn.ConvTranspose2d(6, 4, 3), nn.Tanh(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    ),
    "reflected borders": lambda: then(
        *(nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect"), nn.Tanh()),
        *(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 5)),
    ),
    "padding by name": lambda: then(
        *(nn.Conv2d(6, 4, 3, padding="same"), nn.Tanh(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    ),
}


@pytest.mark.parametrize("name", NEXT)
def test_shares_of_channels(name):
    model, images = NEXT[name](), images_for().double()
    found = fastcam.explain(model, images, "ablation_cam", 2, "1", relu=False).native
    expected = brute_force(model, images, "1")
    assert expected.abs().max() > 1e-4
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


def test_an_error_of_the_models_own_is_the_users_to_see():
    class Refuses(nn.Module):
        """Not more rows than there are images."""

        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 2:
                raise ValueError("at most two rows")
            return x

    model = then(Refuses(), nn.Conv2d(6, 4, 3), nn.Tanh(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    found = fastcam.explain(model, images_for().double(), "ablation_cam", 2, "1", relu=False, batch_size=2).native
    torch.testing.assert_close(found, brute_force(model, images_for().double(), "1"))
    with pytest.raises(ValueError, match="at most two rows"):
        fastcam.explain(model, images_for().double(), "ablation_cam", 2, "1", batch_size=4)
