"""``fastcam map``, ``verify`` and ``export``: maps of whole datasets."""

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from fastcam.cli import options
from fastcam.cli.console import print_error, report_errors
from fastcam.cli.dataset_options import ReadingOptions, RunOptions, SubsetOptions
from fastcam.cli.model_options import InputOptions, MethodOptions, PreparedOptions, SeveralClassifierOptions

if TYPE_CHECKING:
    from fastcam.classifiers.models import Classifier
    from fastcam.classifiers.preprocessing import Preprocessing
    from fastcam.dataset import Progress as RunProgress
    from fastcam.dataset import Stages
    from fastcam.dataset.reader import Maps

MAP_CODES = (
    "Exit codes: 0 success; 1 some images have no map, see the status of their rows; 2 bad usage, or the folder cannot "
    "be written; 3 interrupted by a signal, the same command resumes."
)
DETECTOR_SIZE = 640  # of what a detector sees, unless the user says otherwise
MAX_SHOWN_FAILURES = 3
SECONDS_BETWEEN_LINES = 10.0  # of progress, where there is no bar
VERIFY_CODES = "Exit codes: 0 all as it was committed; 1 something is damaged; 2 no folder of maps."


class Resolution(StrEnum):
    """The size of the stored maps."""

    native = "native"
    input = "input"


class MapType(StrEnum):
    """The data type of the stored maps."""

    float16 = "float16"
    float32 = "float32"
    uint8 = "uint8"


class Format(StrEnum):
    """The export formats."""

    overlays = "overlays"
    zarr = "zarr"
    webdataset = "webdataset"
    datasets = "datasets"
    fiftyone = "fiftyone"


def map_(
    source: options.Source,
    model: options.Models,
    network: SeveralClassifierOptions,
    maps: MethodOptions,
    images: SubsetOptions,
    geometry: InputOptions,
    reading: ReadingOptions,
    running: RunOptions,
    prepared: PreparedOptions,
    out: Annotated[Path | None, typer.Option(help="Output folder; the same command resumes in it.")] = None,
    resolution: Annotated[
        Resolution, typer.Option(help="Size of the layer's map, or of the input.")
    ] = Resolution.native,
    dtype: Annotated[MapType, typer.Option(help="Of the maps; uint8 is scaled to 0..255.")] = MapType.float16,
    features: Annotated[
        str | None,
        typer.Option(
            help="Keep a vector of each image too, for `fastcam neighbours`: of this layer, or hidden for the last "
            "hidden one.",
            show_default=False,
        ),
    ] = None,
    reshape: options.Tokens = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Measure for ten seconds what each stage can do here; write no maps.")
    ] = False,
) -> None:
    """Write a map for every image of a dataset; run it again to resume after an interruption."""
    with report_errors():
        if (out is None) == (not plan):
            raise ValueError(
                "--plan writes no maps: leave out --out" if plan else "--out is missing: a folder for the maps"
            )
        methods, method_options = maps.methods(), maps.settings()
        network.check(model)
        dataset = import_dataset()
        chosen = images.select(source)
        device = options.find_device(running.device) if plan else running.device_of_model()
        classifiers = network.load(model, device)
        seen = {name: _preprocessing_of(each, maps.target, geometry) for name, each in classifiers.items()}
        settings: dict[str, Any] = {
            "method": methods,
            "target": maps.target or ["top1"],
            "target_layer": maps.target_layer(),
            "reshape_transform": options.reshape_transform(reshape),
            "preprocessing": seen if len(seen) > 1 else next(iter(seen.values())),
            "resolution": resolution.value,
            "dtype": dtype.value,
            "features": features,
            **reading.settings(),
            **running.settings(),
            **prepared.settings(),
            **method_options,
        }
        if len(classifiers) > 1 and running.device is None:
            settings["devices"] = None  # they run in one process, on the first GPU
        networks = classifiers if len(classifiers) > 1 else next(iter(classifiers.values()))
    with interruptible():
        if out is None:
            with report_errors():
                here = settings | {"devices": None}  # a plan is measured in this process
                typer.echo(_describe_plan(dataset.plan(chosen, networks, **here)))
            return
        with report_errors(), show_progress(running.json_log) as report:
            done = dataset.run(chosen, networks, out, report=report, **settings)
    folders = [out / name for name in classifiers] if len(classifiers) > 1 else [out]
    with report_errors():
        failed = sum([_summarise(dataset.open(folder), done, running.json_log) for folder in folders])
    raise typer.Exit(1 if failed else 0)


def _summarise(written: "Maps", done: "RunProgress", json_log: bool) -> int:
    """Say what a folder of maps holds, unless the log does; return the number of images without a map."""
    failed = sum(commit.failed for commit in written.commits)
    if json_log:
        return failed
    earlier = f", {done.total - done.new} by earlier runs" if done.new < done.total else ""
    slowest = f", limited by {done.stages.limit}" if done.stages.limit else ""
    speed = f"; {done.rate:.1f} images a second{slowest}" if done.new else ""
    typer.echo(f"{done.total} images in {written.store.folder}: {failed} without a map{earlier}{speed}")
    if failed:
        typer.echo(describe_failed(written, failed, "map"))
    for line in _describe_causes(written):
        typer.echo(line)
    return failed


def _preprocessing_of(
    classifier: "Classifier", target: Sequence[str] | None, geometry: InputOptions
) -> "Preprocessing":
    """Return the preprocessing with the user's values; for detections whole photographs with colours from 0 to 1."""
    from fastcam.dataset.detection_rows import detections_of

    if detections_of(target or []) is None:
        return geometry.change(classifier.preprocessing)
    side = geometry.size or DETECTOR_SIZE
    whole = replace(
        classifier.preprocessing,
        shorter_side=side,
        size=(side, side),
        keep_aspect=False,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )
    return geometry.change(whole)


