"""``fastcam stats``: counts, failures, predictions and mean maps of a folder of maps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from fastcam.cli import options
from fastcam.cli.console import output, report_errors, status_text
from fastcam.cli.dataset import check_folder, import_dataset

if TYPE_CHECKING:
    from fastcam.dataset.reader import MapGroup, Stats
    from fastcam.dataset.table import Map, Row


def stats(
    folder: Annotated[Path, typer.Argument(help="Output folder of `fastcam map`, `features` or `neurons`.")],
    mean_maps: Annotated[Path | None, typer.Option(help="Folder for PNG files of the mean map per class.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Predicted classes to list.")] = 10,
    classes: Annotated[
        Path | None, typer.Option(help="Class names, one per line.", show_default="those of the run")
    ] = None,
) -> None:
    """Show the counts, predictions, accuracy and failures of a folder of maps, features or neurons."""
    with report_errors():
        check_folder(folder)
        maps = import_dataset().open(folder)
        from fastcam.dataset.summary import accuracy, problems

        counts = maps.stats()
        names = _check_names(options.read_class_names(classes), counts) or maps.class_names
        result = _result_of(maps.identity)
        if mean_maps is not None and result != "map":
            raise ValueError(f"--mean-maps are of a folder of maps: {str(folder)!r} holds none")
        per_label, bad = accuracy(maps, names), list(problems(maps))
        written = 0 if mean_maps is None else _write_means(maps.mean_maps(), mean_maps)
    table = Table("what", "count")
    table.add_row("images", f"{counts.images} of {counts.total}")
    table.add_row(f"without a {result}", str(counts.failed))
    table.add_row("rows", str(counts.rows))
    table.add_row("shards", f"{len(maps.commits)}, {_size(counts.bytes)}")
    table.add_row("from the first commit to the last", f"{counts.seconds:.0f} s")
    if maps.last_run is not None:
        table.add_row("last run", _describe_run(maps.last_run))
    for status, count in counts.statuses.items():
        table.add_row(f"status: {escape(status)}", str(count))
    for index, count in list(counts.predicted.items())[:top]:
        table.add_row(escape(f"predicted class {_label(index, names)}"), str(count))
    for label, (right, total) in per_label.items():
        table.add_row(escape(f"predicted as labelled: {label}"), f"{right} of {total}, {right / total:.1%}")
    output().print(table)
    if bad:
        typer.echo("images without a map, or with an empty one:" if result == "map" else f"images without a {result}:")
    for row in bad:
        typer.echo(f"  {_place(row, names)}: {status_text(row['status'], row['cause'])}")
    if mean_maps is not None:
        typer.echo(f"{written} mean maps in {mean_maps}")


def _describe_run(run: Mapping[str, Any]) -> str:
    limit = f", limited by {run['limit']}" if run.get("limit") else ""
    return f"{run['images']} images in {run['seconds']:.1f} s{limit}"


def _result_of(identity: Mapping[str, object]) -> str:
    """Return what a folder has of every image."""
    if "maps" in identity:
        return "map"
    return "vector" if "features" in identity else "result" if "neurons" in identity else "map"


def _check_names(names: Sequence[str], counts: "Stats") -> Sequence[str]:
    """Refuse a file of fewer names than there are classes."""
    highest = max(counts.predicted, default=-1)
    if names and highest >= len(names):
        raise ValueError(
            f"--classes must name every class: it has {len(names)} names, and class {highest} is predicted"
        )
    return names


def _label(index: int, names: Sequence[str]) -> str:
    """Return a class index and its name, if that is known."""
    return f"{index}: {names[index]}" if index < len(names) else str(index)


def _place(row: "Row", names: Sequence[str]) -> str:
    """Return the image of a row, with the method, layer and class of its map if there is one."""
    parts = [row["image_id"], row["method"], row["layer"]]
    if row["target"] is not None:
        parts.append(f"class {_label(row['target'], names)}")
    return ", ".join(part for part in parts if part)


def _size(count: int) -> str:
    """Return a number of bytes in kB or MB."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def _write_means(means: "Mapping[MapGroup, Map]", folder: Path) -> int:
    """Write one PNG file per method, layer and class; return their number."""
    from PIL import Image

    from fastcam import render
    from fastcam.classifiers.preprocessing import write_png

    folder.mkdir(parents=True, exist_ok=True)
    layers = {layer for _, layer, _ in means}
    for (method, layer, target), values in means.items():
        if values.ndim != 2:
            raise ValueError(f"only maps of two axes can be drawn, these have {values.ndim}")
        name = ".".join([method, *([layer] if len(layers) > 1 else []), *([] if target is None else [str(target)])])
        colours = render.colors("jet")[render.to_uint8(values)]
        write_png(Image.fromarray(colours), folder / f"{name}.png")
    return len(means)
