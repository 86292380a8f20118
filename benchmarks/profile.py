"""Where the time of one explanation goes: ``python -m benchmarks.profile grad_cam --model resnet18 --batch 1``.

PyTorch's profiler sees every operator; each counts with its own time, without that of the operators it calls:

- model: operators inside the model's forward pass, and all of a backward pass;
- fastcam's kernels: ``fastcam::*`` and what they call;
- copies: operators that copy, convert or move tensors, outside the model;
- other operators: what else runs outside the model, making scores or masks for example;
- waiting: for the device to finish, where there is one;
- Python: the time in which no operator ran, on any thread: the interpreter, of the model's modules too.

The time of the profiler itself is in all of them, in Python's most; the time without it is given beside. What fastcam
adds to a forward pass, Python and dispatch, is therefore measured without a profiler too, on a network of as many
modules as the model, so tiny that their operators take next to nothing: the time of an explanation less that of a bare
forward pass, in turns, the median of the differences. fastcam's operators on tiny tensors are in it. Once for a head of
pooling and a linear layer, whose gradient is known, and once for a head that takes a backward pass. ``--at-most``
checks it.
"""

import argparse
import os
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

import fastcam
from fastcam.bench.contest import bare_forward
from fastcam.bench.timing import synchronizer, time_call
from fastcam.classifiers import models

MODEL, KERNELS, COPIES, OTHER, WAITING, PYTHON = PARTS = (
    "model", "fastcam's kernels", "copies", "other operators", "waiting", "Python",
)  # fmt: skip
COPYING = {
    *("aten::copy_", "aten::clone", "aten::contiguous", "aten::to", "aten::_to_copy"),
    *("aten::item", "aten::_local_scalar_dense"),  # from a device to the host
}
WHOLE, FORWARD = "an explanation", "a forward pass"  # what the profiler shows around operators; none themselves
BACKWARD = "autograd::engine::evaluate_function"
COSTLIEST = 10


class Marked(nn.Module):
    """A model whose forward passes the profiler shows."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Any) -> Any:
        with record_function(FORWARD):
            return self.model(*inputs)


@dataclass(frozen=True)
class Profile:
    """Medians over repeated calls, in milliseconds.

    Attributes:
        parts: by part, on the host.
        on_device: by part, in the kernels of a GPU.
        wall: of the whole, with the profiler.
        without: of the whole, without it.
        operators: name, part, calls and milliseconds of the costliest operators.
    """

    parts: dict[str, float]
    on_device: dict[str, float]
    wall: float
    without: float
    operators: list[tuple[str, str, float, float]]


def part_of(event: FunctionEvent) -> str | None:
    """Which part an operator belongs to; None for what is no operator."""
    if event.name in (WHOLE, FORWARD):
        return None
    if "Synchronize" in event.name:
        return WAITING
    names = [each.name for each in lineage(event)]
    if any(name == FORWARD or name.startswith(BACKWARD) for name in names):
        return MODEL
    if any(name.startswith("fastcam::") for name in names):
        return KERNELS
    return COPIES if any(name in COPYING or name.startswith("cudaMemcpy") for name in names) else OTHER


def lineage(event: FunctionEvent) -> Iterable[FunctionEvent]:
    """The event, what called it, what called that."""
    found: FunctionEvent | None = event
    while found is not None:
        yield found
        found = found.cpu_parent


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """The length of what intervals cover together."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def profiled(call: Callable[[], Any], device: torch.device, repeats: int) -> Profile:
    """Calls again and again, with and without the profiler."""
    wait = synchronizer(device)
    for _ in range(3):
        time_call(call, wait)
    without = statistics.median(time_call(call, wait)[0] for _ in range(repeats)) * 1e3
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as profiler:
        for _ in range(repeats + 1):  # the first call under a profiler is slower
            with record_function(WHOLE):
                time_call(call, wait)
    events = [each for each in profiler.events() if each.device_type == torch.autograd.DeviceType.CPU]
    wholes = sorted((each for each in events if each.name == WHOLE), key=lambda each: each.time_range.start)[1:]
    inside = [within(whole, events) for whole in wholes]
    hosts, devices = zip(*(divided(whole, found) for whole, found in zip(wholes, inside, strict=True)), strict=True)
    return Profile(
        medians(hosts),
        medians(devices),
        statistics.median(whole.time_range.elapsed_us() for whole in wholes) / 1e3,
        without,
        costliest([each for found in inside for each in found], repeats),
    )


def within(whole: FunctionEvent, events: Sequence[FunctionEvent]) -> list[tuple[FunctionEvent, str]]:
    """The operators of one call, with their parts."""
    start, end = whole.time_range.start, whole.time_range.end
    named = [(each, part_of(each)) for each in events if start <= each.time_range.start <= end]
    return [(each, part) for each, part in named if part is not None]


def divided(
    whole: FunctionEvent, found: Sequence[tuple[FunctionEvent, str]]
) -> tuple[dict[str, float], dict[str, float]]:
    """Milliseconds of one call by part, on the host and on the device."""
    host, device = dict.fromkeys(PARTS, 0.0), dict.fromkeys(PARTS, 0.0)
    for event, part in found:
        host[part] += event.self_cpu_time_total / 1e3
        device[part] += event.self_device_time_total / 1e3
    busy = covered((event.time_range.start, event.time_range.end) for event, _ in found)
    host[PYTHON] = (whole.time_range.elapsed_us() - busy) / 1e3
    return host, device


def medians(found: Sequence[dict[str, float]]) -> dict[str, float]:
    return {part: statistics.median(each[part] for each in found) for part in PARTS}


