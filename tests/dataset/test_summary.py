"""How often predictions are the labels, counted by hand."""

from types import SimpleNamespace

import pyarrow as pa
import pyarrow.dataset as ds

from fastcam.dataset.summary import accuracy


def maps_of(*rows):
    """What holds the rows (image, label, predicted)."""
    columns = dict(zip(("image_id", "label", "predicted"), map(list, zip(*rows, strict=True)), strict=True))
    table = pa.table(columns, pa.schema([("image_id", pa.string()), ("label", pa.string()), ("predicted", pa.int32())]))
    return SimpleNamespace(dataset=lambda: ds.dataset(table))


def test_every_image_counts_once_and_failed_ones_do_not():
    maps = maps_of(
        ("a", "cat", 1), ("a", "cat", 1), ("b", "cat", 0), ("c", "dog", 0), ("d", "dog", None), ("e", "x", 0)
    )
    assert accuracy(maps, ["Dog", "Cat", "fox"]) == {"cat": (1, 2), "dog": (1, 1)}
    assert accuracy(maps, []) == {}


def test_a_name_of_two_classes_is_either():
    maps = maps_of(("a", "sea_lion", 2), ("b", "sea_lion", 0), ("c", "sea_lion", 1))
    assert accuracy(maps, ["Sea lion", "seal", "sea lion"]) == {"sea_lion": (2, 3)}


def test_labels_that_all_are_numbers_are_classes():
    rows = ("a", "0", 0), ("b", "0", 1), ("c", "1", 1), ("d", None, 1)
    assert accuracy(maps_of(*rows), ["x", "y"]) == {"0": (1, 2), "1": (1, 1)}
    assert accuracy(maps_of(*rows, ("e", "2024", 1)), ["x", "y"]) == {}
