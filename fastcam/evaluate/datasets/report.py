"""The report of a folder of measured values: a table as text, and one HTML file with charts and pictures."""

import base64
import html
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc
from PIL import Image

from fastcam import render
from fastcam.classifiers.preprocessing import Preprocessing, read_photograph
from fastcam.dataset.durable_files import write_replacing
from fastcam.dataset.export import read_preprocessing
from fastcam.dataset.table import Row, decode_map
from fastcam.evaluate.datasets.reader import Evaluations, Mean
from fastcam.evaluate.perturbations import list_levels
from fastcam.evaluate.plots import by_level, new_figure
from fastcam.evaluate.registry import get_measure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADS: tuple[str, ...] = ("measure", "method", "layer", "mean", "95 % interval", "maps", "without a value", "better")
SHOWN_IMAGES = 4  # of the best, and of the worst
_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse}td,th{padding:.2rem .8rem;border-bottom:1px solid #ddd;text-align:left}
td.number{text-align:right;font-variant-numeric:tabular-nums}img{max-width:100%}.row{display:flex;gap:.6rem;flex-wrap:wrap}
figure{margin:0;width:13rem}figcaption{font-size:.8rem;overflow-wrap:anywhere}.formula{color:#555}"""


def table(evaluations: Evaluations) -> str:
    """Return the means of all methods and measures with their intervals, a line each."""
    lines = [HEADS, *(_cells(mean) for mean in _means(evaluations))]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in text)


def _means(evaluations: Evaluations) -> list[Mean]:
    return [*evaluations.means(), *evaluations.pointing_games(), *evaluations.localisation_errors()]


def _cells(mean: Mean) -> tuple[str, ...]:
    better = {True: "higher", False: "lower", None: ""}[mean.higher_is_better]
    numbers = f"{mean.mean:.4f}", f"{mean.low:.4f} to {mean.high:.4f}"
    if math.isnan(mean.mean):
        numbers = "none", ""
    return (mean.measure, mean.method, mean.layer, *numbers, str(mean.values), str(mean.undefined), better)


def write_report(evaluations: Evaluations, file: str | Path) -> None:
    """Write one HTML file: the table, a chart of each measure, curves, and the images with the best and worst values.

    Pictures are read again from where the run found them; where they are not, the map is shown alone.

    Args:
        evaluations: the values.
        file: to write.

    Raises:
        ImportError: without matplotlib.
        OSError: if the file cannot be written.
    """
    means = _means(evaluations)
    parts = ["<h1>How far the maps tell the truth</h1>", _of_run(evaluations), _table(means)]
    for name in evaluations.measures:
        parts.append(f"<h2>{html.escape(name)}</h2><p class=formula>{_about(name)}</p>")
        chosen = [mean for mean in means if mean.measure == name]
        parts.append(_picture(_bars(chosen)))
        curves = {(each.method, each.layer): evaluations.details(name, each.method, each.layer) for each in chosen}
        if any("curve" in each for each in curves.values()):
            parts.append(_picture(_curves(curves)))
        if "levels" in get_measure(name).options:
            parts.append(_picture(_levels(evaluations, name, chosen)))
        parts += _extremes(evaluations, name, chosen)
    page = f"<!doctype html><html lang=en><meta charset=utf-8><title>Maps measured</title><style>{_STYLE}</style>"
    write_replacing(Path(file), (page + "\n".join(parts) + "</html>\n").encode())


def _of_run(evaluations: Evaluations) -> str:
    identity, maps = evaluations.maps.identity, evaluations.maps
    done = sum(commit.stop - commit.start for commit in maps.commits)
    failed = sum(commit.failed for commit in maps.commits)
    text = f"{done} of {identity['images']} images, {failed} of them without a map."
    return f"<p>{html.escape(text)}</p>"


def _table(means: Sequence[Mean]) -> str:
    lines = ["".join(f"<th>{head}</th>" for head in HEADS)]
    for mean in means:
        cells = _cells(mean)
        kinds = ["" if index < 3 or index == 7 else " class=number" for index in range(8)]
        lines.append("".join(f"<td{kind}>{html.escape(cell)}</td>" for kind, cell in zip(kinds, cells, strict=True)))
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _about(name: str) -> str:
    found = get_measure(name)
    return f"{html.escape(found.summary)}<br>{html.escape(found.formula)} ({html.escape(found.paper)})"


def _label(method: str, layer: str) -> str:
    return f"{method} ({layer})" if layer else method


def _bars(means: Sequence[Mean]) -> "Figure":
    """Return bars of the means with their intervals."""
    figure = new_figure(7, 0.6 + 0.4 * len(means))
    axes = figure.subplots()
    labels = [_label(mean.method, mean.layer) for mean in means]
    numbers = np.nan_to_num([[mean.mean, mean.low, mean.high] for mean in means])
    errors = np.clip([numbers[:, 0] - numbers[:, 1], numbers[:, 2] - numbers[:, 0]], 0, None)
    axes.barh(range(len(means)), numbers[:, 0], xerr=errors, color="#4878a8", capsize=3)
    axes.set_yticks(range(len(means)), labels)
    axes.invert_yaxis()
    return figure


def _curves(curves: dict[tuple[str, str], dict[str, Any]]) -> "Figure":
    """Return the mean curves of the methods."""
    figure = new_figure(7, 3.2)
    axes = figure.subplots()
    for (method, layer), details in curves.items():
        if "curve" in details:
            mean = details["curve"].nanmean(0).numpy()
            axes.plot(np.linspace(0, 1, len(mean)), mean, label=_label(method, layer))
    axes.set_xlabel("share of the positions")
    axes.set_ylabel("mean score")
    axes.legend()
    return figure


def _levels(evaluations: Evaluations, name: str, means: Sequence[Mean]) -> "Figure":
    """Return how maps, or predictions, of the methods stay under every perturbation."""
    options = evaluations.maps.identity["measure_options"].get(name, {})
    curves = {}
    for mean in means:
        details = evaluations.details(name, mean.method, mean.layer)
        if details:
            values = details["similarity"] if "similarity" in details else 1 - details["flipped"]
            curves[_label(mean.method, mean.layer)] = values.nanmean(0).tolist()
    return by_level(list_levels(options.get("levels")), curves)


def _picture(figure: "Figure") -> str:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    return _image(data.getvalue(), "png")


def _image(data: bytes, kind: str) -> str:
    return f'<img alt="" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


def _extremes(evaluations: Evaluations, name: str, means: Sequence[Mean]) -> Iterator[str]:
    """Yield the images with the best and worst values of the first method."""
    if not means or get_measure(name).higher_is_better is None:
        return
    method, layer = means[0].method, means[0].layer
    is_chosen = (pc.field("measure") == name) & (pc.field("method") == method) & (pc.field("layer") == layer)
    rows = evaluations.dataset().to_table(
        ["image_id", "target", "value"], filter=is_chosen & pc.field("value").is_valid()
    )
    order = np.argsort(rows["value"].to_numpy(), kind="stable")
    best_last = order if get_measure(name).higher_is_better else order[::-1]
    if len(order) < 2 * SHOWN_IMAGES:
        return
    for title, places in (("best", best_last[::-1][:SHOWN_IMAGES]), ("worst", best_last[:SHOWN_IMAGES])):
        chosen = rows.take(places).to_pylist()
        figures = "".join(_figure(evaluations, row, method, layer) for row in chosen)
        yield f"<h3>{title} of {html.escape(_label(method, layer))}</h3><div class=row>{figures}</div>"


def _figure(evaluations: Evaluations, chosen: Row, method: str, layer: str) -> str:
    rows = evaluations.maps.rows(chosen["image_id"])
    place = method, layer, chosen["target"]
    row = next(row for row in rows if row["map"] and (row["method"], row["layer"], row["target"]) == place)
    values = decode_map(row, evaluations.maps.size_of(chosen["image_id"]))
    preprocessing = read_preprocessing(evaluations.maps.identity["preprocessing"])
    data = io.BytesIO()
    Image.fromarray(render.overlay(_background(row["path"], preprocessing, values.shape), values)).save(data, "JPEG")
    text = f"{html.escape(chosen['image_id'])}<br>{chosen['value']:.3f}"
    names = evaluations.maps.class_names
    if chosen["target"] is not None and chosen["target"] < len(names):
        text += f", {html.escape(names[chosen['target']])}"
    return f"<figure>{_image(data.getvalue(), 'jpeg')}<figcaption>{text}</figcaption></figure>"


def _background(path: str, preprocessing: Preprocessing, size: tuple[int, ...]) -> render.Bytes:
    """Return what the model saw of a picture, grey where that cannot be read."""
    try:
        picture = np.asarray(preprocessing.crop(read_photograph(path)).convert("RGB"))
    except (ValueError, OSError):
        picture = np.empty(0)
    return picture if picture.shape == (*size, 3) else np.full((*size, 3), 128, np.uint8)
