"""The conversion of what a user passes as `source` to an image source."""

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

from fsspec import AbstractFileSystem

from fastcam.dataset.sources.base import IMAGE_SUFFIXES, Source
from fastcam.dataset.sources.files import FileSource, join, names_below
from fastcam.dataset.sources.parquet import ParquetSource
from fastcam.dataset.sources.path_list import PathList
from fastcam.dataset.sources.remote import named_errors, open_system
from fastcam.dataset.sources.torch_dataset import SizedDataset, TorchDatasetSource
from fastcam.dataset.sources.webdataset import WebDatasetSource

if TYPE_CHECKING:
    from torch.utils.data import DataLoader, Dataset

SourceLike: TypeAlias = (
    "str | Path | Sequence[str | Path] | SizedDataset | Dataset[object] | DataLoader[object] | Source"
)


def source_of(source: SourceLike) -> Source:
    """Return the image source for a path, URL, list or dataset.

    Args:
        source: a folder, searched recursively; a ``.tar`` (WebDataset) or ``.parquet`` file, a folder or glob of such,
            with ``{000..123}`` for a range of numbers; a ``.txt`` file with one path per line; each a path or an
            fsspec URL. Or a sequence of paths, a PyTorch dataset with a length, or a source itself.

    Raises:
        ValueError, TypeError: for a source that is empty or cannot be read from any position.
    """
    if isinstance(source, str | Path):
        with named_errors(str(source)):
            return _resolve_name(str(source))
    if isinstance(source, Sequence) and all(isinstance(path, str | Path) for path in source):
        return FileSource.from_list(map(str, source))
    if hasattr(source, "items") and hasattr(source, "digest"):
        return cast(Source, source)
    dataset: object = source
    if hasattr(source, "batch_sampler"):  # a DataLoader
        from torch.utils.data import SequentialSampler

        loader = cast("DataLoader[object]", source)
        if not isinstance(loader.sampler, SequentialSampler):
            raise TypeError("a DataLoader must not shuffle: an interrupted run could not be resumed")
        dataset = loader.dataset
    if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise TypeError(
            "`source` must be a path, a URL, a list of paths or a dataset with __len__ and __getitem__, "
            f"got {type(dataset).__name__}"
        )
    return TorchDatasetSource(cast(SizedDataset, dataset))


def _resolve_name(name: str) -> Source:
    names = _expand_range(name)
    if len(names) == 1 and name.endswith(".txt"):
        system, path = open_system(name)
        with system.open(path, "rt", encoding="utf-8") as lines:
            return FileSource.from_list(line.strip() for line in lines if line.strip())
    system, root = open_system(names[0])
    if not system.exists(root) and "*" not in root:
        raise ValueError(f"there is nothing at {name!r}")
    folder = root if len(names) == 1 and system.isdir(root) else ""
    pictures, tars, tables = _by_kind(names_below(system, folder) if folder else _matching(system, names))
    kinds: dict[str, tuple[Sized, Callable[[], Source]]] = {
        "pictures": (pictures, lambda: FileSource(system, pictures, folder)),
        ".tar files": (tars, lambda: WebDatasetSource(system, [join(folder, tar) for tar in tars])),
        ".parquet files": (tables, lambda: ParquetSource(system, [join(folder, table) for table in tables])),
    }
    present = [kind for kind, (found, _) in kinds.items() if len(found)]
    if len(present) != 1:
        if present:
            raise ValueError(f"{name!r} holds {' and '.join(present)}: name one kind with a glob")
        raise ValueError(f"{name!r} holds no {', '.join(kinds)}")
    return kinds[present[0]][1]()


def _matching(system: AbstractFileSystem, patterns: Sequence[str]) -> Iterator[str]:
    """Yield the paths that patterns name, in the order of the patterns, then of the names."""
    for pattern in (open_system(pattern)[1] for pattern in patterns):
        yield from sorted(system.glob(pattern)) if "*" in pattern else [pattern]


def _by_kind(names: Iterable[str]) -> tuple[PathList, list[str], list[str]]:
    """Return the names of pictures, tar files and Parquet files."""
    others: dict[str, list[str]] = {".tar": [], ".parquet": []}

    def pictures() -> Iterator[str]:
        for name in names:
            suffix = posixpath.splitext(name)[1]
            if suffix.lower() in IMAGE_SUFFIXES:
                yield name
            elif suffix in others:
                others[suffix].append(name)

    found = PathList(pictures())
    return found, others[".tar"], others[".parquet"]


def _expand_range(name: str) -> list[str]:
    """Return all names that a name with {000..123} stands for."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", name)
    if match is None:
        return [name]
    numbers = range(int(match[1]), int(match[2]) + 1)
    return [f"{name[: match.start()]}{number:0{len(match[1])}d}{name[match.end() :]}" for number in numbers]
