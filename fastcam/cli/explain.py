"""``fastcam explain``: photographs to overlays and a table."""

import ast
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

import fastcam
from fastcam import models, photographs, render, targets
from fastcam.asked import Asked
from fastcam.cli.console import RESHAPES, Reshape, complain, device_of, mistakes_in_one_sentence, output, progress_bar
from fastcam.pictures import Preprocessing
from fastcam.progress import Progress as Report


class Fusion(StrEnum):
    """How the maps of several layers become one."""

    mean = "mean"
    max = "max"


class Precision(StrEnum):
    """What a prepared model computes in."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"
    auto = "auto"


class Score(StrEnum):
    """What is explained of a class."""

    logit = "logit"
    probability = "probability"
    log_probability = "log-probability"


_SCORES: dict[Score, type[targets.Logit]] = {
    Score.logit: targets.Logit,
    Score.probability: targets.Probability,
    Score.log_probability: targets.LogProbability,
}
EXIT_CODES = (
    "Exit codes: 0 all fine; 1 some images could not be read or gave a map that is not finite, the others are done; "
    "2 bad usage: an unknown model, method, layer, class or option, or weights that do not fit."
)


def explain(
    images: Annotated[list[str], typer.Argument(help="Files, folders (searched recursively) or globs.")],
    model: Annotated[str, typer.Option(help="torchvision:NAME, timm:NAME or package.module:factory.")],
    weights: Annotated[Path | None, typer.Option(help="State dict: .safetensors, .pth or .pt, tensors only.")] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="See `fastcam methods`; repeatable.", show_default="grad_cam")
    ] = None,
    layer: Annotated[
        list[str] | None, typer.Option(help="Target layer; repeatable.", show_default="last with a map")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="Class index, class name, or top3 for the highest 3; repeatable.", show_default="top1"),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the overlays, named PHOTO.METHOD.png.")] = Path("explanations"),
    classes: Annotated[Path | None, typer.Option(help="Class names, one per line.")] = None,
    num_classes: Annotated[int | None, typer.Option(min=1, help="Outputs, where not the architecture's own.")] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, mps, ...", show_default="cuda where there is one")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 8,
    option: Annotated[
        list[str] | None, typer.Option(help="Option of the methods, as window=32; repeatable.", show_default=False)
    ] = None,
    precision: Annotated[
        Precision | None, typer.Option(help="Prepare the model: faster, the same maps.", show_default="as it is")
    ] = None,
    compile: Annotated[bool, typer.Option(help="Prepare and compile the model; takes up to a minute.")] = False,
    score: Annotated[Score, typer.Option(help="What to explain of a class.")] = Score.logit,
    fuse: Annotated[Fusion, typer.Option(help="How to join the maps of several layers.")] = Fusion.mean,
    reshape: Annotated[Reshape | None, typer.Option(help="For layers that return tokens.")] = None,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Share of the colour in the overlay.")] = 0.5,
    colormap: Annotated[str, typer.Option(help="jet, or any name known to matplotlib.")] = "jet",
    size: Annotated[int | None, typer.Option(min=1, help="Input of N x N pixels; the resizing scales along.")] = None,
    shorter_side: Annotated[int | None, typer.Option(min=1, help="Resize to this before cropping.")] = None,
    mean: Annotated[tuple[float, float, float] | None, typer.Option(help="Per colour, 0 to 1.")] = None,
    std: Annotated[tuple[float, float, float] | None, typer.Option(help="Per colour, 0 to 1.")] = None,
) -> None:
    """Explain photographs: write overlays, drawn on what the model saw of each, and print a table of what it saw."""
    with mistakes_in_one_sentence():
        names = list(dict.fromkeys(method or ["grad_cam"]))
        _check_early(names, colormap)
        place = device_of(device)
        classifier = models.load(model, weights, class_names=_class_names(classes), num_classes=num_classes)
        classifier = replace(
            classifier, preprocessing=_overridden(classifier.preprocessing, size, shorter_side, mean, std)
        )
        if classifier.random_weights:
            complain("warning: the weights are random, so the maps mean nothing; give trained ones with --weights")
        explainer = fastcam.Explainer(
            classifier.model.to(place),
            names,
            tuple(layer) if layer else None,
            fuse=fuse.value,
            reshape_transform=RESHAPES[reshape] if reshape else None,
            precision=precision.value if precision else None,
            compile=compile,
            **_method_options(option or []),
        )
        asked = Asked(tuple(target or ()))
        run = photographs.Run(classifier, explainer, asked, place, out, colormap, alpha, _SCORES[score])
        failed = _explain_all(run, photographs.find(images, out), batch_size)
    raise typer.Exit(1 if failed else 0)


def _explain_all(run: photographs.Run, paths: list[Path], batch_size: int) -> bool:
    """Explains, prints complaints as they come and the table at the end; whether anything failed."""
    failed = not paths
    if not paths:
        complain("there are no pictures in what was given")
    results: list[photographs.Result] = []
    with progress_bar() as progress:
        task = progress.add_task("explaining", total=len(paths))
        _show_copies(progress, run)
        for each in run.over(paths, batch_size):
            if isinstance(each, photographs.Failure):
                failed = True
                complain(f"{each.photograph}: {each.reason}", progress.console)
            else:
                results += each
            progress.advance(task)
    if results:
        output().print(_table(results, with_target=not run.targets.is_highest))
    return failed or any(each.status == "non-finite" for each in results)


def _show_copies(progress: Progress, run: photographs.Run) -> None:
    """A second line for methods that try many copies of a photograph."""
    copies = progress.add_task("copies tried", visible=False)

    def show(done: int, total: int) -> None:
        progress.update(copies, completed=done, total=total, visible=done < total)

    run.explainer.progress = Report(show)


def _table(results: list[photographs.Result], with_target: bool) -> Table:
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


def _check_early(methods: list[str], colormap: str) -> None:
    """Refuses a wrong name before a model is built."""
    for each in methods:
        fastcam.get_method(each)
    render.colors(colormap)


def _method_options(texts: list[str]) -> dict[str, Any]:
    """From name=value to keywords; what reads as a number, a tuple, True, False or None is one."""
    options = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not (name and separator):
            raise ValueError(f"--option must be name=value, got {text!r}")
        try:
            options[name.replace("-", "_")] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[name.replace("-", "_")] = value
    return options


def _class_names(file: Path | None) -> list[str]:
    if file is None:
        return []
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8").strip().splitlines()]
    except (OSError, UnicodeDecodeError):
        raise ValueError(f"the file of class names {str(file)!r} cannot be read as text") from None


def _overridden(
    preprocessing: Preprocessing,
    size: int | None,
    shorter_side: int | None,
    mean: tuple[float, float, float] | None,
    std: tuple[float, float, float] | None,
) -> Preprocessing:
    """The preprocessing with what the user asked for in its place."""
    if size is not None:
        scaled = round(preprocessing.shorter_side * size / max(preprocessing.size))
        preprocessing = replace(preprocessing, size=(size, size), shorter_side=scaled)
    changes: dict[str, Any] = {"shorter_side": shorter_side, "mean": mean, "std": std}
    return replace(preprocessing, **{name: value for name, value in changes.items() if value is not None})
