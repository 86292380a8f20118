"""Files that are there whole or not at all, whatever dies in between."""

import contextlib
import fcntl
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_SUFFIX = ".tmp"


def write_once(file: Path, data: bytes) -> bool:
    """Writes a file that must not be there yet; after the return it survives a killed process and a power failure.

    The bytes go to a file of another name, that one to the disk; then it is linked to its name, which fails where that
    is taken, and the folder goes to the disk.

    Returns:
        False where the file is there already; it is left as it is.

    Raises:
        OSError: where the disk is full, broken or read-only; nothing is left behind.
    """
    with _told_of(file), _temporary(file.parent) as (temporary, descriptor):
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


def sync_folder(folder: Path) -> None:
    """Brings the names in a folder to the disk."""
    with _told_of(folder):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def set_aside(file: Path) -> Path:
    """Renames a damaged file, so that another can take its place; nothing is deleted."""
    aside = file.with_name(f"{file.name}.{uuid.uuid4().hex[:8]}.damaged")
    file.rename(aside)
    sync_folder(file.parent)
    return aside


def shared_lock(file: Path) -> BinaryIO:
    """The file, open and locked together with others for as long as it is open."""
    while True:
        found = file.open("rb")
        fcntl.flock(found, fcntl.LOCK_SH)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(found.fileno()), file.stat()):
                return found
        found.close()  # somebody put another in its place


def is_ours_alone(locked: BinaryIO) -> bool:
    """Whether nobody else holds a lock of the file; from then on nobody can."""
    try:
        fcntl.flock(locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def sweep(folder: Path) -> None:
    """Removes what killed processes left half-written; the files that living ones write are locked, and stay."""
    for each in folder.glob(f".*{_SUFFIX}"):
        with contextlib.suppress(OSError), each.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            each.unlink()


@contextlib.contextmanager
def _told_of(path: Path) -> Iterator[None]:
    """What goes wrong says where."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[tuple[Path, int]]:
    path = folder / f".{uuid.uuid4().hex}{_SUFFIX}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a sign of life, see `sweep`
        yield path, descriptor
    finally:
        os.unlink(path)
        os.close(descriptor)
