"""Image files of a folder or a list."""

import functools
import itertools
import os
from collections.abc import Iterable, Iterator
from typing import cast

import fsspec
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from fastcam.dataset.decode import Limits
from fastcam.dataset.sources.base import Item
from fastcam.dataset.sources.path_list import PathList


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
        return cls(fsspec.core.url_to_fs(first)[0], PathList(itertools.chain([first], paths)))

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
            return cast(str, fsspec.core.url_to_fs(name)[1])
        return cast(str, self.system._strip_protocol(name))


_RUN = "run.json"  # which a folder of results has, beside "commits"


def join(root: str, name: str) -> str:
    """Return the path of a name below a folder; of a whole path, where the folder is ""."""
    return f"{root.rstrip('/')}/{name}" if root else name


def names_below(system: AbstractFileSystem, root: str) -> Iterator[str]:
    """Yield the files below a folder relative to it, in the order of their names, folder by folder.

    Hidden ones are left out, and folders of results: what a run writes below its own source is no part of it.

    Raises:
        OSError: for a folder that cannot be read.
    """
    if isinstance(system, LocalFileSystem):
        yield from _walk(root, "")
        return
    paths = (path[len(root) :].lstrip("/") for path in system.find(root))
    names = [name for name in paths if not any(part.startswith(".") for part in name.split("/"))]
    results = tuple(name.removesuffix(_RUN) for name in names if name.endswith(f"/{_RUN}"))
    kept = [name for name in names if not name.startswith(results)] if results else names
    yield from sorted(kept, key=lambda name: name.split("/"))


def _walk(folder: str, prefix: str) -> Iterator[str]:
    with os.scandir(folder) as found:
        entries = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in found)
    if prefix and (_RUN, False) in entries and ("commits", True) in entries:
        return
    for name, is_folder in entries:
        if name.startswith("."):
            continue
        if is_folder:
            yield from _walk(os.path.join(folder, name), f"{prefix}{name}/")
        else:
            yield prefix + name


def _read_file(system: AbstractFileSystem, path: str, limits: Limits) -> bytes:
    if isinstance(system, LocalFileSystem):  # the same, without what remote systems need
        with open(path, "rb") as file:
            limits.check_bytes(os.fstat(file.fileno()).st_size)
            return file.read()
    limits.check_bytes(system.size(path) or 0)
    data: bytes = system.cat_file(path)
    return data