def _describe_plan(stages: "Stages") -> str:
    """Return a table of the stages, and what would help."""
    from fastcam.dataset.stages import ADVICE

    if stages.limit is None:
        return "there were too few images to measure: a plan needs more than one batch"
    lines = [f"{name:12}{rate:12,.0f} images a second" for name, rate in stages.rates.items()]
    threads = f"read, decode and preprocess on {stages.workers} thread{'s' * (stages.workers > 1)}, each as if alone"
    return "\n".join([*lines, threads, f"limited by {stages.limit}; what helps: {ADVICE[stages.limit]}"])


def describe_failed(maps: "Maps", count: int, result: str) -> str:
    """Return a line with the first images without a result, and where to see all."""
    from fastcam.dataset.summary import problems

    first = itertools.islice(problems(maps, only_failed=True), MAX_SHOWN_FAILURES)
    shown = "; ".join(f"{row['image_id']} ({row['status']})" for row in first)
    more = f"; and {count - MAX_SHOWN_FAILURES} more" if count > MAX_SHOWN_FAILURES else ""
    return f"without a {result}: {shown}{more}. `fastcam stats {maps.store.folder}` lists all"


def _describe_causes(maps: "Maps") -> Iterator[str]:
    """Yield a line with the numbers of maps that show nothing by cause, if there are any."""
    from fastcam.dataset.summary import count_causes

    counts = count_causes(maps)
    if counts:
        yield f"maps that show nothing: {', '.join(f'{count} ({cause})' for cause, count in counts.items())}"


def verify(
    folder: Annotated[Path, typer.Argument(help="Output folder of `fastcam map`.")],
    repair: Annotated[bool, typer.Option("--repair", help="Set damaged shards aside, to be made again.")] = False,
) -> None:
    """Rehash every shard of a folder of maps."""
    with report_errors():
        check_folder(folder)
        damaged = import_dataset().verify(folder, repair)
        count = len(import_dataset().open(folder).store.spans()) + (len(damaged) if repair else 0)
    for _, reason in damaged:
        print_error(reason)
    typer.echo(f"{count - len(damaged)} of {count} shards are as they were committed")
    raise typer.Exit(1 if damaged else 0)


def export(
    folder: Annotated[Path, typer.Argument(help="Output folder of `fastcam map`.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    to: Annotated[
        Format,
        typer.Option(
            help="PNG overlays, a Zarr v3 group, WebDataset tar files, a dataset of Hugging Face or one of FiftyOne."
        ),
    ],
    source: Annotated[str | None, typer.Option(help="For overlays and fiftyone: the source of the maps.")] = None,
    colormap: Annotated[str, typer.Option(help="jet, or any name known to matplotlib.")] = "jet",
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Share of the colour in the overlay.")] = 0.5,
) -> None:
    """Export the full-size maps of a folder."""
    with report_errors():
        check_folder(folder)
        dataset = import_dataset()
        maps = dataset.open(folder)
        if to in (Format.overlays, Format.fiftyone):
            if source is None:
                raise ValueError(f"{to} needs --source: the source of the maps")
            if to is Format.overlays:
                count = dataset.to_overlays(maps, out, source, colormap=colormap, alpha=alpha)
            else:
                count = dataset.to_fiftyone(maps, out, source)
        else:
            write = {Format.zarr: dataset.to_zarr, Format.webdataset: dataset.to_webdataset}
            count = write.get(to, dataset.to_datasets)(maps, out)
    typer.echo(f"{count} maps in {out}")


def check_folder(folder: Path) -> None:
    """Refuse a folder without maps before torch is imported, as :class:`fastcam.dataset.Maps` does later."""
    if not (folder / "run.json").exists():
        raise ValueError(f"{str(folder)!r} holds no maps: there is no run.json")


def import_dataset() -> ModuleType:
    """Return the package, imported when it is needed: it has optional dependencies."""
    try:
        from fastcam import dataset
    except ImportError as error:
        raise ValueError(str(error)) from None
    return dataset


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Exit with code 3 where a run was interrupted."""
    try:
        yield
    except import_dataset().InterruptedRunError as error:
        print_error(str(error))
        raise typer.Exit(3) from None


@contextlib.contextmanager
def show_progress(
    json_log: bool, verb: str = "mapping", result: str = "map"
) -> Iterator[Callable[["RunProgress"], None]]:
    """Yield the function that reports progress: as JSON lines, as a bar in a terminal, else as a line now and then."""
    if json_log:
        yield _log_commit
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _line_reporter(result)
        return
    columns = (
        TextColumn(verb),
        BarColumn(),
        TextColumn(
            "{task.completed:.0f}/{task.total:.0f}, {task.fields[rate]:.1f} a second, {task.fields[failed]} bad"
        ),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None, rate=0.0, failed=0)
        yield lambda done: bar.update(task, total=done.total, completed=done.done, rate=done.rate, failed=done.failed)


def _line_reporter(result: str) -> Callable[["RunProgress"], None]:
    """Return a function that prints the progress on standard error, not more often than every ten seconds."""
    last = time.monotonic()

    def show(done: "RunProgress") -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            print_error(
                f"{done.done} of {done.total} images, {done.rate:.1f} a second, {done.failed} without a {result}"
            )

    return show


def _log_commit(done: "RunProgress") -> None:
    if done.commit is not None:
        news = {"images": done.done, "of": done.total, "failed": done.failed, "rate": round(done.rate, 3)}
        limit = {"limit": done.stages.limit}
        print(json.dumps({"event": "commit", **asdict(done.commit), **news, **limit}), flush=True)
