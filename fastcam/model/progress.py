"""Progress reports of long work, off by default; a bar appears after two seconds."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

Report = Callable[[int, int], None]

SECONDS_BEFORE_BAR = 2.0


class ProgressReporter:
    """Reports the progress of the work.

    Args:
        show: False for no report; True for a bar on standard error after two seconds, in a terminal or a notebook; or a
            function of (done, total) that is called after every piece.
        description: the label of the bar.
    """

    def __init__(self, show: bool | Report = False, description: str = "explaining") -> None:
        if not isinstance(show, bool) and not callable(show):
            raise TypeError(f"`progress` must be True, False or a function of (done, total), got {show!r}")
        self.show, self.description = show, description

    @contextlib.contextmanager
    def over(self, total: int) -> Iterator[Callable[[int], None]]:
        """Yield a function that advances the progress towards ``total`` by a number of pieces."""
        if self.show is False:
            yield lambda count: None
            return
        report, close = (self.show, _do_nothing) if callable(self.show) else _open_bar(self.description)
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            report(done, total)

        try:
            yield advance
        finally:
            close()


def _do_nothing() -> None:
    pass


def _open_bar(description: str) -> tuple[Report, Callable[[], None]]:
    """Return the functions that update and close a bar, which appears after two seconds."""
    try:
        from rich.console import Console
        from rich.progress import Progress as Bar
    except ImportError:
        raise ImportError('progress=True needs rich: pip install "fastcam[cli]"') from None
    started = time.monotonic()
    bar: Progress | None = None

    def report(done: int, total: int) -> None:
        nonlocal bar
        if bar is None and time.monotonic() - started < SECONDS_BEFORE_BAR:
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
