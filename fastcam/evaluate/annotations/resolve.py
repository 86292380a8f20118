"""Finds the annotations of images: by the kind of file, and by the ids of the images."""

import functools
import hashlib
import posixpath
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from fastcam.evaluate.annotations import coco, masks, tables, voc
from fastcam.evaluate.annotations.regions import Annotation

Read = Callable[[Path, str], Annotation]


class Annotations:
    """The annotations of a dataset, looked up by image id.

    Args:
        names: of all annotated images, or of files that are named as these.
        get: from such a name, and the id of the image, to its annotation; may raise a ValueError or OSError.
        digest: changes with what is annotated.
    """

    def __init__(self, names: Iterable[str], get: Callable[[str, str], Annotation], digest: str) -> None:
        self._get, self.digest = get, digest
        self._by_path: dict[str, str] = {}
        self._by_stem: defaultdict[str, list[str]] = defaultdict(list)
        for name in names:
            self._by_path[name] = name
            self._by_path.setdefault(posixpath.splitext(name)[0], name)
            self._by_stem[posixpath.splitext(posixpath.basename(name))[0]].append(name)

    def __len__(self) -> int:
        """Return the number of annotated images."""
        return sum(map(len, self._by_stem.values()))

    def __getitem__(self, image_id: str) -> Annotation:
        """Return the annotation of an image; one that is missing or broken has no regions, and a reason.

        An id is looked for as it is, then without its suffix, then by the file name alone, if there is only one such.
        """
        path = posixpath.splitext(image_id)[0]
        name = self._by_path.get(image_id) or self._by_path.get(path)
        if name is None:
            named = self._by_stem.get(posixpath.basename(path), [])
            if len(named) > 1:
                return Annotation(image_id, reason=f"several annotations have this name: {named[0]!r}, {named[1]!r}")
            if not named:
                return Annotation(image_id, reason="there is no annotation")
            name = named[0]
        try:
            return self._get(name, image_id)
        except (ValueError, OSError) as error:
            return Annotation(image_id, reason=f"the annotation cannot be read: {error}")


def open_annotations(path: str | Path, one_based: bool = True) -> Annotations:
    """Return the annotations at a path.

    Args:
        path: a folder of XML files as of Pascal VOC or ILSVRC, or of PNG masks; a COCO JSON file; a CSV or Parquet file
            with a row for each box. See the readers in this package for their forms.
        one_based: whether XML counts pixels from 1, as Pascal VOC does, and not ILSVRC.

    Raises:
        ValueError: if there is nothing of the kind.
    """
    place = Path(path)
    if place.is_dir():
        readers: dict[str, Read] = {".xml": functools.partial(voc.read, one_based=one_based), ".png": masks.read}
        for suffix, read in readers.items():
            files = {file.relative_to(place).as_posix(): file for file in sorted(place.rglob(f"*{suffix}"))}
            if files:
                return _of_files(files, read)
        raise ValueError(f"{str(path)!r} holds no .xml and no .png files")
    whole = {".json": coco.read, ".csv": tables.read, ".parquet": tables.read}
    if not place.exists() or place.suffix not in whole:
        raise ValueError(
            f"annotations are a folder of .xml or .png files, or a file {', '.join(whole)}; got {str(path)!r}"
        )
    annotations = whole[place.suffix](place)
    digest = hashlib.sha256(place.read_bytes()).hexdigest()
    return Annotations(annotations, functools.partial(_named, annotations), digest)


def _of_files(files: Mapping[str, Path], read: Read) -> Annotations:
    described = "\n".join(f"{name} {file.stat().st_size}" for name, file in files.items())
    digest = hashlib.sha256(described.encode()).hexdigest()
    return Annotations(files, functools.partial(_read, files, read), digest)


def _read(files: Mapping[str, Path], read: Read, name: str, image_id: str) -> Annotation:
    return read(files[name], image_id)


def _named(annotations: Mapping[str, Annotation], name: str, image_id: str) -> Annotation:
    found = annotations[name]
    return Annotation(image_id, found.regions, found.size, found.reason, found.void)
