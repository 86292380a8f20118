"""The command line: ``fastcam explain``, ``methods``, ``doctor``, ``bench`` and ``demo``."""

import ast
import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

import fastcam
from fastcam import doctor as diagnosis
from fastcam import models, photographs, render, targets
from fastcam.pictures import Preprocessing
from fastcam.progress import Progress as Report

try:
    import typer
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Table
except ImportError:
    sys.exit('fastcam: the command line needs typer and rich: pip install "fastcam[cli]"')

app = typer.Typer(
    help="Saliency maps for PyTorch vision models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Fusion(StrEnum):
    """How the maps of several layers become one."""

    mean = "mean"
    max = "max"


class Reshape(StrEnum):
    """How tokens become a map."""

    vit = "vit"
    swin = "swin"


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
_RESHAPES: dict[Reshape, Callable[[Tensor], Tensor]] = {
    Reshape.vit: fastcam.vit_reshape,
    Reshape.swin: fastcam.swin_reshape,
}
# The engine's messages name Python arguments; here they are options.
_OPTIONS = {
    "reshape_transform=fastcam.vit_reshape or fastcam.swin_reshape": "--reshape vit or --reshape swin",
    "reshape_transform= (fastcam.vit_reshape for transformers)": "--reshape vit (or swin)",
    "reshape_transform=": "--reshape",
    "target_layer=": "--layer",
    "`method`": "--method",
    "`colormap`": "--colormap",
    "`shorter_side`": "--shorter-side",
    "`only`": "--only",
}
_EXIT_CODES = (
    "Exit codes: 0 all fine; 1 some images could not be read or gave a map that is not finite, the others are done; "
    "2 bad usage: an unknown model, method, layer, class or option, or weights that do not fit."
)


@app.command(epilog=_EXIT_CODES)
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
    with _mistakes_in_one_sentence():
        names = list(dict.fromkeys(method or ["grad_cam"]))
        _check_early(names, colormap)
        place = _device(device)
        classifier = models.load(model, weights, class_names=_class_names(classes), num_classes=num_classes)
        classifier = replace(
            classifier, preprocessing=_overridden(classifier.preprocessing, size, shorter_side, mean, std)
        )
        if classifier.random_weights:
            _complain("warning: the weights are random, so the maps mean nothing; give trained ones with --weights")
        explainer = fastcam.Explainer(
            classifier.model.to(place),
            names,
            tuple(layer) if layer else None,
            fuse=fuse.value,
            reshape_transform=_RESHAPES[reshape] if reshape else None,
            precision=precision.value if precision else None,
            compile=compile,
            **_method_options(option or []),
        )
        asked = photographs.Targets(tuple(target or ()))
        run = photographs.Run(classifier, explainer, asked, place, out, colormap, alpha, _SCORES[score])
        failed = _explain_all(run, photographs.find(images, out), batch_size)
    raise typer.Exit(1 if failed else 0)


@app.command()
def methods() -> None:
    """List the methods: what each needs, its definition and its paper."""
    table = Table("name", "needs", "forwards", "definition", "options", "paper")
    for each in fastcam.list_methods():
        needs = ", ".join(need.replace("_", " ") for need in each.needs)
        options = ", ".join(f"{name}={value}" for name, value in each.options.items())
        table.add_row(*map(escape, (each.name, needs, each.cost, each.summary, options, each.paper)))
    _console().print(table)


@app.command(epilog="Exit codes: 0 all fine; 1 a compiled op disagrees with its reference.")
def doctor() -> None:
    """Show what this installation can do, and check the compiled ops against their references."""
    table = Table("what", "found")
    for name, value in diagnosis.facts().items():
        table.add_row(escape(name), escape(value))
    _console().print(table)
    checks = diagnosis.self_check()
    results = Table("op", "device", "difference to its reference", "self check")
    for check in checks:
        verdict = "[green]ok[/]" if check.passed else f"[red]FAILED[/] {escape(check.error)}"
        results.add_row(check.op, check.device, f"{check.difference:.1e}", verdict)
    _console().print(results)
    if not all(check.passed for check in checks):
        _complain("the self check failed: maps from this installation are wrong; reinstall, or set FASTCAM_REFERENCE=1")
        raise typer.Exit(1)


@app.command(
    epilog="Exit codes: 0 all fine; 1 an op or another tool does not return the same, and was not timed; 2 bad usage."
)
def bench(
    model: Annotated[str, typer.Option(help="As for explain.")] = "torchvision:resnet18",
    weights: Annotated[Path | None, typer.Option(help="State dict; without it the weights are random.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 1,
    only: Annotated[
        list[str] | None, typer.Option(help="Op or method; repeatable.", show_default="all of both")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.001, help="For each row; what takes longer is timed once.")] = 0.5,
    json: Annotated[Path | None, typer.Option(help="File for the figures, with the hardware's name.")] = None,
    layer: Annotated[str | None, typer.Option(help="Target layer.", show_default="last with a map")] = None,
    reshape: Annotated[Reshape | None, typer.Option(help="For layers that return tokens.")] = None,
    device: Annotated[str | None, typer.Option(help="As for explain.", show_default="cuda where there is one")] = None,
) -> None:
    """Time ops and methods on this machine, beside PyTorch, a bare forward pass and what other tools are installed."""
    from fastcam.bench import peers, tables
    from fastcam.bench.hardware import described, hardware
    from fastcam.bench.session import Session, check_names, setting_of
    from fastcam.bench.timing import Patience

    with _mistakes_in_one_sentence():
        check_names(only or [])
        if json is not None:
            json.open("a").close()  # better now than after minutes
        transform = _RESHAPES[reshape] if reshape else None
        at = setting_of(model, models.load(model, weights), batch, _device(device), layer, transform)
        session = Session(at, Patience.of(seconds), tuple(only or ()))
        with _progress() as progress:
            task = progress.add_task("measuring", total=len(session))
            for name in session.run():
                progress.update(task, description=f"measuring {name}")
                progress.advance(task)
        if json is not None:
            session.write(json)
    console = _console()
    if session.op_rows:
        console.print(tables.op_table(session.op_rows))
    if session.method_rows:
        console.print(tables.method_table(session.method_rows, f"{model}, layer {at.layer}, batch {batch}"))
    for each in session.unable:
        typer.echo(f"Not timed: {each}")
    typer.echo(described(hardware()))
    if peers.missing():
        typer.echo(f"To compare with more tools: pip install {' '.join(peers.missing())}")
    for each in session.disagreements:
        _complain(f"not timed: {each}")
    raise typer.Exit(1 if session.disagreements else 0)


@app.command(epilog="Exit codes: 0 all fine; 2 a package of the demo is missing, or the folder cannot be written.")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the overlays and contact_sheet.png.")] = Path("fastcam_demo"),
) -> None:
    """Explain a few photographs with a trained network; nothing is downloaded."""
    from fastcam import demo as demonstration

    with _mistakes_in_one_sentence():
        demonstration.run(out)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(f"fastcam {fastcam.__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point of the console script."""
    app()


def _explain_all(run: photographs.Run, paths: list[Path], batch_size: int) -> bool:
    """Explains, prints complaints as they come and the table at the end; whether anything failed."""
    failed = not paths
    if not paths:
        _complain("there are no pictures in what was given")
    results: list[photographs.Result] = []
    with _progress() as progress:
        task = progress.add_task("explaining", total=len(paths))
        _show_copies(progress, run)
        for each in run.over(paths, batch_size):
            if isinstance(each, photographs.Failure):
                failed = True
                _complain(f"{each.photograph}: {each.reason}", progress.console)
            else:
                results += each
            progress.advance(task)
    if results:
        _console().print(_table(results, with_target=not run.targets.is_highest))
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


def _progress() -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _console() -> Console:
    """Standard output; wide where it is no terminal, so that nothing in a table is cut or wrapped."""
    console = Console()
    return console if console.is_terminal else Console(width=400)


def _complain(sentence: str, console: Console | None = None) -> None:
    console = console or Console(stderr=True)
    console.print(f"fastcam: {sentence}", markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def _mistakes_in_one_sentence() -> Iterator[None]:
    """What the engine says about a mistake, without a stack trace, and exit code 2."""
    try:
        yield
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        sentence = " ".join(str(error).split())
        for argument, option in _OPTIONS.items():
            sentence = sentence.replace(argument, option)
        _complain(sentence)
        raise typer.Exit(2) from None


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


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        first = str(error).split("\n", maxsplit=1)[0]
        raise ValueError(f"device {name!r} cannot be used: {first}") from None


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
