"""What went wrong in a folder of maps, and how often the predictions are the dataset's labels."""

from collections.abc import Iterator, Sequence

import pyarrow.compute as pc
import pyarrow.dataset as ds

from fastcam.dataset.reader import Maps
from fastcam.dataset.table import Row

PROBLEM_COLUMNS = ("image_id", "method", "layer", "target", "status")


def problems(maps: Maps, only_failed: bool = False) -> Iterator[Row]:
    """Yield :data:`PROBLEM_COLUMNS` of the rows that hold no good map, in the dataset's order.

    Args:
        maps: the maps.
        only_failed: whether to leave out maps that are constant or not finite; rows of failed images have no method.
    """
    chosen = pc.field("method").is_null()
    if not only_failed:
        chosen |= pc.field("status") != "ok"
    for name in [str(maps.store.shard(commit.span)) for commit in maps.commits]:
        shard = ds.dataset(name, format="parquet")
        yield from shard.to_table(list(PROBLEM_COLUMNS), filter=chosen).to_pylist()


def accuracy(maps: Maps, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return (right predictions, predictions) of every label that is the name of a class.

    Labels of a folder tree are the folders' names. Case does not count, and an underscore is a space. Labels that all
    are numbers are class indices.
    """
    table = maps.dataset().to_table(["image_id", "label", "predicted"])
    images = table.group_by("image_id", use_threads=False).aggregate([("label", "first"), ("predicted", "first")])
    pairs = zip(images["label_first"].to_pylist(), images["predicted_first"].to_pylist(), strict=True)
    known = [(label, predicted) for label, predicted in pairs if label is not None and predicted is not None]
    classes = _classes_of(sorted({label for label, _ in known}), names)
    counts = dict.fromkeys(classes, (0, 0))
    for label, predicted in known:
        if label in classes:
            right, total = counts[label]
            counts[label] = (right + (predicted in classes[label]), total + 1)
    return counts


def _classes_of(labels: Sequence[str], names: Sequence[str]) -> dict[str, set[int]]:
    """Return the classes that each label names; several classes can share a name."""
    if all(label.isdecimal() and int(label) < len(names) for label in labels):
        return {label: {int(label)} for label in labels}
    spelled = [_spelling(name) for name in names]
    found = {label: {i for i, name in enumerate(spelled) if name == _spelling(label)} for label in labels}
    return {label: classes for label, classes in found.items() if classes}


def _spelling(name: str) -> str:
    return name.replace("_", " ").strip().casefold()
