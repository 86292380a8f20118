"""Crash-safe files: each exists completely or not at all."""

import contextlib
import fcntl
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_SUFFIX = ".tmp"


def write_once(file: Path, data: bytes) -> bool:
    """Write a new file; after the return it survives a killed process and a power failure.

    The bytes are written to a temporary file and synced; then it is linked to its final name, which fails if that
    exists, and the folder is synced.

    Returns:
        False if the file exists already; it is not changed.

    Raises:
        OSError: if the disk is full, broken or read-only; the temporary file is removed.
    """
    with _path_in_errors(file), _temporary_file(file.parent) as (temporary, descriptor):
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
        try:
            os.link(temporary, file)
        except FileExistsError:
            return False
    sync_folder(file.parent)
    return True


def write_replacing(file: Path, data: bytes) -> None:
    """Write a file in place of one that may exist: there is always the old or the new one, never a part.

    Raises:
        OSError: with the path, if it cannot be written.
    """
    with _path_in_errors(file), _temporary_file(file.parent) as (temporary, descriptor):
        with os.fdopen(os.dup(descriptor), "wb") as opened:
            opened.write(data)
        named = temporary.with_name(f".{uuid.uuid4().hex}{_SUFFIX}")
        os.link(temporary, named)
        os.replace(named, file)


def sync_folder(folder: Path) -> None:
    """Sync the directory entries of a folder to the disk."""
    with _path_in_errors(folder):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def set_aside(file: Path) -> Path:
    """Rename a damaged file, to free its name; nothing is deleted."""
    aside = file.with_name(f"{file.name}.{uuid.uuid4().hex[:8]}.damaged")
    file.rename(aside)
    sync_folder(file.parent)
    return aside


def open_locked(file: Path) -> BinaryIO:
    """Open a file with a shared lock, held until it is closed."""
    while True:
        locked = file.open("rb")
        fcntl.flock(locked, fcntl.LOCK_SH)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(locked.fileno()), file.stat()):
                return locked
        locked.close()  # another process replaced the file


def is_only_lock(locked: BinaryIO) -> bool:
    """Whether no other process holds a lock on the file; if so, the lock becomes exclusive."""
    try:
        fcntl.flock(locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def sweep(folder: Path) -> None:
    """Remove the temporary files of killed processes; those of running ones are locked, and stay."""
    for path in folder.glob(f".*{_SUFFIX}"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


@contextlib.contextmanager
def _path_in_errors(path: Path) -> Iterator[None]:
    """Add the path to OSErrors."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextlib.contextmanager
def _temporary_file(folder: Path) -> Iterator[tuple[Path, int]]:
    path, descriptor = _locked_file(folder)
    try:
        yield path, descriptor
    finally:
        os.unlink(path)
        os.close(descriptor)


def _locked_file(folder: Path) -> tuple[Path, int]:
    """Return a new file, with a lock that marks it as in use, see :func:`sweep`."""
    while True:
        path = folder / f".{uuid.uuid4().hex}{_SUFFIX}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return path, descriptor
        except (BlockingIOError, FileNotFoundError):
            pass  # another process sweeps it
        except BaseException:
            path.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        os.close(descriptor)
