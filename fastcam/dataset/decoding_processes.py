"""Processes that decode and preprocess, one for each loading thread, which only reads and waits.

Threads share the interpreter's lock: beyond a few cores they decode no more images a second. A process of its own takes
the encoded bytes and returns the model's input. What kills two of them, such as a fault in an image library, is the
fault of one image, and another process takes their place.
"""

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Literal, TypeAlias

import numpy as np
import torch

from fastcam.dataset.loading import Content, Converted, LoadedImage, Loader
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
        self._sent: bytes | None = None  # where no process can be started
        try:
            self._sent = pickle.dumps(loader)
        except Exception as error:  # of a user's own preprocessing
            _warn(error)
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
        """Return what the loader makes of what was read.

        What a process refuses its thread tries too: it alone knows what this program has changed about Pillow.
        """
        process = self._process() if isinstance(content, bytes) else None
        if process is None or not process.is_ready():
            return self.loader.convert(content)
        assert isinstance(content, bytes)
        try:
            found = process.convert(content)
        except (EOFError, OSError):
            process.end()
            found = self._once_more(content)
        return self.loader.convert(content) if found is None else found

    def _once_more(self, content: bytes) -> Converted | None:
        """Convert an image in a new process: the one before may have been killed for another reason.

        Raises:
            ValueError: if that dies as well.
        """
        self._own.process = None
        process = self._process()
        try:
            if process is None:
                raise EOFError
            process.wait_until_ready()
            return process.convert(content)
        except (EOFError, OSError):
            self._own.process = None
            how = "" if process is None else f", with {_described(process.end())}"
            raise ValueError(f"the process that decoded this image died{how}") from None

    def _process(self) -> "_Process | None":
        """Return the process of this thread, started if there is none; None if there is to be none."""
        found: _Process | None = getattr(self._own, "process", None)
        if found is not None:
            return found
        with self._lock:
            if self._sent is None or self._is_closed:
                return None
            try:
                started = _Process(self._sent)
            except OSError as error:  # too many processes, or no memory for another
                self._sent = None
                _warn(error)
                return None
            self._own.process = started
            self._processes = [each for each in self._processes if each.is_alive()] + [started]
            return started


def _warn(error: Exception) -> None:
    warnings.warn(f"images are decoded in threads: no process could be started ({error})", stacklevel=2)


class _Process:
    """A process that converts encoded images, and the connection to it; of a pickled loader."""

    def __init__(self, loader: bytes) -> None:
        here, there = socket.socketpair()
        with there:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _SERVE.format(descriptor=there.fileno())],
                pass_fds=[there.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in a terminal is for the process that this one works for
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
            )
        self._connection = Connection(here.detach())
        self._is_ready = False
        try:
            self._connection.send_bytes(loader)
        except OSError:  # it died at once
            self.end()
            raise

    def is_ready(self) -> bool:
        """Whether it has started."""
        if not self._is_ready:
            with contextlib.suppress(EOFError, OSError):  # it could not start, and said why on standard error
                self._is_ready = self._connection.poll() and self._connection.recv_bytes() == _READY
        return self._is_ready

    def wait_until_ready(self) -> None:
        """Wait until it has started.

        Raises:
            EOFError, OSError: if it ended instead.
        """
        if not self._is_ready:
            self._is_ready = self._connection.recv_bytes() == _READY

    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def convert(self, content: bytes) -> Converted | None:
        """Return what the loader makes of an encoded image; None if it refuses it.

        Raises:
            EOFError, OSError: if the process died.
        """
        self._connection.send_bytes(content)
        answer = pickle.loads(self._connection.recv_bytes())  # of a process of this one
        if answer is None:
            return None
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
    """Yield what is sent of an image: its form and the bytes of each array, or None if the loader refuses it."""
    try:
        found = loader.convert(content)
        arrays = [np.ascontiguousarray(tensor.numpy()) for tensor in found.tensors]
    except Exception:  # of damaged files: the thread finds the reason
        yield pickle.dumps(None)
        return
    forms: list[Form] = [(array.shape, array.dtype.name) for array in arrays]
    yield pickle.dumps((forms, found.size, found.seconds))
    yield from (array.data.cast("B") for array in arrays)