def costliest(found: Sequence[tuple[FunctionEvent, str]], repeats: int) -> list[tuple[str, str, float, float]]:
    """Per call; by their own time on the host and on the device."""
    milliseconds: Counter[tuple[str, str]] = Counter()
    calls: Counter[tuple[str, str]] = Counter()
    for event, part in found:
        milliseconds[event.name, part] += (event.self_cpu_time_total + event.self_device_time_total) / 1e3
        calls[event.name, part] += 1
    return [
        (name, part, calls[name, part] / repeats, total / repeats)
        for (name, part), total in milliseconds.most_common(COSTLIEST)
    ]


def tiny(modules: int, known: bool) -> nn.Module:
    """A network of so many modules; behind the last with a map the gradient is known, or takes a backward pass."""
    torch.manual_seed(0)
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4), *([] if known else [nn.Tanh(), nn.Linear(4, 4)])]
    count = max(1, modules - len(tail) - 1)
    body = [nn.ReLU() if index % 2 else nn.Conv2d(3, 3, 1) for index in range(count)]
    return nn.Sequential(*body, nn.Conv2d(3, 3, 1), *tail).eval()


def added(method: str, network: nn.Module, device: torch.device, rounds: int = 200) -> float | None:
    """Milliseconds that an explanation takes beyond a bare forward pass; None where the method has none."""
    model, images = network.to(device), torch.rand(1, 3, 8, 8, device=device)
    explainer, wait = fastcam.Explainer(model, method, graph=False), synchronizer(device)
    forward, explain = bare_forward(model, images), shown(explainer, images, [0])
    try:
        for _ in range(20):
            explain()
            forward()
    except ValueError:  # CAM of a network that does not end so, for example
        return None
    return 1e3 * statistics.median(time_call(explain, wait)[0] - time_call(forward, wait)[0] for _ in range(rounds))


def shown(explainer: fastcam.Explainer, images: Tensor, targets: list[int]) -> Callable[[], Any]:
    """An explanation with its maps, which are made when they are asked for."""
    return lambda: explainer(images, targets).maps


def parts_table(found: Profile, title: str) -> Table:
    on_gpu = any(found.on_device.values())
    table = Table("part", title=title, min_width=len(title) + 2)
    for name in ("ms", "share", *(["ms on the GPU"] if on_gpu else [])):
        table.add_column(name, justify="right")
    for part, time in found.parts.items():
        if time:
            gpu = [f"{found.on_device[part]:.3f}"] if on_gpu else []
            table.add_row(part, f"{time:.3f}", f"{time / found.wall:.1%}", *gpu)
    table.add_section()
    table.add_row("all, with the profiler", f"{found.wall:.3f}", "100.0%")
    table.add_row("all, without it", f"{found.without:.3f}", "")
    return table


def operators_table(found: Profile) -> Table:
    table = Table("operator", "part", title=f"The {COSTLIEST} costliest operators")
    for name in ("calls", "ms", "share"):
        table.add_column(name, justify="right")
    for name, part, calls, time in found.operators:
        table.add_row(name, part, f"{calls:.0f}", f"{time:.3f}", f"{time / found.wall:.1%}")
    return table


def measure(method: str, at: argparse.Namespace, device: torch.device, console: Console) -> float:
    """Prints what one method costs; returns what it adds to a forward pass, in milliseconds."""
    torch.manual_seed(0)
    specification = at.model if ":" in at.model else f"torchvision:{at.model}"
    loaded = models.load(specification)
    model = Marked(loaded.model).to(device).eval()
    images = torch.randn(at.batch, 3, *loaded.preprocessing.size, device=device)
    forward = bare_forward(model, images)
    targets = forward().argmax(1).tolist()
    explainer = fastcam.Explainer(model, method, f"model.{at.layer}" if at.layer else None, graph=False)
    found = profiled(shown(explainer, images, targets), device, at.repeats)
    bare = profiled(forward, device, at.repeats)
    where = f"{torch.get_num_threads()} threads" if device.type == "cpu" else torch.cuda.get_device_name(device)
    console.print(parts_table(found, f"{method}, {specification}, batch {at.batch}, {where}"), operators_table(found))
    beyond = found.parts[PYTHON] - bare.parts[PYTHON]
    console.print(
        f"A bare forward pass takes {bare.without:.3f} ms; Python in it {bare.parts[PYTHON]:.3f} ms with the profiler, "
        f"{beyond:.3f} ms less than in the explanation"
    )
    modules = sum(not list(each.children()) for each in model.modules())
    figures = [0.0]
    for known, words in ((True, "whose gradient is known"), (False, "that takes a backward pass")):
        time = added(method, tiny(modules, known), device)
        if time is not None:
            figures.append(time)
            console.print(f"Added to the forward pass of {modules} tiny modules with a head {words}: {time:.3f} ms")
    return max(figures)


def main() -> None:
    """Prints where the time goes, on the CPU and, where there is one, on the GPU."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("method", nargs="+", choices=[each.name for each in fastcam.list_methods()], metavar="METHOD")
    parser.add_argument("--model", default="resnet18", help="of torchvision, or as in fastcam explain")
    parser.add_argument("--batch", type=int, default=1, help="images at a time")
    parser.add_argument("--layer", help="target layer; the last with a map")
    parser.add_argument("--repeats", type=int, default=11, help="calls that count")
    parser.add_argument("--at-most", type=float, help="ms added to tiny modules; exit code 1 for more")
    arguments = parser.parse_args()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler says on standard error when it starts
    console = Console(width=110, highlight=False)
    slow = []
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        for method in arguments.method:
            most = measure(method, arguments, torch.device(device), console)
            if arguments.at_most is not None and most > arguments.at_most:
                slow.append(f"{method} on {device}: adds {most:.3f} ms, more than {arguments.at_most:g}")
    sys.exit("\n".join(slow) or 0)


if __name__ == "__main__":
    main()
