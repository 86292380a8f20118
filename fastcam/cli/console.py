"""The console shared by the commands: output, progress bar and error messages."""

import contextlib
import re
from collections.abc import Iterator

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

# Command-line options in place of the Python arguments in error messages.
_OPTIONS = {
    "reshape_transform=": "--reshape",
    "target_layer=": "--layer",
    "`method`": "--method",
    "`colormap`": "--colormap",
    "`shorter_side`": "--shorter-side",
    "`only`": "--only",
    "`trust=True`": "--trust-model",
    "`address`": "--ray",
    "`gpus`": "--ray-gpus",
    "`decoder`": "--decoder",
    "`devices`": "--device",
    "`classifier`": "--model",
}
_NO_LAYER = "the model has no layer named"


def progress_bar() -> Progress:
    """Return a progress bar on standard error, disabled unless that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def output() -> Console:
    """Return standard output; wide unless it is a terminal, so that tables are not cut or wrapped."""
    console = Console()
    return console if console.is_terminal else Console(width=400)


def print_error(message: str, console: Console | None = None) -> None:
    """Print a message on standard error."""
    console = console or Console(stderr=True)
    console.print(f"fastcam: {message}", markup=False, highlight=False, soft_wrap=True)


def first_line(error: Exception) -> str:
    """Return the first line of an error message."""
    return str(error).split("\n", maxsplit=1)[0]


@contextlib.contextmanager
def report_errors() -> Iterator[None]:
    """Print errors without a stack trace and exit with code 2."""
    try:
        yield
    except typer.Exit:  # a subclass of RuntimeError
        raise
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        message = re.sub(r"^\[Errno \d+\] ", "", " ".join(str(error).split()))
        if _NO_LAYER in message:
            message += "; `fastcam layers MODEL` lists them"
        for argument, option in _OPTIONS.items():
            message = message.replace(argument, option)
        print_error(message)
        raise typer.Exit(2) from None


def status_text(status: str, cause: str) -> str:
    """Return the status of a map with the cause, where that is known and says more."""
    return status if cause in ("", status) else f"{status} ({cause})"
