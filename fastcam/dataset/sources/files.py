"""Image files of a folder or a list."""

import functools
import itertools
import os
from collections.abc import Iterable, Iterator
from typing import cast

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from fastcam.dataset.decode import Limits
from fastcam.dataset.sources.base import Item
from fastcam.dataset.sources.path_list import PathList
from fastcam.dataset.sources.remote import UnreachableError, is_networked, open_system, read_range


class FileSource:
    """Image files below a folder, labelled by their parent folders; or the files of a list, without labels.

    Args:
        system: the file system of all.
        names: relative to the folder, or as the list has them.
        root: the folder; "" if the names are whole paths in the file system, None if they may be URLs.
    """

    def __init__(self, system: AbstractFileSystem, names: PathList, root: str | None = None) -> None:
        self.system, self.names, self.root = system, names, root

    @classmethod
    def from_list(cls, paths: Iterable[str]) -> "FileSource":
        """Return the source of a list of paths, all on one file system.

        Raises:
            ValueError: for an empty list, or a path that occurs twice.
        """
        paths = iter(paths)
        first = next(paths, None)
        if first is None:
            raise ValueError("the list of paths is empty")
        return cls(open_system(first)[0], PathList(itertools.chain([first], paths)))

    @property
    def is_remote(self) -> bool:
        """Whether a read waits for a network."""
        return is_networked(self.system)

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.names)

    def digest(self) -> str:
        """Return a digest of the file names."""
        return self.names.digest()

    def items(self, start: int, stop: int) -> Iterator[Item]:
        """Yield the files from position ``start`` to ``stop``."""
        for index in range(start, stop):
            name = self.names[index]
            folder = name.rpartition("/")[0].rpartition("/")[2] if self.root else ""
            path = self._path(name)
            yield Item(name, path, folder or None, functools.partial(_read_file, self.system, path))

    def _path(self, name: str) -> str:
        """Return where a file lies in the file system."""
        if self.root is not None:
            return join(self.root, name)
        if "::" in name:  # a file system within another
            return open_system(name)[1]
        return cast(str, self.system._strip_protocol(name))


_RUN = "run.json"  # which a folder of results has, beside "commits"


def join(root: str, name: str) -> str:
    """Return the path of a name below a folder; of a whole path, where the folder is ""."""
    return f"{root.rstrip('/')}/{name}" if root else name


def names_below(system: AbstractFileSystem, root: str) -> Iterator[str]:
    """Yield the files below a folder relative to it, in the order of their names, folder by folder.

    Hidden ones are left out, and folders of results: what a run writes below its own source is no part of it. What the
    file system remembers of a folder is dropped behind it: of ten million files it would be gigabytes.

    Raises:
        OSError: for a folder that cannot be read.
    """
    yield from _walk(system, root, "")


def _walk(system: AbstractFileSystem, folder: str, prefix: str) -> Iterator[str]:
    entries = sorted(_entries(system, folder))
    if prefix and (_RUN, False) in entries and ("commits", True) in entries:
        return
    for name, is_folder in entries:
        if name.startswith("."):
            continue
        if is_folder:
            yield from _walk(system, join(folder, name), f"{prefix}{name}/")
        else:
            yield prefix + name


def _entries(system: AbstractFileSystem, folder: str) -> Iterator[tuple[str, bool]]:
    """Yield the name of each entry of a folder, and whether it is a folder itself."""
    if isinstance(system, LocalFileSystem):
        with os.scandir(folder) as found:
            yield from ((entry.name, entry.is_dir(follow_symlinks=False)) for entry in found)
        return
    for entry in system.ls(folder, detail=True):
        name = entry["name"].rstrip("/")
        if name != folder.rstrip("/"):  # object stores may have an object for the folder itself
            yield name.rpartition("/")[2], entry["type"] == "directory"
    system.invalidate_cache(folder)


def _read_file(system: AbstractFileSystem, path: str, limits: Limits) -> bytes:
    if isinstance(system, LocalFileSystem):  # the same, without what remote systems need
        with open(path, "rb") as file:
            limits.check_bytes(os.fstat(file.fileno()).st_size)
            return file.read()
    data = _beginning(system, path, limits.bytes + 1)  # in one request, without one for the size
    if len(data) > limits.bytes:
        limits.check_bytes(max(system.size(path) or 0, len(data)))
    return data


def _beginning(system: AbstractFileSystem, path: str, count: int) -> bytes:
    """Return the first bytes of a file, or all."""
    try:
        return read_range(system, path, 0, count)
    except (FileNotFoundError, PermissionError, UnreachableError):
        raise
    except OSError:
        if system.size(path) == 0:  # of an empty object there is no range
            return b""
        raise
