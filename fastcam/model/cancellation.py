"""Cancellation of long work: looked at between its blocks, asked for by SIGINT or SIGTERM."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import FrameType
from typing import TypeAlias

SignalHandler: TypeAlias = Callable[[int, FrameType | None], object] | int | None

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
STOPPING = "fastcam: stopping; Ctrl-C again to end now"

_check: ContextVar[Callable[[], None] | None] = ContextVar("fastcam_cancellation", default=None)


@contextlib.contextmanager
def cancelled_by(check: Callable[[], None]) -> Iterator[None]:
    """Within the context, :func:`raise_if_cancelled` calls ``check``, which raises when the work must end."""
    token = _check.set(check)
    try:
        yield
    finally:
        _check.reset(token)


def raise_if_cancelled() -> None:
    """Call the check of the enclosing :func:`cancelled_by`, if any."""
    check = _check.get()
    if check is not None:
        check()


class StopEvent(threading.Event):
    """An event that a signal sets.

    Attributes:
        number: the signal; None before.
    """

    number: int | None = None

    def resend(self) -> None:
        """Give the signal its usual effect, if there was one; the handlers are as before by then."""
        if self.number is not None:
            signal.raise_signal(self.number)


@contextlib.contextmanager
def stop_event(message: str = "") -> Iterator[StopEvent]:
    """Yield an event that the first SIGINT or SIGTERM sets; a second one has its usual effect.

    Args:
        message: printed on standard error by the first one.
    """
    event = StopEvent()
    previous: dict[signal.Signals, SignalHandler] = {}

    def stop(number: int, frame: FrameType | None) -> None:
        restore()
        event.number = number
        event.set()
        if message:
            _print_from_handler(message)

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    if threading.current_thread() is threading.main_thread():
        previous = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        yield event
    finally:
        restore()


def _print_from_handler(message: str) -> None:
    """Write a line to standard error, past Python's buffer, which the interrupted code may be holding."""
    start = "\n" if sys.stderr is not None and sys.stderr.isatty() else ""  # behind "^C" and a progress bar
    with contextlib.suppress(OSError):
        os.write(2, f"{start}{message}\n".encode())
