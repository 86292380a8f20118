"""What was measured, and what it is."""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastcam.evaluate.baselines import describe_baseline
from fastcam.evaluate.bootstrap import interval, pooled_interval
from fastcam.evaluate.registry import Measure

MAX_POOLS = 200  # of a bootstrap: pooling takes longer than a mean
_SCORES = {
    "probability": "the probability of the explained class; the explained score of what is no class",
    "explained": "the explained score",
    "predicted": "the highest class",
    None: "",
}


@dataclass(frozen=True, eq=False)
class Measured:
    """The values of one measure for the maps of one method.

    Attributes:
        measure: the measure.
        method: name of the method.
        layer: name of its layer; "" for none.
        values: (N,) or (N, K) float32, NaN where the map is not finite or the formula has no value.
        details: further results (N, [K,] ...) by name, see the measure's docstring.
        options: all options of the measure.
        passes: of the model, for each map: copies of the image that the measure needs, the image itself not counted.
    """

    measure: Measure
    method: str
    layer: str
    values: Tensor
    details: Mapping[str, Tensor]
    options: Mapping[str, Any]
    passes: int

    @property
    def mean(self) -> float:
        """The mean of the values that are numbers, or what the measure pools from all images; NaN if there is none."""
        if self.measure.pool is not None:
            return self.measure.pool(self._flat_details()).item()
        return self.values.double().nanmean().item()

    def _flat_details(self) -> dict[str, Tensor]:
        """Return the details with one row for every image and target."""
        return {name: each.flatten(0, self.values.dim() - 1) for name, each in self.details.items()}

    @property
    def undefined(self) -> int:
        """How many values are NaN."""
        return int(self.values.isnan().sum())

    def interval(self, level: float = 0.95, samples: int = 2000, seed: int = 0) -> tuple[float, float]:
        """Return the bootstrap interval of the mean; images are drawn with replacement."""
        pool = self.measure.pool
        if pool is None:
            return interval(self.values, level, samples, seed)
        defined = ~self.values.isnan().reshape(len(self.values), -1).all(1)
        details = {name: each[defined] for name, each in self.details.items()}
        return pooled_interval(pool, details, self.values.dim() - 1, level, min(samples, MAX_POOLS), seed)

    @property
    def about(self) -> dict[str, str]:
        """What the values are: formula, f, options, space, direction, source, passes."""
        options = {
            name: describe_baseline(value) if name == "baseline" else str(value) for name, value in self.options.items()
        }
        better = {True: "higher", False: "lower", None: "neither"}[self.measure.higher_is_better]
        return {
            "formula": self.measure.formula,
            "f": _SCORES[self.measure.score],
            "space": "the model's input, after preprocessing" if self.measure.needs else "the map",
            "better": better,
            "paper": self.measure.paper,
            "passes": str(self.passes),
            **options,
        }

    def __repr__(self) -> str:
        low, high = self.interval()
        where = f"{self.method}, {self.layer}" if self.layer else self.method
        return f"Measured({self.measure.name!r} of {where}: {self.mean:.4f} [{low:.4f}, {high:.4f}])"


@dataclass(frozen=True, eq=False)
class Evaluation(Mapping[tuple[Hashable, str], Measured]):
    """All that was measured, by the key of the explanation and the name of the measure.

    Attributes:
        results: by (key, measure): the key is the method's name for an explanation, or that of the mapping passed.
        passes: forward passes and explanations that were made for each map, equal copies once; at most the sum of the
            results' own.
    """

    results: Mapping[tuple[Hashable, str], Measured]
    passes: int

    def __getitem__(self, key: tuple[Hashable, str]) -> Measured:
        return self.results[key]

    def __iter__(self) -> Iterator[tuple[Hashable, str]]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def rows(self) -> Iterator[dict[str, object]]:
        """Yield a row for every image, target, method and measure."""
        for result in self.results.values():
            values = result.values if result.values.dim() == 2 else result.values[:, None]
            for image, of_image in enumerate(values.tolist()):
                for target, value in enumerate(of_image):
                    yield {
                        "image": image,
                        "target": target,
                        "method": result.method,
                        "layer": result.layer,
                        "measure": result.measure.name,
                        "value": value,
                    }

    def __str__(self) -> str:
        """A table: a line for every method, a column for every measure, means with their 95 % intervals."""
        keys, measures = (list(dict.fromkeys(each)) for each in zip(*self.results, strict=True))
        cells = [["", *measures]]
        for key in keys:
            results = [self.results[key, name] for name in measures]
            cells.append(
                [
                    _text(key),
                    *(f"{each.mean:.3f} [{each.interval()[0]:.3f}, {each.interval()[1]:.3f}]" for each in results),
                ]
            )
        widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells
        )


def _text(key: Hashable) -> str:
    return ", ".join(map(str, key)) if isinstance(key, tuple) else str(key)


def shaped(values: Tensor, count: int, is_single: bool) -> Tensor:
    """Return values of rows (R, ...) by image and target: (N, ...) or (N, K, ...)."""
    return values if is_single else values.unflatten(0, (count, -1))


def masked(values: Tensor, is_valid: Tensor) -> Tensor:
    """Return floating point values (R, ...), NaN for maps that are not valid (R,)."""
    values = values if values.is_floating_point() else values.float()
    return torch.where(is_valid.reshape(-1, *[1] * (values.dim() - 1)), values, torch.nan)


def wide(values: Tensor) -> Tensor:
    """Return values as float32, or float64 if they are."""
    return values if values.dtype == torch.float64 else values.float()
