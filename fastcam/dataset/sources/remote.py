"""Reads from file systems that may wait for a network."""

import contextlib
import time
from collections.abc import Iterator

import fsspec
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

PAUSES = (1.0, 4.0)  # seconds before a store that does not answer is asked again


class UnreachableError(OSError):
    """The store of all images does not answer, which is no fault of an image: the run ends, and can be resumed."""


def open_system(url: str) -> tuple[AbstractFileSystem, str]:
    """Return the file system of a path or URL, and its path there.

    Raises:
        ValueError: for a protocol that is unknown, or needs a package that is missing.
    """
    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ValueError(f"{url!r} cannot be opened: {error}") from None
    return system, path


def is_networked(system: AbstractFileSystem) -> bool:
    """Whether a read may wait for a network."""
    return not isinstance(system, LocalFileSystem)


@contextlib.contextmanager
def named_errors(name: str) -> Iterator[None]:
    """Turn errors of a store's own library, which are of many types, into one that names what was read.

    Raises:
        OSError: for such an error.
    """
    try:
        yield
    except (ValueError, TypeError, OSError):
        raise
    except Exception as error:
        raise OSError(f"{name!r} cannot be read: {type(error).__name__}: {error}") from error


def read_range(system: AbstractFileSystem, path: str, start: int, end: int) -> bytes:
    """Return the bytes of a file from one place to another, or to its end.

    Raises:
        UnreachableError: if the store does not answer at all, asked several times.
        Exception: of the file system, for this file.
    """
    pauses = list(PAUSES)
    while True:
        try:
            data: bytes = system.cat_file(path, start=start, end=end)
            return data
        except (FileNotFoundError, PermissionError):
            raise
        except Exception as error:
            if _answers(system, path):
                raise
            if not pauses:
                raise UnreachableError(f"the store of {path!r} does not answer: {error}") from error
        time.sleep(pauses.pop(0))


def _answers(system: AbstractFileSystem, path: str) -> bool:
    """Whether a store answers; each address of the web is one of its own, of which nothing follows for the others."""
    protocol = system.protocol if isinstance(system.protocol, tuple) else (system.protocol,)
    if not is_networked(system) or {"http", "https"} & set(protocol):
        return True
    try:
        return bool(system.exists(path.rpartition("/")[0]))
    except Exception:
        return False
