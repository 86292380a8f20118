"""Images of WebDataset tar files."""

import functools
import tarfile
from collections.abc import Iterator, Sequence

from fsspec import AbstractFileSystem

from fastcam.dataset.decode import Limits
from fastcam.dataset.sources.base import IMAGE_SUFFIXES, Item, check_unique, digest_lines, relative_names

MAX_LABEL_BYTES = 4095


class WebDatasetSource:
    """WebDataset tar files: members whose names are equal up to the first dot form one sample.

    Members are read by their offsets in the tar file; nothing is extracted.
    """

    def __init__(self, system: AbstractFileSystem, paths: Sequence[str]) -> None:
        self.system, self.paths = system, paths
        names = relative_names(paths)
        self.samples = [sample for path in paths for sample in self._scan(path, names[path])]
        if not self.samples:
            raise ValueError("there are no pictures in the tar files")
        check_unique([image_id for image_id, *_ in self.samples])

    def _scan(self, path: str, tar_name: str) -> Iterator[tuple[str, str, int, int, str | None]]:
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

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.samples)

    def digest(self) -> str:
        """Return a digest of the image ids, offsets and sizes."""
        return digest_lines([f"{image_id}@{offset}+{size}" for image_id, _, offset, size, _ in self.samples])

    def items(self, start: int, stop: int) -> Iterator[Item]:
        """Yield the images from position ``start`` to ``stop``."""
        for image_id, path, offset, size, label in self.samples[start:stop]:
            yield Item(image_id, path, label, functools.partial(self._read_member, path, offset, size))

    def _read_member(self, path: str, offset: int, size: int, limits: Limits) -> bytes:
        limits.check_bytes(size)
        data: bytes = self.system.cat_file(path, start=offset, end=offset + size)
        return data


def _read_text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = tar.extractfile(member)
    return "" if file is None else file.read().decode("utf-8", "replace").strip()
