"""Where images come from: folders, lists, tar shards, Parquet files, PyTorch datasets; always in the same order."""

import functools
import hashlib
import posixpath
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from fastcam.dataset.decode import Limits

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})


@dataclass(frozen=True)
class Item:
    """One image of a dataset.

    Attributes:
        id: unique in the dataset, and the same in every run.
        path: where it lies.
        label: what the dataset says it shows, if anything.
        read: its encoded bytes, or what a PyTorch dataset returned; raises ValueError or OSError with the reason.
    """

    id: str
    path: str
    label: str | None
    read: Callable[[Limits], Any]


class Source(Protocol):
    """Images in a fixed order, readable from any position."""

    def __len__(self) -> int:
        """How many there are."""

    def digest(self) -> str:
        """What changes where an image is added, taken away or moved in the order."""

    def items(self, start: int, stop: int) -> Iterator[Item]:
        """The images from one position to another."""


def source_of(source: Any) -> Source:
    """The source that a user names.

    Args:
        source: a folder, searched with all its folders; a ``.tar`` (WebDataset) or ``.parquet`` file, a folder or glob
            of such, with ``{000..123}`` for numbers; a ``.txt`` file with a path a line; each a path or an fsspec
            URL. Or a sequence of paths, or a PyTorch dataset with a length.

    Raises:
        ValueError, TypeError: where there is nothing, or nothing that can be read from any position.
    """
    if isinstance(source, str | Path):
        return _named(str(source))
    if isinstance(source, Sequence) and all(isinstance(each, str | Path) for each in source):
        return Files.listed([str(each) for each in source])
    if hasattr(source, "batch_sampler"):  # a DataLoader
        from torch.utils.data import SequentialSampler

        if not isinstance(source.sampler, SequentialSampler):
            raise TypeError("a DataLoader must not shuffle: an interrupted run could not go on where it was")
        source = source.dataset
    if not (hasattr(source, "__getitem__") and hasattr(source, "__len__")):
        raise TypeError(
            "`source` must be a path, a URL, a list of paths or a dataset with __len__ and __getitem__, "
            f"got {type(source).__name__}"
        )
    return Samples(source)


def _named(name: str) -> Source:
    files = _numbered(name)
    if len(files) == 1 and name.endswith(".txt"):
        with fsspec.open(name, "rt", encoding="utf-8") as lines:
            return Files.listed([line.strip() for line in lines if line.strip()])
    system, root = fsspec.core.url_to_fs(files[0])
    if len(files) == 1 and system.isdir(root):
        found = sorted(system.find(root), key=lambda path: PurePosixPath(path).parts)
        found = [each for each in found if not _is_hidden(each[len(root) :])]
    else:
        paths = [fsspec.core.url_to_fs(each)[1] for each in files]
        found = [match for path in paths for match in (sorted(system.glob(path)) if "*" in path else [path])]
    if not system.exists(root) and "*" not in root:
        raise ValueError(f"there is nothing at {name!r}")
    kinds: dict[str, tuple[list[str], Callable[[list[str]], Source]]] = {
        "pictures": (
            [each for each in found if PurePosixPath(each).suffix.lower() in PICTURES],
            lambda paths: Files(system, paths, root if system.isdir(root) else ""),
        ),
        ".tar files": ([each for each in found if each.endswith(".tar")], functools.partial(Tars, system)),
        ".parquet files": ([each for each in found if each.endswith(".parquet")], functools.partial(Tables, system)),
    }
    there = [kind for kind, (paths, _) in kinds.items() if paths]
    if len(there) != 1:
        what = f"holds {' and '.join(there)}: name one kind with a glob" if there else f"holds no {', '.join(kinds)}"
        raise ValueError(f"{name!r} {what}")
    paths, kind = kinds[there[0]]
    return kind(paths)


def _is_hidden(inside: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(inside).parts)


