"""What went wrong in a folder of maps, and how often the predictions are the dataset's labels."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from fastcam.dataset.reader import Maps
from fastcam.dataset.table import Row

PROBLEM_COLUMNS = ("image_id", "method", "layer", "target", "status")


def problems(maps: Maps, only_failed: bool = False) -> Iterator[Row]:
    """Yield :data:`PROBLEM_COLUMNS` and "cause" of the rows that hold no good map, in the dataset's order.

    The cause is why a map shows nothing; "" where the status says all, or the shard is from before causes were kept.

    Args:
        maps: the maps.
        only_failed: whether to leave out maps that are constant or not finite; rows of failed images have no method.
    """
    chosen = pc.field("method").is_null()
    if not only_failed:
        chosen |= pc.field("status") != "ok"
    for name in [str(maps.store.shard(commit.span)) for commit in maps.commits]:
        table = ds.dataset(name, format="parquet").to_table(list(PROBLEM_COLUMNS))
        by_row = _causes(name)
        causes = [by_row.get(str(row), "") for row in range(len(table))]
        yield from table.append_column("cause", [causes]).filter(chosen).to_pylist()


def count_causes(maps: Maps) -> dict[str, int]:
    """Return how many maps show nothing by cause, the most frequent first, of the shards that hold causes."""
    counts: Counter[str] = Counter()
    for commit in maps.commits:
        counts.update(_causes(str(maps.store.shard(commit.span))).values())
    return dict(counts.most_common())


def _causes(shard: str) -> Mapping[str, str]:
    """Return the causes of a shard by the number of the row."""
    metadata = pq.read_schema(shard).metadata or {}
    causes: Mapping[str, str] = json.loads(metadata.get(b"fastcam", b"{}")).get("causes", {})
    return causes


def accuracy(maps: Maps, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return (right predictions, predictions) of every label that is the name of a class.

    Labels of a folder tree are the folders' names. Case does not count, and an underscore is a space. Labels that all
    are numbers are class indices.
    """
    table = maps.dataset().to_table(["image_id", "label", "predicted"])
    images = table.group_by("image_id", use_threads=False).aggregate([("label", "first"), ("predicted", "first")])
    pairs = zip(images["label_first"].to_pylist(), images["predicted_first"].to_pylist(), strict=True)
    known = [(label, predicted) for label, predicted in pairs if label is not None and predicted is not None]
    classes = classes_of_labels(sorted({label for label, _ in known}), names)
    counts = dict.fromkeys(classes, (0, 0))
    for label, predicted in known:
        if label in classes:
            right, total = counts[label]
            counts[label] = (right + (predicted in classes[label]), total + 1)
    return counts


def classes_of_labels(labels: Sequence[str], names: Sequence[str]) -> dict[str, set[int]]:
    """Return the classes that each label names; several classes can share a name."""
    if all(label.isdecimal() and int(label) < len(names) for label in labels):
        return {label: {int(label)} for label in labels}
    return classes_of_names(labels, names)


def classes_of_names(labels: Sequence[str], names: Sequence[str]) -> dict[str, set[int]]:
    """Return the classes of the labels that are names of classes; case does not count, and an underscore is a space."""
    spelled = _indices_by_spelling(tuple(names))
    found = {label: spelled.get(_spelling(label), set()) for label in labels}
    return {label: classes for label, classes in found.items() if classes}


@lru_cache(maxsize=4)
def _indices_by_spelling(names: tuple[str, ...]) -> dict[str, set[int]]:
    indices: dict[str, set[int]] = {}
    for index, name in enumerate(names):
        indices.setdefault(_spelling(name), set()).add(index)
    return indices


def _spelling(name: str) -> str:
    return name.replace("_", " ").strip().casefold()
