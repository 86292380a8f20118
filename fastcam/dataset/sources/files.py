"""Image files of a folder or a list."""

import functools
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

import fsspec
from fsspec import AbstractFileSystem

from fastcam.dataset.decode import Limits
from fastcam.dataset.sources.base import Item, check_unique, digest_lines


class FileSource:
    """Image files below a folder, labelled by their parent folders; or the files of a list, without labels."""

    def __init__(self, system: AbstractFileSystem, paths: Sequence[str], root: str) -> None:
        self.system, self.paths, self.root = system, paths, root
        self.ids = [path[len(root) :].lstrip("/") if root else path for path in paths]
        check_unique(self.ids)

    @classmethod
    def from_list(cls, paths: Sequence[str]) -> "FileSource":
        """Return the source of a list of paths, all on one file system."""
        if not paths:
            raise ValueError("the list of paths is empty")
        system, _ = fsspec.core.url_to_fs(paths[0])
        source = cls(system, [fsspec.core.url_to_fs(path)[1] for path in paths], "")
        source.ids = list(paths)
        return source

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.paths)

    def digest(self) -> str:
        """Return a digest of the file names."""
        return digest_lines(self.ids)

    def items(self, start: int, stop: int) -> Iterator[Item]:
        """Yield the files from position ``start`` to ``stop``."""
        for index in range(start, stop):
            path, name = self.paths[index], self.ids[index]
            folder = PurePosixPath(name).parent.name if self.root else ""
            yield Item(name, path, folder or None, functools.partial(_read_file, self.system, path))


def _read_file(system: AbstractFileSystem, path: str, limits: Limits) -> bytes:
    limits.check_bytes(system.size(path) or 0)
    data: bytes = system.cat_file(path)
    return data
