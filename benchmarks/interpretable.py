"""A network whose filters stand for parts: ``python -m benchmarks.interpretable``.

Drawn faces and cars, of which every part is known to the pixel, are told apart by two small networks, equal but for the
last convolution: a plain one, and ``fastcam.nn.InterpretableConv2d`` with its loss. Printed are their accuracy, the
paper's location instability of the filters (lower: a filter stays on one part), and the share of a filter's map that
lies within reach of its strongest position.
"""

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastcam
from fastcam.nn import InterpretableConv2d, filter_losses, location_instability

SIZE, FILTERS = 32, 12
PARTS = {"face": ((-6, -5), (-6, 5), (6, 0)), "car": ((7, -7), (7, 7), (-5, 0))}  # eyes, mouth; wheels, roof


def drawings(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return pictures (N, 3, 32, 32), their classes (N,), and landmarks (N, 3, 2) in [0, 1], rows and columns."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.arange(SIZE)[:, None], torch.arange(SIZE)
    pictures = 0.3 * torch.randn(count, 3, SIZE, SIZE, generator=generator)
    classes = torch.randint(2, (count,), generator=generator)
    middles = torch.randint(12, SIZE - 12, (count, 2), generator=generator)
    landmarks = torch.zeros(count, 3, 2)
    for picture, kind, middle, places in zip(pictures, classes.tolist(), middles, landmarks, strict=True):
        down, across = rows - middle[0], columns - middle[1]
        body = (down**2 + across**2 < 110) if kind == 0 else (down.abs() < 6) & (across.abs() < 11)
        colour = 0.5 + 0.3 * torch.rand(3, 1, generator=generator)
        picture[:, body] = 0.6 * picture[:, body] + colour
        for index, (row, column) in enumerate(PARTS["face" if kind == 0 else "car"]):
            if kind == 0 and index < 2:
                part = (down - row) ** 2 + (across - column) ** 2 < 5
            elif kind == 0:
                part = ((down - row).abs() < 2) & ((across - column).abs() < 4)
            elif index < 2:
                part = (down - row) ** 2 + (across - column) ** 2 < 9
            else:
                part = ((down - row).abs() < 3) & ((across - column).abs() < 5)
            picture[:, part] = -1.0 if index < 2 else torch.tensor([[1.0], [-0.6], [-0.6]])
            places[index] = (middle + torch.tensor([row, column]) + 0.5) / SIZE
    return pictures, classes, landmarks


def network(is_interpretable: bool) -> nn.Sequential:
    """Return an untrained network; both kinds have the same weights."""
    torch.manual_seed(0)
    last: list[nn.Module] = [InterpretableConv2d(32, FILTERS, 3, padding=1)]
    if not is_interpretable:
        torch.manual_seed(0)
        last = [nn.Conv2d(32, FILTERS, 3, padding=1), nn.ReLU()]
    torch.manual_seed(1)
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 5, padding=2), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        nn.Sequential(*last),
        *(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(FILTERS, 2)),
    )


def train(model: nn.Module, epochs: int, weight: float) -> None:
    """Train a model on drawings; ``weight`` is that of the filters' losses."""
    pictures, classes, _ = drawings(1024, 0)
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3)
    generator = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(epochs):
        for places in torch.randperm(len(pictures), generator=generator).split(64):
            with filter_losses(model) as losses:
                loss = F.cross_entropy(model(pictures[places]), classes[places])
            for each in losses:
                loss = loss + weight * each.sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()


@torch.no_grad()
def measure(model: nn.Module) -> dict[str, float]:
    """Return accuracy, location instability and concentration on other drawings."""
    pictures, classes, landmarks = drawings(512, 1)
    model.eval()
    inner = model[7][0].maps if isinstance(model[7][0], InterpretableConv2d) else model[7][1]
    with fastcam.recording(model, inner) as seen:
        output = model(pictures)
    (maps,) = seen.values()
    strength = torch.stack([maps[classes == kind].amax((2, 3)).mean(0) for kind in (0, 1)])
    unstable, near = [], []
    for channel in range(FILTERS):
        if strength[:, channel].max() < 1e-3:
            continue  # a filter that does nothing
        chosen = classes == strength[:, channel].argmax()
        of_filter = maps[chosen, channel : channel + 1]
        unstable.append(location_instability(of_filter, landmarks[chosen]).item())
        near.append(_near_its_peak(of_filter[:, 0]))
    accuracy = (output.argmax(1) == classes).double().mean().item()
    return {
        "accuracy": accuracy,
        "location instability": sum(unstable) / len(unstable),
        "share of the map near its peak": sum(near) / len(near),
        "filters": len(unstable),
    }


def _near_its_peak(maps: Tensor) -> float:
    """Return the mean share of maps (N, h, w) that lies at most 3 steps from the highest position."""
    height, width = maps.shape[1:]
    peaks = maps.flatten(1).argmax(1)
    rows, columns = (peaks // width)[:, None, None], (peaks % width)[:, None, None]
    distance = (torch.arange(height)[:, None] - rows).abs() + (torch.arange(width) - columns).abs()
    total = maps.sum((1, 2))
    share = (maps * (distance <= 3)).sum((1, 2)) / total.where(total > 0, 1)
    return share[total > 0].mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--weight", type=float, default=3.0, help="of the filters' losses")
    options = parser.parse_args()
    models = {"plain": (network(False), 0.0), "interpretable": (network(True), options.weight)}
    for name, (model, weight) in models.items():
        print(f"{name}, before:", _text(measure(model)), flush=True)
        train(model, options.epochs, weight)
        print(f"{name}, after: ", _text(measure(model)), flush=True)


def _text(measured: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in measured.items())


if __name__ == "__main__":
    main()
