"""Handling of SIGINT and SIGTERM during a run."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TypeAlias

SignalHandler: TypeAlias = Callable[[int, FrameType | None], object] | int | None

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
INTERRUPTED = "the run was interrupted: committed shards are kept, and the same call resumes it"


class InterruptedRunError(Exception):
    """The run was asked to stop; committed shards are kept, the shard in progress was dropped."""


@contextlib.contextmanager
def stop_event() -> Iterator[threading.Event]:
    """Yield an event that the first SIGINT or SIGTERM sets; a second one has its usual effect."""
    event = threading.Event()
    previous: dict[signal.Signals, SignalHandler] = {}

    def stop(number: int, frame: FrameType | None) -> None:
        event.set()
        restore()

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    if threading.current_thread() is threading.main_thread():
        previous = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        yield event
    finally:
        restore()


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