def _numbered(name: str) -> list[str]:
    """A name with {000..123} as all the names it stands for."""
    found = re.search(r"\{(\d+)\.\.(\d+)\}", name)
    if found is None:
        return [name]
    numbers = range(int(found[1]), int(found[2]) + 1)
    return [f"{name[: found.start()]}{number:0{len(found[1])}d}{name[found.end() :]}" for number in numbers]


def _short(paths: Sequence[str]) -> dict[str, str]:
    """What tells the paths apart: each without the folder that all lie in."""
    common = posixpath.commonpath([posixpath.dirname(each) for each in paths])
    return {each: posixpath.relpath(each, common or None) for each in paths}


def _digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(lines).encode("utf-8", "surrogatepass")).hexdigest()


def _check_unique(ids: Sequence[str]) -> None:
    seen: set[str] = set()
    for each in ids:
        if each in seen:
            raise ValueError(f"image id {each!r} stands twice in the source: ids must be unique")
        seen.add(each)


def _read(system: Any, path: str, limits: Limits) -> bytes:
    limits.check_bytes(system.size(path) or 0)
    data: bytes = system.cat_file(path)
    return data


class Files:
    """Files of a folder, their labels the names of the folders they lie in; or of a list."""

    def __init__(self, system: Any, paths: Sequence[str], root: str) -> None:
        self.system, self.paths, self.root = system, paths, root
        self.ids = [each[len(root) :].lstrip("/") if root else each for each in paths]
        _check_unique(self.ids)

    @classmethod
    def listed(cls, paths: Sequence[str]) -> "Files":
        """The files of a list, all of one file system."""
        if not paths:
            raise ValueError("the list of paths is empty")
        system, _ = fsspec.core.url_to_fs(paths[0])
        found = cls(system, [fsspec.core.url_to_fs(each)[1] for each in paths], "")
        found.ids = list(paths)
        return found

    def __len__(self) -> int:
        """Number of files."""
        return len(self.paths)

    def digest(self) -> str:
        """Of their names."""
        return _digest(self.ids)

    def items(self, start: int, stop: int) -> Iterator[Item]:
        """The files from one position to another."""
        for index in range(start, stop):
            path, name = self.paths[index], self.ids[index]
            folder = PurePosixPath(name).parent.name if self.root else ""
            yield Item(name, path, folder or None, functools.partial(_read, self.system, path))


class Tars:
    """WebDataset: tar files in which the members with one name before the first dot are one sample.

    Members are read where they lie in the file; nothing is extracted.
    """

    def __init__(self, system: Any, paths: Sequence[str]) -> None:
        self.system, self.paths = system, paths
        names = _short(paths)
        self.samples = [sample for path in paths for sample in self._scan(path, names[path])]
        if not self.samples:
            raise ValueError("there are no pictures in the tar files")
        _check_unique([each[0] for each in self.samples])

    def _scan(self, path: str, tar_name: str) -> Iterator[tuple[str, str, int, int, str | None]]:
        """(id, tar, offset, bytes, label) of every picture, from the members' headers."""
        pictures: dict[str, tuple[int, int]] = {}
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
                        if f".{suffix.lower()}" in PICTURES:
                            pictures.setdefault(key, (member.offset_data, member.size))
                        elif suffix in ("cls", "label") and member.size < 4096:
                            labels[key] = _text(tar, member)
            except (tarfile.TarError, EOFError, ValueError) as error:
                raise ValueError(f"{path!r} is no uncompressed tar file that can be read: {error}") from None
        for key, (offset, size) in pictures.items():
            yield f"{tar_name}/{key}", path, offset, size, labels.get(key)

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.samples)

    def digest(self) -> str:
        """Of their names and places."""
        return _digest([f"{name}@{offset}+{size}" for name, _, offset, size, _ in self.samples])

    def items(self, start: int, stop: int) -> Iterator[Item]:
        """The pictures from one position to another."""
        for name, path, offset, size, label in self.samples[start:stop]:
            yield Item(name, path, label, functools.partial(self._member, path, offset, size))

    def _member(self, path: str, offset: int, size: int, limits: Limits) -> bytes:
        limits.check_bytes(size)
        data: bytes = self.system.cat_file(path, start=offset, end=offset + size)
        return data


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = tar.extractfile(member)
    return "" if file is None else file.read().decode("utf-8", "replace").strip()


