"""Small square pictures of a dataset's images, and the whole ones that a sheet shows."""

import functools
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeAlias

import fsspec
import numpy as np
from PIL import Image, ImageOps

from fastcam.classifiers.preprocessing import open_photograph, to_rgb
from fastcam.dataset.decode import Limits
from fastcam.dataset.sources import Item, SourceLike, source_of
from fastcam.dataset.workers import MAX_THREADS, usable_cores
from fastcam.features.reader import Features
from fastcam.render import Bytes

Read: TypeAlias = Callable[[], bytes]
_DRAFT = 2  # times the side that a JPEG file is decoded at least, before it is resized


@dataclass(frozen=True)
class Thumbnails:
    """The pictures of images by their places in the features, (side, side, 3) bytes each.

    Attributes:
        features: of the images.
        source: what the features were made of, where the images are no files of their own; None reads their paths.
        side: in pixels.
        limits: limits of the images.
    """

    features: Features
    source: "SourceLike | None" = None
    side: int = 64
    limits: Limits = field(default_factory=Limits)

    def __call__(self, places: Sequence[int], report: Callable[[int], None] = lambda done: None) -> dict[int, Bytes]:
        """Return the pictures of some images; each is read once, on threads.

        Args:
            places: of the images.
            report: called with the number of pictures that are there.

        Raises:
            ValueError: for images that cannot be read any more.
        """
        wanted = list(dict.fromkeys(int(place) for place in places))
        reads, pictures = self._reads(wanted), {}
        with ThreadPoolExecutor(min(MAX_THREADS, usable_cores()), "fastcam-decode") as threads:
            for place, picture in zip(wanted, threads.map(self._picture, reads), strict=True):
                pictures[place] = picture
                report(len(pictures))
        return pictures

    def _picture(self, read: Read) -> Bytes:
        return np.asarray(thumbnail(read(), self.side, self.limits))

    def _reads(self, places: Sequence[int]) -> Iterator[Read]:
        """Yield what reads each image."""
        if self.source is None:
            paths = self.features.images["path"]
            return (functools.partial(_read_path, paths[place].as_py(), self.limits) for place in places)
        ids = [self.features.ids[place] for place in places]
        items = items_of(self.source, ids)
        return (functools.partial(read_item, items[name], self.limits) for name in ids)


def thumbnail(data: bytes, side: int, limits: Limits) -> Image.Image:
    """Return the middle square of an encoded image, upright; a JPEG file is decoded at a fraction of its size.

    Raises:
        ValueError: for data that cannot be decoded, or exceed the limits.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about metadata
        with open_photograph(io.BytesIO(data), limits.formats) as image:
            limits.check(image.size, len(data))
            image.draft("RGB", (_DRAFT * side, _DRAFT * side))
            return ImageOps.fit(to_rgb(image), (side, side), Image.Resampling.BICUBIC)


def _read_path(path: str | None, limits: Limits) -> bytes:
    try:
        with fsspec.open(path, "rb") as file:
            data: bytes = file.read(limits.bytes + 1)
    except Exception as error:  # of any file system
        raise ValueError(f"the image {path!r} cannot be read at its path ({error}): name the source") from None
    limits.check_bytes(len(data))
    return data


def items_of(source: SourceLike, ids: Sequence[str]) -> dict[str, Item]:
    """Return images of a source by their ids.

    Raises:
        ValueError: if the source does not have one of them.
    """
    images, wanted = source_of(source), set(ids)
    items = {item.id: item for item in images.items(0, len(images)) if item.id in wanted}
    if len(items) < len(wanted):
        missing = sorted(wanted - items.keys())[0]
        raise ValueError(f"the source has no image {missing!r}: it is not the one that the run was over")
    return items


def read_item(item: Item, limits: Limits) -> bytes:
    """Return the encoded bytes of an image.

    Raises:
        ValueError: for a sample that is not encoded, or is too large.
    """
    data = item.read(limits)
    if not isinstance(data, bytes):
        raise ValueError("pictures need encoded images; this source has none")
    return data
