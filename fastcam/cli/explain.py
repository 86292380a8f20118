"""``fastcam explain``: photographs to overlays and a table."""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

import fastcam
from fastcam import render
from fastcam.cli import options, photographs
from fastcam.cli.console import complain, mistakes_in_one_sentence, output, progress_bar

if TYPE_CHECKING:
    from fastcam.cli.folder_run import FolderRun, Result


class Fusion(StrEnum):
    """How the maps of several layers become one."""

    mean = "mean"
    max = "max"


class Score(StrEnum):
    """What is explained of a class."""

    logit = "logit"
    probability = "probability"
    log_probability = "log-probability"


# Of each score, the class of ``fastcam.targets``.
_TARGETS = {Score.logit: "Logit", Score.probability: "Probability", Score.log_probability: "LogProbability"}
EXIT_CODES = (
    "Exit codes: 0 all fine; 1 some images could not be read or gave a map that is not finite, the others are done; "
    "2 bad usage: an unknown model, method, layer, class or option, or weights that do not fit."
)


def explain(
    images: Annotated[list[str], typer.Argument(help="Files, folders (searched recursively) or globs.")],
    model: options.Model,
    weights: options.Weights = None,
    trust_model: options.Trust = False,
    method: options.Methods = None,
    layer: options.Layers = None,
    target: options.Classes = None,
    out: Annotated[Path, typer.Option(help="Folder for the overlays, named PHOTO.METHOD.png.")] = Path("explanations"),
    classes: options.ClassNames = None,
    num_classes: options.ClassCount = None,
    device: options.Device = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 8,
    option: options.MethodOptions = None,
    precision: options.Prepare = None,
    compile: options.Compile = False,
    score: Annotated[Score, typer.Option(help="What to explain of a class.")] = Score.logit,
    fuse: Annotated[Fusion, typer.Option(help="How to join the maps of several layers.")] = Fusion.mean,
    reshape: options.Tokens = None,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Share of the colour in the overlay.")] = 0.5,
    colormap: Annotated[str, typer.Option(help="jet, or any name known to matplotlib.")] = "jet",
    size: options.Size = None,
    shorter_side: options.ShorterSide = None,
    mean: options.Colours = None,
    std: options.Colours = None,
) -> None:
    """Explain photographs: write overlays, drawn on what the model saw of each, and print a table of what it saw."""
    with mistakes_in_one_sentence():
        names = list(dict.fromkeys(method or ["grad_cam"]))
        options.check_methods(names)
        options.check_model(model, weights)
        method_options, class_names = options.method_options(option or []), options.class_names(classes)
        paths = _there(photographs.find(images, out))
        render.colors(colormap)  # refuses a wrong name
        place = options.device_of(device)
        classifier = options.load_classifier(model, weights, class_names, num_classes, place, trust_model)
        seen_as = options.overridden(classifier.preprocessing, size, shorter_side, mean, std)
        classifier = replace(classifier, preprocessing=seen_as)
        explainer = fastcam.Explainer(
            classifier.model,
            names,
            tuple(layer) if layer else None,
            fuse=fuse.value,
            reshape_transform=options.reshape_transform(reshape),
            precision=precision.value if precision else None,
            compile=compile,
            **method_options,
        )
        from fastcam.classifiers.class_choice import Asked
        from fastcam.cli.folder_run import FolderRun

        asked = Asked(tuple(target or ()))
        run = FolderRun(
            classifier, explainer, asked, place, out, colormap, alpha, getattr(fastcam.targets, _TARGETS[score])
        )
        failed = _explain_all(run, paths, batch_size)
    raise typer.Exit(1 if failed else 0)


def _there(paths: list[Path]) -> list[Path]:
    """The photographs; ends the command, before a model is loaded, where none of them exists."""
    if not paths:
        complain("there are no pictures in what was given")
    elif any(path.exists() for path in paths):
        return paths
    for path in paths:
        complain(f"{path}: there is no such file")
    raise typer.Exit(1)


def _explain_all(run: "FolderRun", paths: list[Path], batch_size: int) -> bool:
    """Explains, prints complaints as they come and the table at the end; whether anything failed."""
    from fastcam.cli.folder_run import Failure

    failed = False
    results: list[Result] = []
    with progress_bar() as progress:
        task = progress.add_task("explaining", total=len(paths))
        _show_copies(progress, run)
        for each in run.over(paths, batch_size):
            if isinstance(each, Failure):
                failed = True
                complain(f"{each.photograph}: {each.reason}", progress.console)
            else:
                results += each
            progress.advance(task)
    if results:
        output().print(_table(results, with_target=not run.targets.is_highest))
    return failed or any(each.status == "non-finite" for each in results)


def _show_copies(progress: Progress, run: "FolderRun") -> None:
    """A second line for methods that try many copies of a photograph."""
    from fastcam.model.progress import Progress as CopiesProgress

    copies = progress.add_task("copies tried", visible=False)

    def show(done: int, total: int) -> None:
        progress.update(copies, completed=done, total=total, visible=done < total)

    run.explainer.progress = CopiesProgress(show)


def _table(results: "list[Result]", with_target: bool) -> Table:
    table = Table()
    table.add_column("photo", overflow="fold")
    table.add_column("predicted class")
    table.add_column("probability", justify="right")
    several = len({each.method for each in results}) > 1
    for name in [*(["method"] if several else []), *(["explained class"] if with_target else []), "status"]:
        table.add_column(name)
    table.add_column("ms", justify="right")
    table.add_column("file", overflow="fold")
    for each in results:
        shown = "green" if each.status == "ok" else "yellow"
        table.add_row(
            escape(str(each.photograph)),
            escape(each.predicted),
            f"{each.probability:.1%}",
            *([each.method] if several else []),
            *([escape(each.explained)] if with_target else []),
            f"[{shown}]{each.status}[/]",
            f"{each.milliseconds:.1f}",
            escape(str(each.file)),
        )
    return table
