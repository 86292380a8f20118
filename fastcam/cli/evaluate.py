"""``fastcam evaluate`` and ``measures``: measure the maps of a dataset, report, and list what can be measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from fastcam.cli import options
from fastcam.cli.console import output, report_errors
from fastcam.cli.dataset import import_dataset, interruptible, show_progress
from fastcam.cli.dataset_options import ReadingOptions, RunOptions, SubsetOptions
from fastcam.cli.grouping import first_given
from fastcam.cli.model_options import ClassifierOptions, InputOptions, MethodOptions, PreparedOptions

if TYPE_CHECKING:
    from fastcam.evaluate.annotations import Annotations

EXIT_CODES = (
    "Exit codes: 0 success; 1 some images have no map, see the status of their rows; 2 bad usage, or the folder cannot "
    "be written; 3 interrupted by a signal, the same command resumes."
)
# The names of the registry, available without importing torch; a test keeps them equal.
MEASURES = (
    "sparseness",
    "complexity",
    "mean_intensity",
    "deletion",
    "insertion",
    "pixel_flipping",
    "road",
    "average_drop",
    "increase_in_confidence",
    "average_gain",
    "sufficiency",
    "comprehensiveness",
    "completeness_gap",
    "infidelity",
    "faithfulness_correlation",
    "pointing_game",
    "energy_pointing_game",
    "rank_accuracy",
    "mask_iou",
    "box_iou",
    "localisation_accuracy",
    "max_box_accuracy",
    "pixel_average_precision",
    "max_sensitivity",
    "local_lipschitz",
    "coherency",
    "adcc",
    "map_stability",
    "prediction_stability",
)
REPORT_NAME = "report.html"
SHARD_SIZE = 256  # of values, unless the user says otherwise


@dataclass(frozen=True)
class MeasureRunOptions(RunOptions):
    """Where a dataset is measured: shards have fewer images, since each takes longer."""

    shard_size: Annotated[int | None, typer.Option(min=1, help="Images per Parquet file.", show_default="256")] = None


def evaluate(
    source: Annotated[
        str, typer.Argument(help="Images, as for `fastcam map`; a folder of maps; with --report a folder of values.")
    ],
    network: ClassifierOptions,
    maps: MethodOptions,
    images: SubsetOptions,
    geometry: InputOptions,
    reading: ReadingOptions,
    running: MeasureRunOptions,
    prepared: PreparedOptions,
    measure: Annotated[list[str] | None, typer.Option(help="See `fastcam measures`; with commas or repeated.")] = None,
    out: Annotated[Path | None, typer.Option(help="Output folder; the same command resumes in it.")] = None,
    boxes: Annotated[
        Path | None, typer.Option(help="Folder of VOC or ILSVRC XML; COCO .json; .csv or .parquet with a row a box.")
    ] = None,
    masks: Annotated[Path | None, typer.Option(help="Folder of PNG masks, named as the images; or COCO .json.")] = None,
    zero_based: Annotated[
        bool, typer.Option("--zero-based", help="XML counts pixels from 0, as ILSVRC's does.")
    ] = False,
    measure_option: Annotated[
        list[str] | None,
        typer.Option(help="Option of a measure, as deletion.steps=50; repeatable.", show_default=False),
    ] = None,
    report: Annotated[bool, typer.Option("--report", help=f"Print the means, and write {REPORT_NAME}.")] = False,
    model: Annotated[str | None, typer.Option(help="As for `fastcam map`; not needed for a folder of maps.")] = None,
) -> None:
    """Measure how far maps tell the truth: of images and a model, or of stored maps; run it again to resume."""
    if report:
        with report_errors():
            _report(Path(source))
        return
    with report_errors():
        names = _measures(measure or [])
        measure_options = _measure_options(measure_option or [])
        if out is None:
            raise ValueError("--out is missing: a folder for the values")
        is_store = (Path(source) / "run.json").exists()
        if is_store and model is not None:
            raise ValueError(f"{source!r} holds maps already: leave out --model, or give the images")
        unused = first_given(network, maps, images, geometry, reading, prepared, running, but=["json_log"])
        if is_store and unused is not None:
            raise ValueError(f"{unused} says how maps are made: {source!r} holds maps, and all of them are measured")
        if not is_store and model is None:
            raise ValueError(f"--model is missing: {source!r} holds no maps, and those of images are made with it")
        if model is not None:
            methods, method_options = maps.methods(), maps.settings()
            network.check(model)
        import_dataset()
        datasets = _import_datasets()
        settings: dict[str, Any] = {
            "annotations": _annotations(boxes, masks, not zero_based),
            "measure_options": measure_options,
        }
        if model is not None:
            chosen = images.select(source)
            classifier = network.load(model, running.device_of_model())
            settings |= {
                "method": methods,
                "target": maps.target or ["top1"],
                "target_layer": maps.target_layer(),
                "preprocessing": geometry.change(classifier.preprocessing),
                "shard_size": SHARD_SIZE,
                **reading.settings(),
                **running.settings(),
                **prepared.settings(),
                **method_options,
            }
    with interruptible(), report_errors(), show_progress(running.json_log, "measuring") as reporter:
        if is_store:
            done = datasets.run_on_maps(source, out, names, report=reporter, **settings)
        else:
            done = datasets.run(chosen, classifier, out, names, report=reporter, **settings)
    with report_errors():
        evaluations = datasets.open(out)
        failed = sum(commit.failed for commit in evaluations.maps.commits)
        if not running.json_log:
            typer.echo(f"{done.total} images in {out}: {failed} without a map")
            typer.echo(datasets.table(evaluations))
    raise typer.Exit(1 if failed else 0)


def measures() -> None:
    """List the measures with what they need, their formula, options and source."""
    from fastcam.evaluate import list_measures

    table = Table("name", "needs", "better", "what it is", "formula", "options", "source")
    for each in list_measures():
        needs = ", ".join(each.needs) or "the map"
        better = {True: "higher", False: "lower", None: ""}[each.higher_is_better]
        chosen = ", ".join(f"{name}={value}" for name, value in each.options.items() if name != "thresholds")
        table.add_row(*map(escape, (each.name, needs, better, each.summary, each.formula, chosen, each.paper)))
    output().print(table)


def _report(folder: Path) -> None:
    """Print the means of a folder of values, and write the report."""
    if not (folder / "run.json").exists():
        raise ValueError(f"{str(folder)!r} holds no values: there is no run.json")
    datasets = _import_datasets()
    evaluations = datasets.open(folder)
    datasets.write_report(evaluations, folder / REPORT_NAME)
    typer.echo(datasets.table(evaluations))
    typer.echo(f"report in {folder / REPORT_NAME}")


def _measures(texts: Sequence[str]) -> list[str]:
    """Return the names in texts with commas.

    Raises:
        ValueError: for an unknown name, or none.
    """
    names = list(dict.fromkeys(name.strip() for text in texts for name in text.split(",") if name.strip()))
    if not names:
        raise ValueError(f"--measure is missing: one or several of {', '.join(MEASURES)}")
    for name in names:
        if name not in MEASURES:
            raise ValueError(f"--measure must be one of {', '.join(MEASURES)}; got {name!r}")
    return names


def _measure_options(texts: list[str]) -> dict[str, dict[str, Any]]:
    """Return options by measure from texts such as deletion.steps=50.

    Raises:
        ValueError: for another form.
    """
    chosen: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, dot, rest = text.partition(".")
        if not dot or "=" not in rest or name not in MEASURES:
            raise ValueError(f"--measure-option must be MEASURE.NAME=VALUE, as deletion.steps=50; got {text!r}")
        chosen.setdefault(name, {}).update(options.parse_method_options([rest]))
    return chosen


def _annotations(boxes: Path | None, masks: Path | None, one_based: bool) -> "Annotations | None":
    if boxes is not None and masks is not None:
        raise ValueError("--boxes and --masks are two annotations of the same images: give one of them")
    path = boxes or masks
    if path is None:
        return None
    from fastcam.evaluate.annotations import open_annotations

    return open_annotations(path, one_based)


def _import_datasets() -> ModuleType:
    """Return the package, imported when it is needed: it has optional dependencies."""
    import_dataset()
    from fastcam.evaluate import datasets

    return datasets
