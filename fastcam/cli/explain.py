"""``fastcam explain``: overlays and a table for photographs."""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

import fastcam
from fastcam.cli import options, outputs, photographs
from fastcam.cli.console import output, print_error, progress_bar, report_errors, status_text
from fastcam.cli.model_options import ClassifierOptions, InputOptions, MethodOptions, PreparedOptions

if TYPE_CHECKING:
    from fastcam.cli.folder_run import FolderRun, Result


class Fusion(StrEnum):
    """The fusion of the maps of several layers."""

    mean = "mean"
    max = "max"


class Score(StrEnum):
    """The explained score of a class."""

    logit = "logit"
    probability = "probability"
    log_probability = "log-probability"


# The class of ``fastcam.targets`` per score.
_TARGETS = {Score.logit: "Logit", Score.probability: "Probability", Score.log_probability: "LogProbability"}
_MUCH = 0.25  # of a photograph, cropped away: said
EXIT_CODES = (
    "Exit codes: 0 all fine; 1 some images could not be read or have a non-finite map, the others are done; "
    "2 bad usage or nothing to do: an unknown model, method, layer, class or option, weights that do not fit, "
    "no picture; 130 ended by Ctrl-C."
)


def explain(
    images: Annotated[list[str], typer.Argument(help="Files, folders (searched recursively) or globs.")],
    model: options.Model,
    network: ClassifierOptions,
    maps: MethodOptions,
    geometry: InputOptions,
    prepared: PreparedOptions,
    out: Annotated[Path, typer.Option(help="Folder for the overlays, named PHOTO.METHOD.png.")] = Path("explanations"),
    sheet: Annotated[Path | None, typer.Option(help="PNG file for one contact sheet of all pictures.")] = None,
    caption: Annotated[
        bool, typer.Option("--caption", help="Write class, probability and a colour scale below each overlay.")
    ] = False,
    crop: Annotated[
        bool, typer.Option("--crop", help="Draw on the crop that the model sees, instead of the whole photograph.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option(help="One page of all photographs and maps, with sliders, to be opened from disk.")
    ] = None,
    device: options.Device = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 8,
    score: Annotated[Score, typer.Option(help="Score of a class to explain.")] = Score.logit,
    fuse: Annotated[Fusion, typer.Option(help="How to join the maps of several layers.")] = Fusion.mean,
    reshape: options.Tokens = None,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Share of the colour in the overlay.")] = 0.5,
    colormap: Annotated[str, typer.Option(help="jet, or any name known to matplotlib.")] = "jet",
    max_megapixels: options.Megapixels = 50,
) -> None:
    """Explain photographs: write overlays over them, and print a table of predictions.

    An overlay shows the whole photograph, with the map where the model's crop was. The status "constant map" means that
    the map shows nothing, and says why. Ctrl-C ends after the copies that are being run, a second one at once.
    """
    with report_errors():
        names, method_options = maps.methods(), maps.settings()
        network.check(model)
        found = photographs.find(images, out)
        paths = photographs.check([path for path in found if sheet is None or path.resolve() != sheet.resolve()])
        outputs.check_folder(out)
        if sheet is not None:
            outputs.check_sheet(sheet)
        if html is not None and html.suffix != ".html":
            raise ValueError(f"--html is a page: a file named .html, got {str(html)!r}")
        fastcam.render.colors(colormap)  # raises for an unknown name
        torch_device = options.find_device(device)
        classifier = network.load(model, torch_device)
        classifier = replace(classifier, preprocessing=geometry.change(classifier.preprocessing))
        explainer = fastcam.Explainer(
            classifier.model,
            names,
            maps.target_layer(),
            fuse=fuse.value,
            reshape_transform=options.reshape_transform(reshape),
            **prepared.settings(),
            **method_options,
        )
        from fastcam.classifiers.class_choice import ClassChoice
        from fastcam.cli.folder_run import FolderRun, Style
        from fastcam.cli.sheet import Sheet
        from fastcam.pictures.page import Page

        run = FolderRun(
            classifier,
            explainer,
            ClassChoice(tuple(maps.target or ())),
            torch_device,
            out,
            Style(colormap, alpha, crop, caption),
            getattr(fastcam.targets, _TARGETS[score]),
            Sheet(["photograph", *names]) if sheet else None,
            Page("fastcam explain", colormap) if html else None,
            round(max_megapixels * 1e6),
        )
        failed = _explain_all(run, paths, batch_size)
        if run.sheet is not None and sheet is not None:
            run.sheet.write(sheet)
        if run.page is not None and html is not None:
            run.page.write(html)
    raise typer.Exit(1 if failed else 0)


def _explain_all(run: "FolderRun", paths: list[Path], batch_size: int) -> bool:
    """Explain, print errors as they occur and the table at the end; return whether anything failed."""
    from fastcam.cli.folder_run import Failure
    from fastcam.model.cancellation import STOPPING, cancelled_by, raise_if_cancelled, stop_event

    failed = False
    results: list[Result] = []
    with progress_bar() as progress, stop_event(STOPPING) as stop, cancelled_by(stop.resend):
        task = progress.add_task("explaining", total=len(paths))
        _show_copies(progress, run)
        for outcome in run.over(paths, batch_size):
            raise_if_cancelled()
            if isinstance(outcome, Failure):
                failed = True
                print_error(f"{outcome.photograph}: {outcome.reason}", progress.console)
            else:
                results += outcome
            progress.advance(task)
    if results:
        output().print(_table(results, with_target=not run.targets.is_highest))
        for note in _notes(results, run.out):
            output().print(note, markup=False, highlight=False, soft_wrap=True)
    return failed or any(result.status == "non-finite" for result in results)


def _notes(results: "list[Result]", out: Path) -> list[str]:
    """Return what the pictures do not show: what was cropped away, and earlier files that are gone."""
    cropped = {result.photograph: result.cropped for result in results}
    much = [path for path, share in cropped.items() if share > _MUCH]
    notes = []
    if much:
        worst = max(much, key=cropped.__getitem__)
        several = f"{len(much)} of {len(cropped)} pictures lose more than {_MUCH:.0%} to the crop before the model"
        one = f"{worst} loses {cropped[worst]:.0%} to the crop before the model"
        notes.append(f"{several}, {worst} the most ({cropped[worst]:.0%})." if len(cropped) > 1 else f"{one}.")
    replaced = sum(result.replaced for result in results)
    if replaced:
        notes.append(f"{replaced} of {len(results)} overlays were written over earlier files in {out}.")
    return notes


def _show_copies(progress: Progress, run: "FolderRun") -> None:
    """Show a second progress line for methods that run many copies of a photograph."""
    from fastcam.model.progress import ProgressReporter

    copies = progress.add_task("copies", visible=False)

    def show(done: int, total: int) -> None:
        progress.update(copies, completed=done, total=total, visible=done < total)

    run.explainer.progress = ProgressReporter(show)


def _table(results: "list[Result]", with_target: bool) -> Table:
    table = Table()
    table.add_column("photo", overflow="fold")
    table.add_column("predicted class")
    table.add_column("probability", justify="right")
    several = len({result.method for result in results}) > 1
    for name in [*(["method"] if several else []), *(["explained class"] if with_target else []), "status"]:
        table.add_column(name)
    table.add_column("file", overflow="fold")
    for result in results:
        color = "green" if result.status == "ok" else "yellow"
        table.add_row(
            escape(str(result.photograph)),
            escape(result.predicted),
            f"{result.probability:.1%}",
            *([result.method] if several else []),
            *([escape(result.explained)] if with_target else []),
            f"[{color}]{status_text(result.status, result.cause)}[/]",
            escape(str(result.file)),
        )
    return table
