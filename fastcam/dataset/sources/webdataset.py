"""Images of WebDataset tar files."""

import contextlib
import functools
import tarfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from fsspec import AbstractFileSystem

from fastcam.dataset.decode import Limits
from fastcam.dataset.sources.base import IMAGE_SUFFIXES, Item, check_unique, digest_lines, relative_names
from fastcam.dataset.sources.remote import is_networked, read_range

MAX_LABEL_BYTES = 4095
MAX_BLOCK_BYTES = 4 * 2**20  # that are read at once

Sample: TypeAlias = tuple[str, str, int, int, str | None]  # id, tar file, offset, size in bytes, label


class WebDatasetSource:
    """WebDataset tar files: members whose names are equal up to the first dot form one sample.

    Members are read by their offsets in the tar file, neighbours together; nothing is extracted.
    """

    def __init__(self, system: AbstractFileSystem, paths: Sequence[str]) -> None:
        self.system, self.paths = system, paths
        names = relative_names(paths)
        self.samples = [sample for path in paths for sample in self._scan(path, names[path])]
        if not self.samples:
            raise ValueError("there are no pictures in the tar files")
        check_unique([image_id for image_id, *_ in self.samples])

    def _scan(self, path: str, tar_name: str) -> Iterator[Sample]:
        """Yield (id, tar path, offset, size in bytes, label) of every image, from the member headers."""
        images: dict[str, tuple[int, int]] = {}
        labels: dict[str, str] = {}
        with self.system.open(path, "rb") as file:
            try:
                with tarfile.open(fileobj=file, mode="r:") as tar:
                    for member in tar:
                        folder, _, name = member.name.rpartition("/")
                        key, _, suffix = name.partition(".")
                        key = f"{folder}/{key}" if folder else key
                        if not member.isreg() or not key:
                            continue
                        if f".{suffix.lower()}" in IMAGE_SUFFIXES:
                            images.setdefault(key, (member.offset_data, member.size))
                        elif suffix in ("cls", "label") and member.size <= MAX_LABEL_BYTES:
                            labels[key] = _read_text(tar, member)
            except (tarfile.TarError, EOFError, ValueError) as error:
                raise ValueError(f"{path!r} is no uncompressed tar file that can be read: {error}") from None
        for key, (offset, size) in images.items():
            yield f"{tar_name}/{key}", path, offset, size, labels.get(key)

    @property
    def is_remote(self) -> bool:
        """Whether a read waits for a network."""
        return is_networked(self.system)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.samples)

    def digest(self) -> str:
        """Return a digest of the image ids, offsets and sizes."""
        return digest_lines([f"{image_id}@{offset}+{size}" for image_id, _, offset, size, _ in self.samples])

    def items(self, start: int, stop: int) -> Iterator[Item]:
        """Yield the images from position ``start`` to ``stop``."""
        for block in _blocks(self.system, self.samples[start:stop]):
            for image_id, path, offset, size, label in block.samples:
                yield Item(image_id, path, label, functools.partial(block.read, offset, size))


@dataclass
class _Block:
    """Members that lie beside each other in a tar file, read at once when the first of them is wanted."""

    system: AbstractFileSystem
    samples: list[Sample]
    _data: bytes | None = None
    _is_tried: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, offset: int, size: int, limits: Limits) -> bytes:
        """Return the bytes of one member."""
        limits.check_bytes(size)
        path, start = self.samples[0][1:3]
        with self._lock:
            if not self._is_tried and len(self.samples) > 1:
                with contextlib.suppress(OSError):  # what can be read of it is read one by one
                    self._data = read_range(self.system, path, start, _end(self.samples[-1]))
            self._is_tried = True
        if self._data is not None:
            return self._data[offset - start : offset - start + size]
        return read_range(self.system, path, offset, offset + size)


def _end(sample: Sample) -> int:
    """Return where a member ends in its tar file."""
    return sample[2] + sample[3]


def _blocks(system: AbstractFileSystem, samples: Sequence[Sample]) -> Iterator[_Block]:
    """Yield blocks of at most ``MAX_BLOCK_BYTES``; a larger member is one of its own."""
    block: list[Sample] = []
    for sample in samples:
        if block and not (
            sample[1] == block[0][1] and _end(block[-1]) <= sample[2] and _end(sample) - block[0][2] <= MAX_BLOCK_BYTES
        ):
            yield _Block(system, block)
            block = []
        block.append(sample)
    if block:
        yield _Block(system, block)


def _read_text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = tar.extractfile(member)
    return "" if file is None else file.read().decode("utf-8", "replace").strip()
