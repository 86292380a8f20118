"""What the commands share: the console, complaints in a sentence."""

import contextlib
from collections.abc import Iterator

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

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
    "`trust=True`": "--trust-model",
    "`address`": "--ray",
    "`decoder`": "--decoder",
}


def progress_bar() -> Progress:
    """On standard error, where that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def output() -> Console:
    """Standard output; wide where it is no terminal, so that nothing in a table is cut or wrapped."""
    console = Console()
    return console if console.is_terminal else Console(width=400)


def complain(sentence: str, console: Console | None = None) -> None:
    """A sentence on standard error."""
    console = console or Console(stderr=True)
    console.print(f"fastcam: {sentence}", markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def mistakes_in_one_sentence() -> Iterator[None]:
    """What the engine says about a mistake, without a stack trace, and exit code 2."""
    try:
        yield
    except typer.Exit:  # a RuntimeError, too
        raise
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        sentence = " ".join(str(error).split())
        for argument, option in _OPTIONS.items():
            sentence = sentence.replace(argument, option)
        complain(sentence)
        raise typer.Exit(2) from None
