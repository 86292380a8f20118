"""Export of a dataset's maps: overlays, a Zarr group, WebDataset tar files."""

import contextlib
import hashlib
import io
import itertools
import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from fastcam import render
from fastcam.classifiers.preprocessing import Pixels, Preprocessing, write_png
from fastcam.dataset.decode import Limits, decode_image
from fastcam.dataset.detection_rows import FIELDS
from fastcam.dataset.reader import Maps
from fastcam.dataset.sources import Source, SourceLike, select, source_of
from fastcam.dataset.table import Map, Row

ZARR_CHUNK_SIZE = 64  # maps
_T = TypeVar("_T")
_COLUMNS = ("image_id", "path", "sha256", "label", "target", "predicted", "score", "method", "layer", "status")


def to_overlays(maps: Maps, out: str | Path, source: SourceLike, *, colormap: str = "jet", alpha: float = 0.5) -> int:
    """Write PNG files of the maps over the images as cropped for the model, in the folder structure of the source.

    Args:
        maps: the maps.
        out: output folder; files are named ID.METHOD.png, with layer and class if an image has several.
        source: the source that was passed to :func:`fastcam.dataset.run`; its images must be encoded bytes.
        colormap: "jet" or the name of a matplotlib colormap.
        alpha: opacity of the colours, 0 to 1.

    Returns:
        The number of files.

    Raises:
        ValueError: for a source other than that of the maps, or maps that do not fit its images.
        OSError: if the folder cannot be written.
    """
    count = 0
    for image_id, rows, picture, values in pictured(maps, source_of_maps(maps, source)):
        overlays = render.overlay(np.stack([picture] * len(rows)), values, colormap, alpha)
        for row, pixels in zip(rows, overlays, strict=True):
            file = Path(out) / f"{relative_path(image_id)}.{row_suffix(row, rows)}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            write_png(Image.fromarray(pixels), file)
            count += 1
    return count


def pictured(maps: Maps, images: Source) -> Iterator[tuple[str, list[Row], Pixels, Map]]:
    """Yield every image that has maps: id, rows, the image as cropped for the model (*S, 3), maps (rows, *S).

    Raises:
        ValueError: for a source of tensors, or maps that do not fit its images.
    """
    preprocessing = read_preprocessing(maps.identity["preprocessing"])
    limits = Limits.read(maps.identity["limits"])
    for commit in maps.commits:
        for item in images.items(commit.start, commit.stop):
            rows = [row for row in maps.rows(item.id) if row["map"] is not None]
            if not rows:
                continue
            data = item.read(limits)
            if not isinstance(data, bytes):
                raise ValueError("maps are laid over encoded images; this source has none")
            picture = np.asarray(preprocessing.crop(decode_image(data, limits)).convert("RGB"))
            values = np.stack(maps.maps(item.id))
            if values.shape[1:] != picture.shape[:2]:
                raise ValueError(f"maps of shape {values.shape[1:]} do not fit images of shape {picture.shape[:2]}")
            yield item.id, rows, picture, values


def source_of_maps(maps: Maps, source: SourceLike) -> Source:
    """Return the source of maps, which may be a part of the source that is given.

    Raises:
        ValueError: where it is another.
    """
    images = source_of(source)
    if images.digest() != maps.identity["source"]:
        with contextlib.suppress(ValueError):  # an image is missing
            images = select(images, ids=set(maps))
    if images.digest() != maps.identity["source"]:
        raise ValueError("`source` is not the one that the maps were made of")
    return images


def to_zarr(maps: Maps, out: str | Path, dtype: str = "float16") -> int:
    """Write a Zarr v3 group: full-size ``maps`` (rows, *S) in [0, 1], and one array per other column.

    Missing values are "" or -1.

    Args:
        maps: the maps.
        out: output folder; it must not exist.
        dtype: of the maps.

    Returns:
        The number of rows.

    Raises:
        ValueError: if there are no maps, or zarr is not installed.
        FileExistsError: if the folder exists.
    """
    try:
        import zarr
    except ImportError:
        raise ValueError('Zarr needs the package: pip install "zarr>=3"') from None
    rows, count = maps.each(), sum(commit.rows - commit.failed for commit in maps.commits)
    first = next(rows, None)
    if first is None:
        raise ValueError("there are no maps to write")
    size = first[1].shape
    if Path(out).exists():
        raise FileExistsError(17, "the folder already exists", str(out))
    group = zarr.open_group(str(out), mode="w-", zarr_format=3)
    group.attrs.update({"identity": maps.identity})
    array = group.create_array("maps", shape=(count, *size), dtype=dtype, chunks=(min(ZARR_CHUNK_SIZE, count), *size))
    columns: dict[str, list[Any]] = {name: [] for name in _columns_of(first[0])}
    start = 0
    for batch in _batches(itertools.chain([first], rows), ZARR_CHUNK_SIZE):
        array[start : start + len(batch)] = np.stack([values for _, values in batch])
        start += len(batch)
        for name, cells in columns.items():
            cells += [row[name] for row, _ in batch]
    for name, cells in columns.items():
        if all(cell is None or isinstance(cell, str) for cell in cells):
            group.create_array(name, shape=count, dtype=str)[:] = np.array([cell or "" for cell in cells], object)
        else:
            none = next(([-1] * len(cell) for cell in cells if isinstance(cell, list)), -1)
            group.create_array(name, data=np.array([none if cell is None else cell for cell in cells]))
    return count