class Tables:
    """Parquet files with a column of images: bytes, or {bytes, path} as Hugging Face datasets have them."""

    def __init__(self, system: Any, paths: Sequence[str]) -> None:
        self.system, self.paths = system, paths
        self.names, self.starts = _short(paths), [0]
        for path in paths:
            with self._opened(path) as file:
                _image_column(file.schema_arrow, path)  # better now than in the middle
                self.starts.append(self.starts[-1] + file.metadata.num_rows)

    def _opened(self, path: str) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(path, filesystem=self.system)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path!r} is no Parquet file that can be read: {_first_line(error)}") from None

    def __len__(self) -> int:
        """Number of rows."""
        return self.starts[-1]

    def digest(self) -> str:
        """Of the files' names and numbers of rows."""
        return _digest([f"{self.names[path]}:{start}" for path, start in zip(self.paths, self.starts[1:], strict=True)])

    def items(self, start: int, stop: int) -> Iterator[Item]:
        """The rows from one position to another."""
        for path, first, last in zip(self.paths, self.starts, self.starts[1:], strict=False):
            if first < stop and last > start:
                yield from self._rows(path, max(start, first) - first, min(stop, last) - first)

    def _rows(self, path: str, start: int, stop: int) -> Iterator[Item]:
        with self._opened(path) as file:
            image = _image_column(file.schema_arrow, path)
            label = next((name for name in ("label", "labels", "cls") if name in file.schema_arrow.names), None)
            first = 0
            for group in range(file.num_row_groups):
                last = first + file.metadata.row_group(group).num_rows
                if first < stop and last > start:
                    columns = [image] + ([label] if label else [])
                    for batch in file.iter_batches(64, row_groups=[group], columns=columns):
                        for index in range(len(batch)):
                            if start <= first + index < stop:
                                yield self._item(path, first + index, batch, index, image, label)
                        first += len(batch)
                first = last

    def _item(self, path: str, row: int, batch: pa.RecordBatch, index: int, image: str, label: str | None) -> Item:
        value = batch.column(image)[index].as_py()
        named = value.get("path") if isinstance(value, dict) else None
        data = value.get("bytes") if isinstance(value, dict) else value
        given = None if label is None else batch.column(label)[index].as_py()
        name = f"{self.names[path]}:{row}"
        return Item(name, named or name, None if given is None else str(given), functools.partial(_bytes, data))


def _bytes(data: bytes | None, limits: Limits) -> bytes:
    if data is None:
        raise ValueError("the row holds no bytes of an image")
    limits.check_bytes(len(data))
    return data


def _image_column(schema: pa.Schema, path: str) -> str:
    def holds_images(kind: pa.DataType) -> bool:
        if pa.types.is_struct(kind):
            return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    found = [field.name for field in schema if holds_images(field.type)]
    for name in ("image", "img", "jpg"):
        if name in found:
            return name
    if len(found) != 1:
        raise ValueError(f"{path!r} must have one column of image bytes, got {found or schema.names}")
    return found[0]


class Samples:
    """A PyTorch dataset with a length; a sample is an image or (image, label)."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.dataset)

    def digest(self) -> str:
        """Of their number, all that is known without loading them."""
        return _digest([type(self.dataset).__name__, str(len(self))])

    def items(self, start: int, stop: int) -> Iterator[Item]:
        """The samples from one position to another."""
        for index in range(start, stop):
            yield Item(str(index), str(index), None, functools.partial(self._sample, index))

    def _sample(self, index: int, limits: Limits) -> Any:
        return self.dataset[index]


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0]
