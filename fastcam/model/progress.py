"""Progress of what takes long: shown only where asked for, and only after two seconds."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

Report = Callable[[int, int], None]

_PATIENCE = 2.0  # seconds


class Progress:
    """Tells how far the work is.

    Args:
        show: False for nothing, True for a bar on standard error, where that is a terminal or a notebook, once the work
            has taken two seconds, or a function of (done, total) that is called after every piece.
    """

    def __init__(self, show: bool | Report = False, description: str = "explaining") -> None:
        if not isinstance(show, bool) and not callable(show):
            raise TypeError(f"`progress` must be True, False or a function of (done, total), got {show!r}")
        self.show, self.description = show, description

    @contextlib.contextmanager
    def over(self, total: int) -> Iterator[Callable[[int], None]]:
        """Gives a function that is told how many of ``total`` pieces were done."""
        if self.show is False:
            yield lambda count: None
            return
        report, close = (self.show, _nothing) if callable(self.show) else _bar(self.description)
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            report(done, total)

        try:
            yield advance
        finally:
            close()


def _nothing() -> None:
    pass


def _bar(description: str) -> tuple[Report, Callable[[], None]]:
    """A bar that appears after two seconds, and what closes it."""
    try:
        from rich.console import Console
        from rich.progress import Progress as Bar
    except ImportError:
        raise ImportError('progress=True needs rich: pip install "fastcam[cli]"') from None
    started = time.monotonic()
    bar: Any = None

    def report(done: int, total: int) -> None:
        nonlocal bar
        if bar is None and time.monotonic() - started < _PATIENCE:
            return
        if bar is None:
            console = Console(stderr=True)
            bar = Bar(console=console, transient=True, disable=not (console.is_terminal or console.is_jupyter))
            bar.start()
            bar.add_task(description, total=total)
        bar.update(bar.task_ids[0], completed=done)

    def close() -> None:
        if bar is not None:
            bar.stop()

    return report, close
