"""Small seeded networks and the helpers that the engine's tests share."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastcam

METHODS = [each.name for each in fastcam.list_methods()]
# The class activation maps of one forward and one backward pass, down to the layer.
GRADIENT_METHODS = [each.name for each in fastcam.list_methods() if "gradients" in each.needs and each.is_flat]
# Options that make the methods of many copies quick on the small networks.
QUICK: dict[str, dict[str, int]] = {
    "rise": {"masks": 9},
    "integrated_gradients": {"steps": 5},
    "smooth_grad": {"samples": 3},
    "occlusion": {"window": 5, "stride": 4},
}

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
DROPOUTS = {1: nn.Dropout1d, 2: nn.Dropout2d, 3: nn.Dropout3d}
SIZES = {1: (16,), 2: (12, 10), 3: (6, 8, 7)}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny networks are slower on several threads, by far where the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *arguments: Any) -> Any:
        return self.function(*arguments)


class ConvNet(nn.Module):
    """stem -> features -> relu -> probe -> global pooling -> classifier; the ReLUs work in place unless told."""

    def __init__(self, axes: int = 2, inplace: bool = True, pooling: str = "mean", dropout: float = 0.0) -> None:
        super().__init__()
        conv, norm = CONVOLUTIONS[axes], NORMS[axes]
        self.stem = nn.Sequential(conv(3, 6, 3, padding=1), norm(6), nn.ReLU(inplace), DROPOUTS[axes](dropout))
        self.features = nn.Sequential(conv(6, 8, 3, stride=2, padding=1), norm(8))
        self.relu = nn.ReLU(inplace)
        self.probe = nn.Identity()  # where tests put a module of their own
        self.pooling = pooling
        self.classifier = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.probe(self.relu(self.features(self.stem(x))))
        spatial = tuple(range(2, x.dim()))
        return self.classifier(x.mean(spatial) if self.pooling == "mean" else x.amax(spatial))


def conv_net(*probe: nn.Module, **options: Any) -> ConvNet:
    """A seeded ConvNet in evaluation mode, with batch norm statistics that are not trivial; ``probe`` in its place."""
    torch.manual_seed(1)
    model = ConvNet(**options)
    if probe:
        model.probe = nn.Sequential(*probe)
    model.eval()
    for module in model.modules():
        if isinstance(module, tuple(NORMS.values())):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return model


def images_for(axes: int = 2, count: int = 2, seed: int = 2) -> Tensor:
    """(count, 3, *S), seeded."""
    return torch.randn(count, 3, *SIZES[axes], generator=torch.Generator().manual_seed(seed))


def suited(method: str) -> tuple[ConvNet, str]:
    """A network and a target layer that the method can explain, the layer followed by an in-place ReLU if possible."""
    needs = fastcam.get_method(method).needs
    model = conv_net(pooling="max" if "max_pool_classifier" in needs else "mean")
    return model, "relu" if any("classifier" in need for need in needs) else "features"


def autograd_gradients(tail: Callable[[Tensor], Tensor], activations: Tensor) -> Tensor:
    """d tail / d activations by plain autograd; ``tail`` gives one score per image."""
    with torch.enable_grad():
        leaf = activations.detach().clone().requires_grad_()
        return torch.autograd.grad(tail(leaf).sum(), leaf)[0]


def hooks_of(model: nn.Module) -> dict[str, list[Any]]:
    """Everything hooked to any module of the model."""
    return {
        f"{name}.{attribute}": list(value) if isinstance(value, dict) else value
        for name, module in model.named_modules()
        for attribute, value in vars(module).items()
        if "hook" in attribute and value
    }


def _bits(tensor: Tensor | None) -> Any:
    if tensor is None:
        return None
    return id(tensor), tensor.dtype, tuple(tensor.shape), tensor.detach().flatten().view(torch.uint8).tolist()


def snapshot(model: nn.Module) -> dict[str, Any]:
    """All the state that a call could leave changed, comparable with ==."""
    return {
        "parameters": {name: (_bits(p), _bits(p.grad), p.requires_grad) for name, p in model.named_parameters()},
        "buffers": {name: (_bits(b), b.requires_grad) for name, b in model.named_buffers()},
        "modules": {name: (id(m), m.training, sorted(vars(m))) for name, m in model.named_modules()},
        "hooks": hooks_of(model),
        "random": torch.get_rng_state().tolist(),
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
    }
