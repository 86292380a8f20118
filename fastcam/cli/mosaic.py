"""``fastcam mosaic``: a whole dataset in one picture."""

import hashlib
import io
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastcam.cli.console import progress_bar, report_errors
from fastcam.cli.dataset import import_dataset
from fastcam.cli.features import (
    Distance,
    Folder,
    Metric,
    PictureSource,
    check_features,
    check_picture,
    import_features,
    read_pictures,
    save_picture,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    from fastcam.features import Features
    from fastcam.features.mosaic import Legend


class Layout(StrEnum):
    """What finds places in the plane."""

    tsne = "tsne"
    umap = "umap"
    pca = "pca"


class Color(StrEnum):
    """What images are coloured by."""

    label = "label"
    predicted = "predicted"
    score = "score"


def mosaic(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="Picture file; .jpg is the smallest.")] = Path("mosaic.jpg"),
    scatter: Annotated[
        bool, typer.Option("--scatter", help="Every image at its place, in place of a filled grid.")
    ] = False,
    columns: Annotated[int, typer.Option(min=1, help="Cells in a row of the grid, or pictures of the scatter.")] = 40,
    rows: Annotated[int | None, typer.Option(min=1, help="Of the grid.", show_default="as columns")] = None,
    side: Annotated[int, typer.Option(min=4, help="Of a picture, in pixels.")] = 48,
    color: Annotated[
        Color | None, typer.Option(help="Colour images by this, with a legend.", show_default="no colours")
    ] = None,
    colormap: Annotated[str, typer.Option(help="For the score: jet, or any name known to matplotlib.")] = "jet",
    layout: Annotated[Layout, typer.Option(help="What finds the places.")] = Layout.tsne,
    metric: Distance = Metric.cosine,
    perplexity: Annotated[float, typer.Option(min=1, help="Neighbours that count, of t-SNE.")] = 30,
    seed: Annotated[int, typer.Option(help="Of the layout.")] = 0,
    seams: Annotated[bool, typer.Option(help="Colour the seams of the grid by the true distance.")] = True,
    source: PictureSource = None,
) -> None:
    """Draw a whole dataset in one picture, images that the network finds alike near each other.

    In the grid every cell shows the picture nearest to it. A plane cannot keep all distances: the seam between two
    cells is black where their images are alike, and red where they are as far apart as two images taken at random.
    """
    with report_errors():
        check_features(folder)
        check_picture(out)
        if source is not None:
            import_dataset().select(source)
        package, count = import_features(), rows or columns
        _check_size(out, columns * side, count * side)
        found = package.open(folder)
        places = _places(package, found, layout.value, metric.value, perplexity, seed)
        legend = _legend(package, found, color, colormap)
        cells = package.cells_of(places, columns, count)
        wanted = range(len(found)) if scatter else sorted({int(cell) for cell in cells.flat})
        pictures = read_pictures(package, found, wanted, source, side)
        if scatter:
            picture = package.scatter(places, pictures, columns * side, count * side, legend)
        else:
            drawn = 2 if seams else 0
            picture = package.filled_grid(cells, pictures, found.vectors, metric.value, legend, drawn)
        save_picture(picture, out)
    shown = len(wanted)
    typer.echo(f"{out}: {shown} of {len(found)} images, {picture.width} x {picture.height} pixels")


def _places(
    package: ModuleType, found: "Features", layout: str, metric: str, perplexity: float, seed: int
) -> "npt.NDArray[Any]":
    """Return the places of all images; they are kept in the folder, for the next picture of them."""
    import numpy as np

    from fastcam.dataset.durable_files import write_once

    settings = f"{found.run} {len(found)} {layout} {metric} {perplexity} {seed}"
    file = found.folder / f"places-{hashlib.sha256(settings.encode()).hexdigest()[:16]}.npy"
    if file.exists():
        places: npt.NDArray[Any] = np.load(file)
        return places
    with progress_bar() as progress:
        progress.add_task(f"finding places for {len(found)} images", total=None)
        places = package.layout(found.vectors, layout, metric, perplexity, seed)
    buffer = io.BytesIO()
    np.save(buffer, places)
    write_once(file, buffer.getvalue())
    return places


def _legend(package: ModuleType, found: "Features", color: Color | None, colormap: str) -> "Legend | None":
    if color is None:
        return None
    if color is Color.score:
        scores = [float("nan") if score is None else score for score in found.images["score"].to_pylist()]
        of_scores: Legend = package.colors_of_scores(scores, colormap)
        return of_scores
    names = found.texts(color.value)
    if not any(names):
        raise ValueError(f"the images have no {color.value}: leave out --color")
    of_names: Legend = package.colors_of_names(names)
    return of_names


def _check_size(file: Path, width: int, height: int) -> None:
    from fastcam.classifiers.preprocessing import check_picture_size

    check_picture_size(file, width, height)
