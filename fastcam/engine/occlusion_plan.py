"""What occlusion would compute, layer by layer, before it does."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastcam import targets
from fastcam.incremental import MIN_GAIN, NotIncrementalError, Sweep
from fastcam.methods.occlusion import geometry, windows_of
from fastcam.model import capture
from fastcam.model.running import is_training


@dataclass(frozen=True)
class LayerShare:
    """One convolution, pooling or product with a matrix.

    Attributes:
        module: the name of the module that calls it.
        operation: its name in ATen.
        size: (height, width) of the map that it returns; () where that has no places.
        share: how much of that map is computed for a window, on average.
        multiplications: of a whole forward pass.
    """

    module: str
    operation: str
    size: tuple[int, ...]
    share: float
    multiplications: float


@dataclass(frozen=True)
class OcclusionPlan:
    """How a sweep of windows over one image would run.

    Attributes:
        layers: in their order.
        windows: how many.
        groups: in which they are done, with patches of one size each.
        limit: how many times fewer multiplications that takes than a forward pass for every window.
        gain: how many times faster it is predicted to be, memory counted too.
        reason: why whole forward passes are made; empty where patches are.
    """

    layers: tuple[LayerShare, ...]
    windows: int
    groups: int
    limit: float
    gain: float
    reason: str = ""

    def __str__(self) -> str:
        """A line for every layer, and what comes of it."""
        width = max([len(each.module) for each in self.layers], default=0)
        lines = [_line(each, width) for each in self.layers]
        if self.reason:
            return "\n".join([*lines, f"every window runs the whole model: {self.reason}"])
        patches = f"{self.windows} windows in {self.groups} groups: {self.limit:.2f} times fewer multiplications"
        return "\n".join([*lines, f"{patches}, predicted {self.gain:.2f} times faster than whole forward passes"])

    def show(self) -> None:
        """Prints it."""
        print(self)


def _line(layer: LayerShare, width: int) -> str:
    size = " x ".join(map(str, layer.size))
    bar = "#" * round(20 * layer.share)
    return f"{layer.module:<{width}}  {layer.operation:<20}{size:>9}  {layer.share:4.0%} {bar:<20}  {_short(layer)}"


def _short(layer: LayerShare) -> str:
    return f"{layer.multiplications / 1e6:8.1f} M" if layer.multiplications else ""


def occlusion_plan(
    model: nn.Module,
    image_size: int | Sequence[int] | Tensor,
    window: int | Sequence[int] | None = None,
    stride: int | Sequence[int] | None = None,
    *,
    select: Callable[[Any], Any] | int | str | None = None,
) -> OcclusionPlan:
    """What the method ``occlusion`` with ``engine="auto"`` would compute for every window.

    Args:
        model: in evaluation mode; it runs once.
        image_size: side, (height, width), or images (N, C, H, W) where the model wants other than three channels.
        window: as for the method.
        stride: as for the method.
        select: the part of the output that is scored, as for :class:`fastcam.Explainer`.

    Raises:
        ValueError: for a model in training mode, and for windows that do not fit.
    """
    if is_training(model):
        raise ValueError("a model in training mode has no plan: call model.eval() first")
    image = _image(model, image_size)
    size = tuple(image.shape[2:])
    shape, steps, grid = geometry(size, window, stride)
    windows = windows_of(grid, steps, shape)

    def run(copies: Tensor) -> Any:
        return targets.select_output(capture.forward(model, copies).output, select)

    try:
        with _callers(model) as caller:
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
    if len(sides) != 2 or any(not isinstance(each, int) or each < 1 for each in sides):
        raise ValueError(f"`image_size` must be a side, (height, width) or images (N, C, H, W), got {image_size!r}")
    like = next((each for each in model.parameters() if each.is_floating_point()), torch.empty(0))
    return torch.zeros(1, 3, *sides, dtype=like.dtype, device=like.device)


@contextlib.contextmanager
def _callers(model: nn.Module) -> Iterator[Callable[[], str]]:
    """Says which module of a model is running."""
    running = [""]

    def enter(name: str) -> Callable[..., None]:
        return lambda *_: running.append(name)

    def leave(*_: Any) -> None:
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
