"""Processes that decode and preprocess, one for each loading thread, which only reads and waits.

Threads share the interpreter's lock: beyond a few cores they decode no more images a second. A process of its own takes
the encoded bytes and returns the model's input. What kills it, such as a fault in an image library, is the fault of one
image, and another process takes its place.
"""

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Literal, TypeAlias, cast

import numpy as np
import torch

from fastcam.dataset.loading import Content, Converted, LoadedImage, Loader, reason_of
from fastcam.dataset.sources import Item

DecodeIn: TypeAlias = Literal["threads", "processes"]
END_SECONDS = 10  # that a process may take to end
_SERVE = "from fastcam.dataset.decoding_processes import serve; serve({descriptor})"
_READY = b"ready"

Form: TypeAlias = tuple[tuple[int, ...], str]  # the shape of an array, and the name of its dtype


class LoaderInProcesses:
    """A loader, called on threads, each of which has a process that converts what it reads; a context.

    While a process starts, its thread converts images itself.
    """

    def __init__(self, loader: Loader) -> None:
        self.loader = loader
        self._own = threading.local()
        self._processes: list[_Process] = []
        self._lock = threading.Lock()
        self._is_closed = False

    def __enter__(self) -> "LoaderInProcesses":
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes, those in work too."""
        with self._lock:
            self._is_closed = True
            processes = list(self._processes)
        for process in processes:
            process.stop()
        for process in processes:
            process.end()

    def __call__(self, item: Item) -> LoadedImage:
        """Load one image, as the loader does."""
        return self.loader(item, self._convert)

    def _convert(self, content: Content) -> Converted:
        process = self._process() if isinstance(content, bytes) else None
        if process is None or not process.is_ready():
            return self.loader.convert(content)
        try:
            return process.convert(cast("bytes", content))
        except (EOFError, OSError):
            code = process.end()
            self._own.process = None
            raise ValueError(f"the process that decoded this image died, with {_described(code)}") from None

    def _process(self) -> "_Process | None":
        """Return the process of this thread, started if there is none; None once all are to end."""
        found: _Process | None = getattr(self._own, "process", None)
        if found is not None:
            return found
        with self._lock:
            if self._is_closed:
                return None
            self._own.process = started = _Process(self.loader)
            self._processes = [each for each in self._processes if each.is_alive()] + [started]
            return started


class _Process:
    """A process that converts encoded images, and the connection to it."""

    def __init__(self, loader: Loader) -> None:
        here, there = socket.socketpair()
        with there:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _SERVE.format(descriptor=there.fileno())],
                pass_fds=[there.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in a terminal is for the process that this one works for
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        self._connection = Connection(here.detach())
        self._connection.send_bytes(pickle.dumps(loader))
        self._is_ready = False

    def is_ready(self) -> bool:
        """Whether it has started."""
        if not self._is_ready:
            with contextlib.suppress(EOFError, OSError):  # it could not start, and said why on standard error
                self._is_ready = self._connection.poll() and self._connection.recv_bytes() == _READY
        return self._is_ready

    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def convert(self, content: bytes) -> Converted:
        """Return what the loader makes of an encoded image.

        Raises:
            ValueError: with the loader's reason.
            EOFError, OSError: if the process died.
        """
        self._connection.send_bytes(content)
        answer = pickle.loads(self._connection.recv_bytes())  # of the loader, in a process of this one
        if isinstance(answer, str):
            raise ValueError(answer)
        forms, size, seconds = answer
        return Converted(tuple(self._receive(*form) for form in forms), size, seconds)

    def _receive(self, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
        array = np.empty(shape, dtype)
        self._connection.recv_bytes_into(array.data.cast("B"))
        return torch.from_numpy(array)

    def stop(self) -> None:
        """Let it end."""
        self._connection.close()
        self._process.terminate()  # if it has not started yet

    def end(self) -> int:
        """Wait until it has ended, and return its exit code."""
        self._connection.close()
        try:
            return self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def _described(code: int) -> str:
    return signal.strsignal(-code) or f"signal {-code}" if code < 0 else f"exit code {code}"


def serve(descriptor: int) -> None:
    """Answer the messages of a thread until it hangs up: of encoded images, what the loader makes of them."""
    # Sent to all processes of a job: the one that this one works for ends the run, and no image is to fail before.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
    connection = Connection(descriptor)
    with contextlib.suppress(EOFError, OSError):
        loader: Loader = pickle.loads(connection.recv_bytes())
        connection.send_bytes(_READY)
        while True:
            for part in _answer(loader, connection.recv_bytes()):
                connection.send_bytes(part)


def _answer(loader: Loader, content: bytes) -> Iterator[bytes | memoryview]:
    """Yield what is sent of an image: its form and the bytes of each array, or the reason why there are none."""
    try:
        found = loader.convert(content)
        arrays = [np.ascontiguousarray(tensor.numpy()) for tensor in found.tensors]
    except Exception as error:  # damaged files
        yield pickle.dumps(reason_of(error))
        return
    forms: list[Form] = [(array.shape, array.dtype.name) for array in arrays]
    yield pickle.dumps((forms, found.size, found.seconds))
    yield from (array.data.cast("B") for array in arrays)
