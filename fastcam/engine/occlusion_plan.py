"""The computation plan of occlusion, layer by layer, without running it."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastcam.incremental import MIN_GAIN, NotIncrementalError, Sweep
from fastcam.methods.occlusion import window_geometry, window_positions
from fastcam.model import capture
from fastcam.model.elements import ModelOutput, Select
from fastcam.model.running import is_training
from fastcam.targets.binding import select_output


@dataclass(frozen=True)
class LayerShare:
    """One convolution, pooling or matrix product.

    Attributes:
        module: the name of the module that calls it.
        operation: its name in ATen.
        size: (height, width) of its output; () for an output without positions.
        share: fraction of the output computed per window, on average.
        multiplications: in a whole forward pass.
    """

    module: str
    operation: str
    size: tuple[int, ...]
    share: float
    multiplications: float


@dataclass(frozen=True)
class OcclusionPlan:
    """The plan of a sweep of windows over one image.

    Attributes:
        layers: in order of execution.
        windows: number of windows.
        groups: number of groups of windows, each with patches of one size.
        limit: ratio of the multiplications of whole forward passes to those of the patches.
        gain: predicted speedup over whole forward passes, including memory traffic.
        reason: the reason for whole forward passes; empty if patches are used.
    """

    layers: tuple[LayerShare, ...]
    windows: int
    groups: int
    limit: float
    gain: float
    reason: str = ""

    def __str__(self) -> str:
        """A line for every layer, and a summary."""
        width = max([len(layer.module) for layer in self.layers], default=0)
        lines = [_format_layer(layer, width) for layer in self.layers]
        if self.reason:
            return "\n".join([*lines, f"every window runs the whole model: {self.reason}"])
        patches = f"{self.windows} windows in {self.groups} groups: {self.limit:.2f} times fewer multiplications"
        return "\n".join([*lines, f"{patches}, predicted {self.gain:.2f} times faster than whole forward passes"])

    def show(self) -> None:
        """Print the plan."""
        print(self)


def _format_layer(layer: LayerShare, width: int) -> str:
    size = " x ".join(map(str, layer.size))
    bar = "#" * round(20 * layer.share)
    count = f"{layer.multiplications / 1e6:8.1f} M" if layer.multiplications else ""
    return f"{layer.module:<{width}}  {layer.operation:<20}{size:>9}  {layer.share:4.0%} {bar:<20}  {count}"


def occlusion_plan(
    model: nn.Module,
    image_size: int | Sequence[int] | Tensor,
    window: int | Sequence[int] | None = None,
    stride: int | Sequence[int] | None = None,
    *,
    select: Select = None,
) -> OcclusionPlan:
    """Return the plan of the method ``occlusion`` with ``engine="auto"``: its computation for every window.

    Args:
        model: in evaluation mode; it runs once.
        image_size: side, (height, width), or images (N, C, H, W) for a model without three input channels.
        window: as for the method.
        stride: as for the method.
        select: the scored part of the output, as for :class:`fastcam.Explainer`.

    Raises:
        ValueError: for a model in training mode, and for windows that do not fit.
    """
    if is_training(model):
        raise ValueError("a model in training mode has no plan: call model.eval() first")
    image = _image(model, image_size)
    size = tuple(image.shape[2:])
    shape, steps, grid = window_geometry(size, window, stride)
    windows = window_positions(grid, steps, shape)

    def run(copies: Tensor) -> ModelOutput:
        return select_output(capture.forward(model, copies).output, select)

    try:
        with _track_modules(model) as caller:
            sweep = Sweep(run, image, torch.zeros_like(image), caller)
    except NotIncrementalError as error:
        return OcclusionPlan((), len(windows), 0, 1.0, 1.0, str(error))
    gain = sweep.gain(windows, "work")
    reason = "" if gain >= MIN_GAIN else f"patches would make it {gain:.2f} times as fast"
    groups = sweep.buckets(windows)
    return OcclusionPlan(_layers(sweep, windows, groups), len(windows), len(groups), sweep.gain(windows), gain, reason)


def _image(model: nn.Module, image_size: int | Sequence[int] | Tensor) -> Tensor:
    if isinstance(image_size, Tensor):
        if image_size.dim() != 4:
            raise ValueError(f"images must have shape (N, C, H, W), got {tuple(image_size.shape)}")
        return image_size[:1]
    sides = [image_size] * 2 if isinstance(image_size, int) else list(image_size)
    if len(sides) != 2 or any(not isinstance(side, int) or side < 1 for side in sides):
        raise ValueError(f"`image_size` must be a side, (height, width) or images (N, C, H, W), got {image_size!r}")
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return torch.zeros(1, 3, *sides, dtype=parameter.dtype, device=parameter.device)


@contextlib.contextmanager
def _track_modules(model: nn.Module) -> Iterator[Callable[[], str]]:
    """Yield a function that returns the name of the running module of a model."""
    running = [""]

    def enter(name: str) -> Callable[..., None]:
        return lambda *_: running.append(name)

    def leave(*_: object) -> None:
        running.pop()

    with contextlib.ExitStack() as stack:
        for name, module in model.named_modules():
            stack.callback(module.register_forward_pre_hook(enter(name)).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        yield lambda: running[-1]


def _layers(sweep: Sweep, windows: Tensor, groups: Sequence[Tensor]) -> tuple[LayerShare, ...]:
    analysis = sweep.analysis
    plans = [sweep.plan(windows[group]) for group in groups]
    layers = []
    for index, (operation, multiplications) in enumerate(
        zip(analysis.operations, analysis.multiplications, strict=True)
    ):
        if not multiplications and "pool" not in operation.name:
            continue
        shares = [plan.steps[index].share * len(plan.start) for plan in plans]
        shape = analysis.shape(operation.outputs[0])
        size = tuple(shape[2:]) if len(shape) == 4 else ()
        name = operation.name.removesuffix("_with_indices")
        layers.append(LayerShare(operation.module, name, size, sum(shares) / len(windows), multiplications))
    return tuple(layers)
