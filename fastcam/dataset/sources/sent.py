"""Listings of files that go to other processes a shard at a time: of ten million paths the whole is half a gigabyte."""

import base64
import zlib
from collections.abc import Iterator, Mapping, Sequence

from fastcam.dataset.sources.base import Item, Source
from fastcam.dataset.sources.files import FileSource
from fastcam.dataset.sources.path_list import PathList
from fastcam.dataset.sources.selection import Selection


class SentFiles:
    """Image files of which a process knows the names that it was sent, and of the others that they are there.

    Args:
        files: without names.
        count: of all files.
        first: name of the first one.
    """

    def __init__(self, files: FileSource, count: int, first: str) -> None:
        self.files, self.count = files, count
        self._names: dict[int, Sequence[str]] = {0: [first]}  # by the position of the first of them

    @classmethod
    def of(cls, source: Source) -> "SentFiles | None":
        """Return what is sent of a source before any of its names; None for one that is no listing of files."""
        files = _files_of(source)
        if files is None:
            return None
        return cls(FileSource(files.system, PathList([]), files.root), len(source), names_between(source, 0, 1)[0])

    @property
    def is_remote(self) -> bool:
        """Whether a read waits for a network."""
        return self.files.is_remote

    def __len__(self) -> int:
        """Return the number of files."""
        return self.count

    def digest(self) -> str:
        """Refuse.

        Raises:
            RuntimeError: the names are not all here.
        """
        raise RuntimeError("the digest of a listing is known where all of it is")

    def receive(self, texts: Mapping[int, str]) -> None:
        """Take the names of spans by their starts, from :func:`text_of`, in place of those before."""
        self._names = {0: self._names[0][:1], **{start: _names_of(text) for start, text in texts.items()}}

    def items(self, start: int, stop: int) -> Iterator[Item]:
        """Yield the files of a span that was sent."""
        names = PathList(self._names[start][: stop - start])
        return FileSource(self.files.system, names, self.files.root).items(0, len(names))


def names_between(source: Source, start: int, stop: int) -> list[str]:
    """Return the names of a listing of files from position ``start`` to ``stop``."""
    files = _files_of(source)
    assert files is not None
    positions = source.positions[start:stop] if isinstance(source, Selection) else range(start, min(stop, len(files)))
    return [files.names[int(position)] for position in positions]


def text_of(names: Sequence[str]) -> str:
    """Return names as a short text of ASCII characters."""
    return base64.b64encode(zlib.compress("\0".join(names).encode("utf-8", "surrogatepass"))).decode()


def _names_of(text: str) -> list[str]:
    return zlib.decompress(base64.b64decode(text)).decode("utf-8", "surrogatepass").split("\0")


def _files_of(source: Source) -> FileSource | None:
    """Return the files that a source lists, or chooses from."""
    files = source.source if isinstance(source, Selection) else source
    return files if isinstance(files, FileSource) else None
