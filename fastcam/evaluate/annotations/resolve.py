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
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".xml")


class Annotations:
    """The annotations of a dataset, looked up by image id.

    Args:
        names: of all annotated images, or of files that are named as these.
        get: from such a name, and the id of the image, to its annotation; may raise a ValueError or OSError.
        digest: changes with what is annotated.
    """

    def __init__(self, names: Iterable[str], get: Callable[[str, str], Annotation], digest: str) -> None:
        self._names, self._get, self.digest = list(names), get, digest
        self._known = set(self._names)
        self._by_stem: defaultdict[str, list[str]] = defaultdict(list)
        for name in self._names:
            self._by_stem[posixpath.basename(without_suffix(name))].append(name)

    def __len__(self) -> int:
        """Return the number of annotated images."""
        return len(self._names)

    def __getitem__(self, image_id: str) -> Annotation:
        """Return the annotation of an image; one that is missing or broken has no regions, and a reason.

        An id is looked for as it is, then without its suffix, then by the end of its path: ``1.jpg`` and ``cats/1.jpg``
        may be one image, ``dogs/1.jpg`` and ``cats/1.jpg`` are not.
        """
        found = self._find(image_id)
        if len(found) > 1:
            return Annotation(image_id, reason=f"several annotations have this name: {found[0]!r}, {found[1]!r}")
        if not found:
            others = self._by_stem.get(posixpath.basename(without_suffix(image_id)), [])
            elsewhere = f"; in another folder there is {others[0]!r}" if others else ""
            return Annotation(image_id, reason=f"there is no annotation{elsewhere}")
        try:
            return self._get(found[0], image_id)
        except (ValueError, OSError) as error:
            return Annotation(image_id, reason=f"the annotation cannot be read: {error}")

    def _find(self, image_id: str) -> list[str]:
        """Return the names that may be meant."""
        if image_id in self._known:
            return [image_id]
        path = without_suffix(image_id)
        named = self._by_stem.get(posixpath.basename(path), [])
        same = [name for name in named if without_suffix(name) == path]
        return same or [name for name in named if _is_end(without_suffix(name), path)]


def without_suffix(name: str) -> str:
    """Return a name without the suffix of a picture or an annotation; other dots belong to it."""
    path, suffix = posixpath.splitext(name)
    return path if suffix.lower() in SUFFIXES else name


def _is_end(first: str, second: str) -> bool:
    """Whether one path is the end of the other."""
    return f"/{first}".endswith(f"/{second}") or f"/{second}".endswith(f"/{first}")


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
            files = {
                file.relative_to(place).as_posix(): file
                for file in sorted(place.rglob("*"))
                if file.suffix.lower() == suffix and not file.name.startswith(".")
            }
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
