"""What SIGINT and SIGTERM do to a run."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from fastcam.model.cancellation import STOP_SIGNALS

INTERRUPTED = "the run was interrupted: committed shards are kept, and the same call resumes it"


class InterruptedRunError(Exception):
    """The run was asked to stop; committed shards are kept, the shard in progress was dropped."""


def raise_if_set(stop: threading.Event) -> None:
    """Raise :class:`InterruptedRunError` if the event is set."""
    if stop.is_set():
        raise InterruptedRunError(INTERRUPTED)


@contextlib.contextmanager
def interrupt_on_signal() -> Iterator[None]:
    """Raise :class:`InterruptedRunError` at once on SIGINT or SIGTERM."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise InterruptedRunError(INTERRUPTED)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, interrupt) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
