"""``fastcam features`` and ``neighbours``: what a network finds alike."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from fastcam.cli import options, outputs
from fastcam.cli.console import output, progress_bar, report_errors
from fastcam.cli.dataset import describe_failed, import_dataset, interruptible, show_progress
from fastcam.cli.dataset_options import ReadingOptions, RunOptions, SubsetOptions
from fastcam.cli.model_options import ClassifierOptions, InputOptions, WeightOptions

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL import Image

    from fastcam.dataset.reader import Maps
    from fastcam.features import Features, Neighbours, Query

FEATURES_CODES = (
    "Exit codes: 0 success; 1 some images have no vector, see the status of their rows; 2 bad usage, or the folder "
    "cannot be written; 3 interrupted by a signal, the same command resumes."
)
CODES = "Exit codes: 0 all fine; 2 bad usage, no folder of features, or a package is missing; 130 ended by Ctrl-C."
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_JPEG_QUALITY = 90


class Pool(StrEnum):
    """What is done with the positions of a map."""

    mean = "mean"
    max = "max"
    none = "none"


class VectorType(StrEnum):
    """The data type of the stored vectors."""

    float16 = "float16"
    float32 = "float32"


class Metric(StrEnum):
    """The distances of vectors."""

    cosine = "cosine"
    euclidean = "euclidean"


Folder = Annotated[Path, typer.Argument(help="Output folder of `fastcam features`, or of `fastcam map --features`.")]
Distance = Annotated[Metric, typer.Option(help="Of the vectors.")]
PictureSource = Annotated[
    str | None, typer.Option(help="What the features are of, where the pictures are no files of their own.")
]


def features(
    source: options.Source,
    model: options.Model,
    out: Annotated[Path, typer.Option(help="Output folder; the same command resumes in it.")],
    network: ClassifierOptions,
    images: SubsetOptions,
    geometry: InputOptions,
    reading: ReadingOptions,
    running: RunOptions,
    layer: Annotated[
        str | None, typer.Option(help="See `fastcam layers`.", show_default="the last hidden layer")
    ] = None,
    pool: Annotated[Pool, typer.Option(help="Of the positions of the layer's map.")] = Pool.mean,
    dtype: Annotated[VectorType, typer.Option(help="Of the vectors.")] = VectorType.float16,
) -> None:
    """Write a feature vector for every image of a dataset, for `fastcam neighbours` and `fastcam mosaic`.

    The vector is the last hidden layer of a classifier, or the pooled activations of a layer. Run it again to resume
    after an interruption.
    """
    with report_errors():
        network.check(model)
        dataset, package = import_dataset(), import_features()
        chosen = images.select(source)
        classifier = network.load(model, running.device_of_model())
        settings: dict[str, Any] = {
            "layer": layer,
            "pool": pool.value,
            "dtype": dtype.value,
            "preprocessing": geometry.change(classifier.preprocessing),
            **reading.settings(),
            **running.settings(),
        }
    with interruptible(), report_errors(), show_progress(running.json_log, "reading", "vector") as report:
        done = package.run(chosen, classifier, out, report=report, **settings)
    with report_errors():
        rows = dataset.open(out)
        failed = sum(commit.failed for commit in rows.commits)
        if not running.json_log:
            earlier = f", {done.total - done.new} by earlier runs" if done.new < done.total else ""
            speed = f"; {done.rate:.1f} images a second" if done.new else ""
            typer.echo(f"{done.total} images in {out}: {failed} without a vector{earlier}{speed}")
            if failed:
                typer.echo(describe_failed(rows, failed, "vector"))
            if failed < done.total:
                typer.echo(_describe(rows))
    raise typer.Exit(1 if failed else 0)


def neighbours(
    folder: Folder,
    network: WeightOptions,
    query: Annotated[list[str], typer.Option(help="A picture, or the id of an image of the dataset; repeatable.")],
    k: Annotated[int, typer.Option("-k", min=1, help="Neighbours of each.")] = 6,
    metric: Distance = Metric.cosine,
    out: Annotated[Path | None, typer.Option(help="Picture of the queries and their neighbours.")] = None,
    approximate: Annotated[
        bool | None,
        typer.Option(help="Search an index of faiss, kept in the folder.", show_default="beyond a million images"),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="As for `fastcam features`; needed for a picture that is not in the dataset.")
    ] = None,
    device: options.Device = None,
    source: PictureSource = None,
    side: Annotated[int, typer.Option(min=16, help="Of the pictures, in pixels.")] = 128,
) -> None:
    """Find the images that the network finds most alike, and draw them.

    A query that is itself in the dataset is not its own neighbour.
    """
    with report_errors():
        check_features(folder)
        if out is not None:
            check_picture(out)
        if model is not None:
            network.check(model)
        if source is not None:
            import_dataset().select(source)
        package = import_features()
        found = package.open(folder)
        classifier = None
        if model is not None:
            classifier = network.load(model, options.find_device(device))
        asked = [_query(package, found, text, classifier) for text in query]
        near = package.neighbours_of(found, asked, k, metric.value, approximate)
        if not near.indices.shape[1]:
            raise ValueError(f"{str(folder)!r} holds no other image than the query")
        output().print(_table(found, asked, near))
        if out is not None:
            save_picture(_sheet(package, found, asked, near, source, side), out)
            nearest = f"the {near.indices.shape[1]} nearest to each, by {metric.value} distance"
            typer.echo(f"{out}: {len(asked)} {'query' if len(asked) == 1 else 'queries'} and {nearest}")


def _describe(rows: "Maps") -> str:
    """Return the size and type of the vectors, from the first one alone."""
    from fastcam.dataset.table import read_shard

    dtype = rows.identity["features"]["dtype"]
    for commit in rows.commits:
        table = read_shard(rows.store.data(commit), ["feature", "layer"])
        known = table["feature"].is_valid().index(True).as_py()
        if known >= 0:
            size, layer = len(table["feature"][known]), table["layer"][known].as_py()
            return f"{size} numbers of {dtype} an image: {layer}"
    return "no vectors"


def _query(package: ModuleType, found: "Features", text: str, classifier: Any) -> "Query":
    """Return the query of a picture file, or of an image of the dataset by its id."""
    file = Path(text)
    if file.is_file():
        try:
            query: Query = package.query_of_picture(found, text, file.read_bytes(), classifier)
        except OSError as error:
            raise ValueError(f"--query {text!r} cannot be read: {error.strerror}") from None
        return query
    try:
        query = package.query_by_id(found, text)
    except KeyError:
        reason = found.reason(text)
        if reason is not None:
            raise ValueError(f"--query {text!r} is an image of the dataset without a vector: {reason}") from None
        raise ValueError(f"--query must be a picture or the id of an image of the dataset, got {text!r}") from None
    return query


def _table(found: "Features", asked: "Sequence[Query]", near: "Neighbours") -> Table:
    table = Table("query", "rank", "distance", "image", "label", "predicted")
    labels, predicted = found.texts("label"), found.texts("predicted")
    for row, query in enumerate(asked):
        for rank, (place, distance) in enumerate(zip(near.indices[row], near.distances[row], strict=True)):
            cells = (query.name, str(rank + 1), f"{distance:.4f}", found.ids[place], labels[place], predicted[place])
            table.add_row(*map(escape, cells))
    return table


def _sheet(
    package: ModuleType, found: "Features", asked: "Sequence[Query]", near: "Neighbours", source: str | None, side: int
) -> "Image.Image":
    import numpy as np

    from fastcam.features.thumbnails import thumbnail

    wanted = [int(place) for place in near.indices.flat] + [each.place for each in asked if each.place is not None]
    pictures = read_pictures(package, found, wanted, source, side)
    labels = [label or Path(name).stem for label, name in zip(found.texts("label"), found.ids, strict=True)]
    queries = []
    for each in asked:
        if each.place is not None:
            queries.append((labels[each.place], pictures[each.place]))
        else:
            data = Path(each.name).read_bytes()
            queries.append((Path(each.name).stem, np.asarray(thumbnail(data, side, package.Limits()))))
    beside = [
        [
            (f"{distance:.3f} {labels[place]}", pictures[int(place)])
            for place, distance in zip(near.indices[row], near.distances[row], strict=True)
        ]
        for row in range(len(asked))
    ]
    sheet: Image.Image = package.neighbour_sheet(queries, beside)
    return sheet


def read_pictures(
    package: ModuleType, found: "Features", wanted: Sequence[int], source: str | None, side: int
) -> "dict[int, npt.NDArray[Any]]":
    """Return the pictures of images by their places, with a bar."""
    with progress_bar() as progress:
        task = progress.add_task("reading pictures", total=len(set(wanted)))
        pictures: dict[int, npt.NDArray[Any]] = package.Thumbnails(found, source, side)(
            wanted, lambda done: progress.update(task, completed=done)
        )
    return pictures


def check_features(folder: Path) -> None:
    """Refuse a folder without features before torch is imported."""
    if not (folder / "run.json").exists():
        raise ValueError(f"{str(folder)!r} holds no features: there is no run.json")


def check_picture(file: Path) -> None:
    """Refuse another file than a picture, or one that cannot be written."""
    if file.suffix.lower() not in _SUFFIXES or file.is_dir():
        raise ValueError(f"--out must be a picture ({', '.join(_SUFFIXES)}), got {str(file)!r}")
    outputs.check_folder(file.absolute().parent, "the folder of --out")


def save_picture(picture: "Image.Image", file: Path) -> None:
    """Write a picture, and the folder for it."""
    from fastcam.classifiers.preprocessing import write_picture

    file.absolute().parent.mkdir(parents=True, exist_ok=True)
    write_picture(picture, file, quality=_JPEG_QUALITY)


def import_features() -> ModuleType:
    """Return the package, imported when it is needed: it has optional dependencies."""
    import_dataset()
    from fastcam import features as package

    return package
