"""What activations do while a network trains: a histogram of every step, side by side as a strip of colours."""

import contextlib
import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from fastcam import render
from fastcam.inspect.recording import Layers, resolve, watching
from fastcam.model.capture import Layer

NEAR_ZERO = 0.05  # magnitudes below it are said to be near zero, as in fastai
_WIDTH, _HEIGHT = 640, 120  # of a strip in a figure, in pixels

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LayerHistory:
    """What one layer returned in T steps.

    Attributes:
        steps: (T,), numbers of the steps, from 0.
        mean: (T,), of all values of a batch.
        deviation: (T,), standard deviations.
        near_zero: (T,), shares of values whose magnitude is below 0.05.
        histogram: (T, bins), counts of values; those beyond the limits are in the first and the last bin.
        limits: lowest and highest value of the bins.
    """

    steps: npt.NDArray[np.int64]
    mean: Floats
    deviation: Floats
    near_zero: Floats
    histogram: Floats
    limits: tuple[float, float]

    def strip(self, colormap: str = "viridis") -> render.Bytes:
        """Return (bins, T, 3) bytes: a column for every step, the lowest values at the bottom, counts by logarithm."""
        counts = np.log1p(self.histogram).T[::-1]
        return render.colors(colormap)[render.to_uint8(counts / max(counts.max(initial=0), 1e-12))]


class ActivationHistory(Mapping[str, LayerHistory]):
    """Histograms, means and deviations of what layers return in training, step by step.

    >>> history = fastcam.inspect.ActivationHistory(model, ["layer1", "layer4"])
    >>> with history:
    ...     train(model)
    >>> history.figure().save("history.png")

    Nothing waits for the device. A layer that falls silent, or whose
    values grow from step to step, shows in its strip long before the loss tells. The hooks are gone at the end of the
    context, whatever happens; :meth:`for_lightning` and :meth:`for_fastai` are callbacks that enter it for a batch.

    Args:
        model: any module; batches go through it, or through what wraps it.
        layers: modules of the model, or their names.
        bins: of the histograms.
        limits: of the bins; fastai's are 0 and 10.
        every: keep one of so many steps.
        only_training: count passes in training mode alone; False counts all, for the batches of a dataset.

    Raises:
        ValueError, TypeError: for a layer that the model does not have, or numbers out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Layers,
        *,
        bins: int = 40,
        limits: tuple[float, float] = (0.0, 10.0),
        every: int = 1,
        only_training: bool = True,
    ) -> None:
        if bins < 1 or every < 1:
            raise ValueError(f"`bins` and `every` must be positive whole numbers, got {bins!r} and {every!r}")
        if not limits[0] < limits[1]:
            raise ValueError(f"`limits` must be a lower and a higher number, got {limits!r}")
        self.model, self.bins, self.limits, self.every = model, bins, limits, every
        self.only_training = only_training
        self._layers = resolve(model, layers)
        self._runs = {layer.name: 0 for layer in self._layers}
        self._kept: dict[str, list[tuple[int, Tensor, Tensor]]] = {layer.name: [] for layer in self._layers}
        self._context: contextlib.ExitStack | None = None

    def __enter__(self) -> "ActivationHistory":
        self.stop()
        self._context = contextlib.ExitStack()
        self._context.enter_context(watching(self._layers, self._see))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Remove the hooks, if there are any; what was seen is kept."""
        if self._context is not None:
            self._context.close()
            self._context = None

    @torch.no_grad()
    def _see(self, layer: Layer, tensors: list[Tensor]) -> None:
        if (self.only_training and not self.model.training) or not tensors:
            return
        step = self._runs[layer.name]
        self._runs[layer.name] += 1
        if step % self.every == 0:
            values = tensors[0].detach().float()
            moments = torch.stack([values.mean(), values.std(correction=0), (values.abs() < NEAR_ZERO).float().mean()])
            low, high = self.limits
            self._kept[layer.name].append((step, moments, values.clamp(low, high).histc(self.bins, low, high)))

    def __getitem__(self, name: str) -> LayerHistory:
        kept = self._kept[name]
        moments = _stacked([each for _, each, _ in kept], 3)
        steps = np.array([step for step, _, _ in kept], np.int64)
        histogram = _stacked([each for _, _, each in kept], self.bins)
        return LayerHistory(steps, moments[:, 0], moments[:, 1], moments[:, 2], histogram, self.limits)

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def figure(self, colormap: str = "viridis") -> Image.Image:
        """Return the strips of all layers, one below the other.

        Raises:
            ValueError: if no step was seen.
        """
        seen = {name: each for name, each in self.items() if len(each.steps)}
        if not seen:
            raise ValueError("no step was seen: passes inside the context are counted, in training mode unless told")
        rows, titles = [], []
        for name, each in seen.items():
            strip = Image.fromarray(each.strip(colormap))
            rows.append([np.asarray(strip.resize((_WIDTH, _HEIGHT), Image.Resampling.BOX))])
            titles.append(f"{name}\n{each.limits[0]:g} to {each.limits[1]:g}")
        last = max(int(each.steps[-1]) for each in seen.values())
        return render.contact_sheet(rows, titles, [f"steps 0 to {last}"])

    def for_lightning(self) -> Any:
        """Return a callback for a trainer of Lightning.

        Raises:
            ImportError: if it is not installed.
        """
        history = self

        class ActivationHistoryCallback(_lightning().Callback):  # type: ignore[misc]
            def on_train_batch_start(self, *arguments: Any) -> None:
                history.__enter__()

            def on_train_batch_end(self, *arguments: Any) -> None:
                history.stop()

            def on_exception(self, *arguments: Any) -> None:
                history.stop()

        return ActivationHistoryCallback()

    def for_fastai(self) -> Any:
        """Return a callback for a learner of fastai.

        Raises:
            ImportError: if it is not installed.
        """
        from fastai.callback.core import Callback

        history = self

        class ActivationHistoryCallback(Callback):
            def before_batch(self) -> None:
                history.__enter__()

            def after_pred(self) -> None:
                history.stop()

        return ActivationHistoryCallback()


def _lightning() -> ModuleType:
    """Return the package of the trainer: there are two names of it, whose classes do not mix."""
    names = ("lightning.pytorch", "pytorch_lightning")
    loaded = [name for name in names if name in sys.modules]
    for name in loaded or names:
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    raise ImportError("the callback needs Lightning: pip install lightning")


def _stacked(tensors: Sequence[Tensor], width: int) -> Floats:
    """Return (T, width) of tensors that may be on a device."""
    if not tensors:
        return np.zeros((0, width))
    stacked: Floats = torch.stack(list(tensors)).double().cpu().numpy()
    return stacked
