"""Figures of measured values; they need matplotlib."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure, in inches.

    Raises:
        ImportError: without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError('plots need matplotlib: pip install "fastcam[plot]"') from None
    return Figure(figsize=(width, height), layout="constrained")


def by_level(levels: Sequence[tuple[str, float]], curves: Mapping[str, Sequence[float]]) -> "Figure":
    """Return a panel for every kind of perturbation, with curves over its levels.

    Args:
        levels: (perturbation, level) of each of P perturbations.
        curves: P numbers in [-1, 1] by label.

    Raises:
        ImportError: without matplotlib.
    """
    names = list(dict.fromkeys(name for name, _ in levels))
    figure = new_figure(3.2 * len(names), 3.2)
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for panel, name in zip(panels, names, strict=True):
        places = [index for index, (each, _) in enumerate(levels) if each == name]
        for label, values in curves.items():
            panel.plot([f"{levels[i][1]:g}" for i in places], [values[i] for i in places], marker="o", label=label)
        panel.set_title(name)
        panel.set_ylim(-0.05, 1.05)
    panels[0].legend()
    return figure
