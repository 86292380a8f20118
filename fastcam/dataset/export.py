"""Maps of a dataset for other programs: overlays, a Zarr group, WebDataset tar files."""

import io
import itertools
import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fastcam import render
from fastcam.classifiers.preprocessing import Preprocessing, write_png
from fastcam.dataset.decode import Limits, decode
from fastcam.dataset.reader import Maps
from fastcam.dataset.sources import source_of

Row = dict[str, Any]
_FACTS = ("image_id", "path", "sha256", "label", "target", "predicted", "score", "method", "layer", "status")


def to_overlays(maps: Maps, out: str | Path, source: Any, *, colormap: str = "jet", alpha: float = 0.5) -> int:
    """PNG files of the maps over what the model saw of the images, in the folders of the source.

    Args:
        maps: what to draw.
        out: the folder; a file is called ID.METHOD.png, with layer and class where an image has several.
        source: what :func:`fastcam.dataset.run` was given; images of encoded bytes.
        colormap: "jet" or any name known to matplotlib.
        alpha: share of the colour, 0 to 1.

    Returns:
        The number of files.

    Raises:
        ValueError: for another source than that of the maps, or maps that are no pictures.
        OSError: where the folder cannot be written.
    """
    images = source_of(source)
    if images.digest() != maps.identity["source"]:
        raise ValueError("`source` is not the one that the maps were made of")
    seen_as = _preprocessing(maps.identity["preprocessing"])
    limits, count = Limits(**{**maps.identity["limits"], "formats": tuple(maps.identity["limits"]["formats"])}), 0
    for commit in maps.commits:
        for item in images.items(commit.start, commit.stop):
            rows = [row for row in maps.rows(item.id) if row["map"] is not None]
            if not rows:
                continue
            data = item.read(limits)
            if not isinstance(data, bytes):
                raise ValueError("overlays are drawn on encoded images; this source has none")
            picture = np.asarray(seen_as.crop(decode(data, limits)).convert("RGB"))
            found = np.stack(maps.maps(item.id))
            if found.shape[1:] != picture.shape[:2]:
                raise ValueError(f"maps of shape {found.shape[1:]} do not lie on images of {picture.shape[:2]}")
            drawn = render.overlay(np.stack([picture] * len(rows)), found, colormap, alpha)
            for row, pixels in zip(rows, drawn, strict=True):
                file = Path(out) / f"{_inside(item.id)}.{_suffix(row, rows)}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                write_png(Image.fromarray(pixels), file)
                count += 1
    return count


def to_zarr(maps: Maps, out: str | Path, dtype: str = "float16") -> int:
    """A Zarr v3 group: full-size ``maps`` (rows, *S) in [0, 1], and an array of every other column beside them.

    Where a column has none there stands "" or -1.

    Args:
        maps: what to write.
        out: the folder; it must not exist yet.
        dtype: of the maps.

    Returns:
        The number of rows.

    Raises:
        ValueError: where there is nothing to write, or zarr is not installed.
        FileExistsError: where the folder is there.
    """
    try:
        import zarr
    except ImportError:
        raise ValueError('Zarr needs the package: pip install "zarr>=3"') from None
    rows, count = maps.each(), sum(each.rows - each.failed for each in maps.commits)
    first = next(rows, None)
    if first is None:
        raise ValueError("there are no maps to write")
    size = first[1].shape
    if Path(out).exists():
        raise FileExistsError(17, "the folder is there already", str(out))
    group = zarr.open_group(str(out), mode="w-", zarr_format=3)
    group.attrs.update({"identity": maps.identity})
    kept = group.create_array("maps", shape=(count, *size), dtype=dtype, chunks=(min(64, count), *size))
    facts: dict[str, list[Any]] = {name: [] for name in _FACTS}
    start = 0
    for batch in _batches(itertools.chain([first], rows), 64):
        kept[start : start + len(batch)] = np.stack([found for _, found in batch])
        start += len(batch)
        for name, values in facts.items():
            values += [row[name] for row, _ in batch]
    for name, values in facts.items():
        if all(value is None or isinstance(value, str) for value in values):
            group.create_array(name, shape=count, dtype=str)[:] = np.array([value or "" for value in values], object)
        else:
            group.create_array(name, data=np.array([-1 if value is None else value for value in values]))
    return count


def to_webdataset(maps: Maps, out: str | Path, per_tar: int = 10_000) -> int:
    """Tar files of samples: ``KEY.json`` with the row, ``KEY.npy`` with the full-size map as float16.

    Args:
        maps: what to write.
        out: the folder; files are called maps-000000.tar and so on.
        per_tar: rows in a file.

    Returns:
        The number of rows.

    Raises:
        OSError: where the folder cannot be written, or holds such files already.
    """
    folder, count = Path(out), 0
    folder.mkdir(parents=True, exist_ok=True)
    for number, batch in enumerate(_batches(maps.each(), per_tar)):
        with tarfile.open(folder / f"maps-{number:06d}.tar", "x") as tar:
            for row, found in batch:
                buffer = io.BytesIO()
                np.save(buffer, found.astype(np.float16))
                facts = json.dumps({name: row[name] for name in _FACTS}).encode()
                for suffix, data in (("json", facts), ("npy", buffer.getvalue())):
                    member = tarfile.TarInfo(f"{count:09d}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
                count += 1
    return count


def _preprocessing(values: Mapping[str, Any]) -> Preprocessing:
    found: dict[str, Any] = {name: tuple(each) if isinstance(each, list) else each for name, each in values.items()}
    return Preprocessing(**found)


def _inside(name: str) -> str:
    """A path below the folder, whatever an id says."""
    return "/".join(part for part in name.replace("://", "/").split("/") if part not in ("", ".", ".."))


def _suffix(row: Row, rows: list[Row]) -> str:
    """What tells a row of an image from its others."""
    parts = [row["method"]]
    for name in ("layer", "target"):
        if len({each[name] for each in rows}) > 1:
            parts.append(str(row[name]))
    return ".".join(parts)


def _batches(rows: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while batch := list(itertools.islice(rows, size)):
        yield batch