def to_webdataset(maps: Maps, out: str | Path, per_tar: int = 10_000) -> int:
    """Write tar files of samples: ``KEY.json`` with the row, ``KEY.npy`` with the full-size map as float16.

    Args:
        maps: the maps.
        out: output folder; files are named maps-000000.tar and so on.
        per_tar: rows per file.

    Returns:
        The number of rows.

    Raises:
        OSError: if the folder cannot be written, or has such files already.
    """
    folder, count = Path(out), 0
    folder.mkdir(parents=True, exist_ok=True)
    for number, batch in enumerate(_batches(maps.each(), per_tar)):
        with tarfile.open(folder / f"maps-{number:06d}.tar", "x") as tar:
            for row, values in batch:
                buffer = io.BytesIO()
                np.save(buffer, values.astype(np.float16))
                columns = json.dumps({name: row[name] for name in _columns_of(row)}).encode()
                for suffix, data in (("json", columns), ("npy", buffer.getvalue())):
                    member = tarfile.TarInfo(f"{count:09d}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
                count += 1
    return count


def to_datasets(maps: Maps, out: str | Path) -> int:
    """Write a dataset of Hugging Face, for ``datasets.load_from_disk``: the rows, with full-size ``map``s in [0, 1].

    Args:
        maps: the maps.
        out: output folder; it must not exist.

    Returns:
        The number of rows.

    Raises:
        ValueError: if there are no maps, or the package is not installed.
        FileExistsError: if the folder exists.
    """
    try:
        import datasets
    except ImportError:
        raise ValueError("this export needs the package: pip install datasets") from None
    first = next(maps.each(), None)
    if first is None:
        raise ValueError("there are no maps to write")
    if Path(out).exists():
        raise FileExistsError(17, "the folder already exists", str(out))
    row, values = first
    columns, array = _columns_of(row), {1: None, 2: datasets.Array2D, 3: datasets.Array3D}[values.ndim]
    schema = maps.dataset().schema
    features = {name: datasets.features.features.generate_from_arrow_type(schema.field(name).type) for name in columns}
    plain = datasets.Sequence(datasets.Value("float32"), len(values))
    features["map"] = plain if array is None else array(values.shape, "float32")

    def rows() -> Iterator[dict[str, Any]]:
        yield from ({**{name: row[name] for name in columns}, "map": values} for row, values in maps.each())

    written = datasets.Dataset.from_generator(
        rows, features=datasets.Features(features), fingerprint=_fingerprint(maps)
    )
    written.save_to_disk(str(out))
    return len(written)


def _fingerprint(maps: Maps) -> str:
    """Return what tells these rows from all others, so that no earlier ones are taken from a cache."""
    return hashlib.sha256("".join(commit.sha256 for commit in maps.commits).encode()).hexdigest()[:32]


def _columns_of(row: Row) -> list[str]:
    """Return the columns that are exported with the maps: those of detections too, if there are any."""
    return [*_COLUMNS, *(field.name for field in FIELDS if field.name in row)]


def read_preprocessing(fields: Mapping[str, Any]) -> Preprocessing:
    """Return the preprocessing from its JSON object."""
    arguments: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
    }
    return Preprocessing(**arguments)


def relative_path(name: str) -> str:
    """Return an image id as a path that stays below the output folder."""
    return "/".join(part for part in name.replace("://", "/").split("/") if part not in ("", ".", ".."))


def row_suffix(row: Row, rows: list[Row]) -> str:
    """Return the part of a file name that distinguishes a row from the image's other rows."""
    parts = [row["method"]]
    for name in ("layer", "target", "detection"):
        if len({other.get(name) for other in rows}) > 1:
            parts.append(str(row[name]))
    return ".".join(parts)


def _batches(rows: Iterator[_T], size: int) -> Iterator[list[_T]]:
    while batch := list(itertools.islice(rows, size)):
        yield batch
