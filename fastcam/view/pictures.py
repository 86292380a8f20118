"""What the page draws: the stored maps as numbers, and the photographs as the model saw them."""

import contextlib
import io
import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from fastcam.dataset.decode import Limits, decode_image
from fastcam.dataset.export import read_preprocessing
from fastcam.dataset.reader import Maps
from fastcam.dataset.sources import Item, Source, source_of
from fastcam.dataset.table import Row
from fastcam.view.table import Table

_STEPS = 65535  # of a map's values between its lowest and highest
_LISTED = 4  # shards whose images are listed at a time
_KEPT_BYTES = 64 * 2**20  # of thumbnails


def encoded(maps: Sequence[tuple[Row, npt.NDArray[np.float32]]]) -> bytes:
    """Return maps for the page, each with what is said of it: see :meth:`MapValues.encoded`."""
    heads, parts, start = [], [], 0
    for said, values in maps:
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        clean = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
        steps = (clean - low) / ((high - low) or 1.0) * _STEPS
        heads.append({**said, "shape": list(values.shape), "low": low, "high": high, "start": start})
        parts.append(steps.round().astype("<u2").tobytes())
        start += values.size
    listed = json.dumps(heads).encode()
    listed += b" " * (-len(listed) % 4)
    return len(listed).to_bytes(4, "little") + listed + b"".join(parts)


class MapValues:
    """The values of stored maps.

    Args:
        table: of the rows.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        self._lock = threading.Lock()

    def encoded(self, places: Sequence[int]) -> bytes:
        """Return the maps of rows: the length of a JSON list as 4 bytes, the list, and the values, all little-endian.

        Each object of the list has "place", "shape", "low", "high" and "start", the number of its first value; values
        are 16-bit, 0 for low and 65535 for high. A row without a map is left out; NaN and infinity are low.
        """
        found = []
        for place, (store, shard, row, _) in sorted(self.table.locations(places).items()):
            values = self._values(self.table.stores[store], shard, row)
            if values is not None:
                found.append(({"place": place}, values))
        return encoded(found)

    def values(self, place: int) -> npt.NDArray[np.float32] | None:
        """Return the map of a row, None where it has none."""
        store, shard, row, _ = self.table.locations([place])[place]
        return self._values(self.table.stores[store], shard, row)

    def scaled(self, place: int) -> npt.NDArray[np.float32] | None:
        """Return the map of a row (h, w) from 0 to 1, None where it has none; NaN and infinity are 0."""
        values = self.values(place)
        if values is None:
            return None
        finite = np.isfinite(values)
        low, high = (values[finite].min(), values[finite].max()) if finite.any() else (0, 0)
        shares = np.where(finite, values - low, 0) / ((high - low) or 1)
        result: npt.NDArray[np.float32] = shares.reshape(-1, shares.shape[-1]).astype(np.float32)
        return result

    def _values(self, maps: Maps, shard: int, row: int) -> npt.NDArray[np.float32] | None:
        with self._lock:
            table, _ = maps.cached_shard(maps.commits[shard])
        cells = table.slice(row, 1).to_pylist()[0]
        if cells["map"] is None:
            return None
        values = np.frombuffer(cells["map"], cells["map_dtype"]).reshape(cells["map_shape"]).astype(np.float32)
        scale = 1 / 255 if cells["map_scale"] is None else cells["map_scale"]
        return values * np.float32(scale)


class Photographs:
    """The photographs of a source, as the model of each folder of maps saw them.

    Args:
        table: of the rows.
        source: as for ``fastcam map``; None for none.

    Raises:
        ValueError: for a source that cannot be read.
    """

    def __init__(self, table: Table, source: str | None) -> None:
        self.table = table
        self.source: Source | None = None if source is None else source_of(source)
        self.root = Path(source).resolve() if source is not None and Path(source).is_dir() else None
        self._listed: OrderedDict[tuple[int, int], dict[str, Item]] = OrderedDict()
        self._kept: OrderedDict[tuple[int, str, int], bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def check(self) -> None:
        """Refuse a source that is not the one of any of the folders of maps.

        Raises:
            ValueError: for such a source.
        """
        if self.source is None:
            return
        digest = self.source.digest()
        for store, maps in enumerate(self.table.stores):
            first = next(iter(maps), None)
            with contextlib.suppress(LookupError):
                if digest == maps.identity.get("source") or (first is not None and self._item(store, 0, first)):
                    return
        raise ValueError("`source` is not the one that the maps were made of: their images are not in it")

    def picture(self, place: int, side: int) -> bytes:
        """Return the photograph of a row as a JPEG, cropped as its model saw it, with sides of at most ``side``.

        Raises:
            LookupError: for a row without a photograph here.
        """
        if self.source is None:
            raise LookupError("no photographs were given: fastcam view MAPS --source PHOTOS")
        found = self.table.locations([place])
        if place not in found:
            raise LookupError("there is no such row")
        store, shard, _, image_id = found[place]
        key = store, image_id, side
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        data = self._made(store, shard, image_id, side)
        with self._lock:
            self._kept[key] = data
            self._bytes += len(data)
            while self._bytes > _KEPT_BYTES and len(self._kept) > 1:
                self._bytes -= len(self._kept.popitem(last=False)[1])
        return data

    def pixels(self, place: int) -> npt.NDArray[np.uint8]:
        """Return the photograph of a row as (H, W, 3), grey where there is none."""
        try:
            return np.asarray(Image.open(io.BytesIO(self.picture(place, 512))))
        except LookupError:
            store = self.table.locations([place])[place][0]
            size = self.table.stores[store].identity["preprocessing"]["size"]
            return np.full((*size, 3), 128, np.uint8)

    def _made(self, store: int, shard: int, image_id: str, side: int) -> bytes:
        maps = self.table.stores[store]
        item = self._item(store, shard, image_id)
        if self.root is not None and not Path(item.path).resolve().is_relative_to(self.root):
            raise LookupError("the photograph lies outside of the source")
        limits = Limits.read(maps.identity["limits"])
        try:
            data = item.read(limits)
            if not isinstance(data, bytes):
                raise LookupError("the source has no encoded images")
            photograph = decode_image(data, limits)
        except (ValueError, OSError) as error:
            raise LookupError(f"the photograph cannot be read: {error}") from None
        seen = read_preprocessing(maps.identity["preprocessing"]).crop(photograph).convert("RGB")
        seen.thumbnail((side, side), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        seen.save(buffer, "JPEG", quality=85)
        return buffer.getvalue()

    def _item(self, store: int, shard: int, image_id: str) -> Item:
        """Return the image of the source that has the place of the row in its dataset, and the row's name."""
        key = store, shard
        with self._lock:
            if key not in self._listed:
                assert self.source is not None
                commit = self.table.stores[store].commits[shard]
                stop = min(commit.stop, len(self.source))
                self._listed[key] = {item.id: item for item in self.source.items(min(commit.start, stop), stop)}
                while len(self._listed) > _LISTED:
                    self._listed.popitem(last=False)
            if image_id not in self._listed[key]:
                raise LookupError("the source has no such image at this place: it is not the one of the maps")
            return self._listed[key][image_id]
