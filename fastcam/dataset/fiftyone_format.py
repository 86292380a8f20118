"""A dataset of FiftyOne: images and their maps as heat maps, in the JSON format that it reads."""

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fastcam.classifiers.preprocessing import write_png
from fastcam.dataset.export import pictured, relative_path, source_of_maps
from fastcam.dataset.reader import Maps
from fastcam.dataset.records import JsonObject
from fastcam.dataset.sources import SourceLike
from fastcam.dataset.table import Row


def to_fiftyone(maps: Maps, out: str | Path, source: SourceLike) -> int:
    """Write a folder for ``fiftyone.Dataset.from_dir(dataset_dir=..., dataset_type=fiftyone.types.FiftyOneDataset)``.

    A sample is an image as cropped for the model, with fields ``ground_truth`` and ``prediction`` (where they are
    known) and a ``Heatmap`` for every map: named by its method, by the layer too where it was made for several, and
    numbered from the second of an image on. Heat maps have ``score``, ``target`` and ``target_name``. Detections have
    their boxes as well, in the field ``detections``, whose ``index`` is the number of the map.

    Args:
        maps: the maps.
        out: output folder; it must not exist.
        source: the source that was passed to :func:`fastcam.dataset.run`; its images must be encoded bytes.

    Returns:
        The number of maps.

    Raises:
        ValueError: for a source other than that of the maps, or maps that do not fit its images.
        FileExistsError: if the folder exists.
    """
    folder, names, count = Path(out), maps.class_names, 0
    images = source_of_maps(maps, source)
    if folder.exists():
        raise FileExistsError(17, "the folder already exists", str(out))
    folder.mkdir(parents=True)
    about = {"media_type": "image", "info": {"fastcam": maps.identity}}
    (folder / "metadata.json").write_text(json.dumps(about))
    unfinished = folder / "samples.json.part"  # without samples.json FiftyOne refuses the folder
    with unfinished.open("w") as file:
        file.write('{"samples": [')
        for number, (image_id, rows, picture, values) in enumerate(pictured(maps, images)):
            place = relative_path(image_id)
            path = folder / "data" / f"{place}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path, quality=95, subsampling=0)
            sample = {"filepath": f"data/{place}.jpg", "image_id": image_id, **_classes(rows[0], names)}
            for name, row, heat in zip(_field_names(rows), rows, values, strict=True):
                map_path = f"fields/{name}/{place}.png"
                (folder / map_path).parent.mkdir(parents=True, exist_ok=True)
                write_png(Image.fromarray(np.rint(heat * 255).astype(np.uint8)), folder / map_path)
                sample[name] = {"_cls": "Heatmap", "map_path": map_path, "range": [0, 255], **_facts(row, names)}
            if boxes := [_detection(row, names) for row in rows if row.get("box") is not None]:
                sample["detections"] = {"_cls": "Detections", "detections": _different(boxes)}
            file.write(("," if number else "") + "\n" + json.dumps(sample))
            count += len(rows)
        file.write("\n]}\n")
    unfinished.rename(folder / "samples.json")
    return count


def _classes(row: Row, names: Sequence[str]) -> JsonObject:
    """Return the fields of an image's label and predicted class."""
    found = {"ground_truth": row["label"], "prediction": _name_of(row["predicted"], names)}
    return {
        field: {"_cls": "Classification", "label": label} for field, label in found.items() if label not in (None, "")
    }


def _field_names(rows: Sequence[Row]) -> list[str]:
    """Return a field for every row of an image: such that rows of other images which mean the same have the same."""
    layers: dict[str, set[str]] = {}
    for row in rows:
        layers.setdefault(row["method"], set()).add(row["layer"])
    found, seen = [], Counter[str]()
    for row in rows:
        parts = [row["method"], row["layer"]] if len(layers[row["method"]]) > 1 else [row["method"]]
        name = re.sub(r"\W+", "_", "_".join(parts))
        seen[name] += 1
        number = row.get("detection") or seen[name]
        found.append(name if number == 1 else f"{name}_{number}")
    return found


def _facts(row: Row, names: Sequence[str]) -> JsonObject:
    """Return what is said of a row's map, as JSON has it."""
    score = row["score"]
    facts = {"target": row["target"], "target_name": _name_of(row["target"], names)}
    return {**facts, "score": score if score is not None and math.isfinite(score) else None}


def _detection(row: Row, names: Sequence[str]) -> JsonObject:
    """Return a row's box, by its corner, width and height as shares of the image."""
    left, top, right, bottom = row["box"]
    return {
        "_cls": "Detection",
        "label": _name_of(row["target"], names) or "",
        "bounding_box": [left, top, right - left, bottom - top],
        "confidence": row["confidence"],
        "index": row["detection"],
    }


def _different(boxes: Sequence[JsonObject]) -> list[JsonObject]:
    """Return boxes once, of which every method has one."""
    return list({box["index"]: box for box in boxes}.values())


def _name_of(number: int | None, names: Sequence[str]) -> str | None:
    """Return the name of a class, "class 3" where the run knew no names, None for no class."""
    if number is None:
        return None
    return names[number] if 0 <= number < len(names) else f"class {number}"
