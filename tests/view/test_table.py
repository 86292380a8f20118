"""Rows, filters, orders, histograms and tags of folders of maps, beside what the folders hold."""

import json

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

import fastcam.dataset
from fastcam.view import Photographs, Table, Tags
from fastcam.view.conditions import COLUMNS, MOST, OPERATORS, Condition, read_conditions, where
from fastcam.view.pictures import MapValues
from tests.view.served import NAMES, classifier, maps_of, photographs

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("view")
    source = photographs(root / "photos")
    return [maps_of(source, root / "first"), maps_of(source, root / "second", ("hires_cam",))]


@pytest.fixture(scope="module")
def rows(folders):
    """All rows of both folders in order, with what the table adds worked out here."""
    found = []
    for store, folder in enumerate(folders):
        maps = fastcam.dataset.open(folder)
        for name in maps:
            for row in maps.rows(name):
                row |= {"store": store, "place": len(found)}
                row["target_name"] = None if row["target"] is None else NAMES[row["target"]]
                row["predicted_name"] = None if row["predicted"] is None else NAMES[row["predicted"]]
                row["is_right"] = None if row["predicted"] is None else row["label"] == row["predicted_name"]
                found.append(row)
    return found


@pytest.fixture(scope="module")
def table(folders):
    table = Table(folders)
    yield table
    table.close()


def everything(table, conditions=(), sort="place", is_descending=False):
    return table.page(list(conditions), sort, is_descending, 0, 1000)


def test_all_rows_in_order(table, rows):
    found = everything(table)
    assert table.count() == len(found) == len(rows) == 2 * 12 * 2 + 1 + 12 * 2 + 1
    names = ("place", "store", "image_id", "label", "target", "predicted", "method", "layer", "status", "target_name")
    for one, other in zip(found, rows, strict=True):
        assert {name: one[name] for name in names} == {name: other[name] for name in names}
        assert one["is_right"] == other["is_right"]
        assert one["score"] == (None if other["score"] is None else pytest.approx(other["score"]))


TESTS = {
    "is": lambda value, wanted: value is not None and value == wanted,
    "is not": lambda value, wanted: value is None or value != wanted,
    "contains": lambda value, wanted: value is not None and wanted.lower() in value.lower(),
    "at least": lambda value, wanted: value is not None and value >= wanted,
    "at most": lambda value, wanted: value is not None and value <= wanted,
    "is missing": lambda value, wanted: value is None,
    "is there": lambda value, wanted: value is not None,
}
VALUES = {"label": "red", "target": 1, "score": 0.3, "is_right": True, "image_id": "LIME/0", "method": "hires_cam"}


@pytest.mark.parametrize("column", VALUES)
def test_conditions(table, rows, column):
    kind = COLUMNS[column]
    for operator in OPERATORS[kind]:
        value = None if operator in ("is missing", "is there") else VALUES[column]
        found = everything(table, [Condition(column, operator, value)])
        wanted = [row["place"] for row in rows if TESTS[operator](row.get(column), value)]
        assert [row["place"] for row in found] == wanted, operator
        assert table.count([Condition(column, operator, value)]) == len(wanted)


def test_several_conditions_hold_together(table, rows):
    found = everything(table, [Condition("label", "is", "red"), Condition("score", "at least", 0.3)])
    assert [row["place"] for row in found] == [
        row["place"] for row in rows if row["label"] == "red" and (row["score"] or 0) >= 0.3
    ]


@pytest.mark.parametrize("is_descending", [False, True])
@pytest.mark.parametrize("sort", ["score", "image_id", "place"])
def test_orders(table, rows, sort, is_descending):
    found = [row["place"] for row in everything(table, sort=sort, is_descending=is_descending)]
    with_value = [row for row in rows if row[sort] is not None]
    without = [row["place"] for row in rows if row[sort] is None]
    value = (lambda row: row[sort]) if sort != "score" else (lambda row: np.float32(row[sort]))
    expected = sorted(with_value, key=value, reverse=is_descending)
    assert [value(rows[place]) for place in found[: len(expected)]] == [value(row) for row in expected]
    assert found[len(expected) :] == without
    part = table.page([], sort, is_descending, 7, 5)
    assert [row["place"] for row in part] == found[7:12]


def test_histograms(table, rows):
    found = table.histogram("score", [Condition("label", "is", "blue")])
    scores = [row["score"] for row in rows if row["score"] is not None]
    assert found["low"] == pytest.approx(min(scores))
    assert found["high"] == pytest.approx(max(scores))
    chosen = [row["score"] for row in rows if row["label"] == "blue" and row["score"] is not None]
    counts, _ = np.histogram(np.float32(chosen), 40, (found["low"], found["high"]))
    assert sum(found["counts"]) == len(chosen)
    assert np.abs(np.cumsum(found["counts"]) - np.cumsum(counts)).max() <= 2  # values at the edge of a bin


def test_map_values(table, rows, folders):
    data = MapValues(table).encoded([0, 3, len(rows) - 1])
    length = int.from_bytes(data[:4], "little")
    heads = json.loads(data[4 : 4 + length])
    values = np.frombuffer(data[4 + length :], "<u2")
    assert rows[-1]["map"] is None  # of the broken file
    assert [head["place"] for head in heads] == [0, 3]
    for head in heads:
        row = rows[head["place"]]
        stored = np.frombuffer(row["map"], row["map_dtype"]).reshape(row["map_shape"]) * np.float64(row["map_scale"])
        part = values[head["start"] : head["start"] + stored.size].reshape(stored.shape)
        found = head["low"] + part / 65535 * (head["high"] - head["low"])
        np.testing.assert_allclose(found, stored, atol=1e-3 * max(1e-9, abs(stored).max()))


def test_tags_come_back(folders, rows, tmp_path):
    table = Table(folders)
    tags = Tags(table)
    table.tag([2, 5], 4)
    table.tag([len(rows) - 2], 1)
    table.tag([5], 7)
    tags.save()
    table.close()
    again = Table(folders)
    kept = Tags(again)
    assert {row["place"]: row["tag"] for row in everything(again) if row["tag"]} == {2: 4, 5: 7, len(rows) - 2: 1}
    again.tag([2, 5, len(rows) - 2], None)
    kept.save()
    again.close()
    assert pq.read_table(folders[0] / "tags.parquet").num_rows == 0
    assert len(fastcam.dataset.open(folders[0])) == 13  # the folder is read as before


BAD = [
    {"column": "map", "operator": "is", "value": "x"},
    {"column": "score; DROP TABLE rows", "operator": "is", "value": 1},
    {"column": "label", "operator": "OR 1=1", "value": "x"},
    {"column": "label", "operator": "is", "value": 3},
    {"column": "score", "operator": "is", "value": "3"},
    {"column": "score", "operator": "is", "value": True},
    {"column": "is_right", "operator": "is", "value": 1},
    {"column": "label", "operator": "is missing", "value": "x"},
    {"column": "label", "operator": "is", "value": "x" * 2000},
    {"column": ["label"], "operator": "is", "value": "x"},
    {"column": "label", "operator": "is"},
    {"column": "label", "operator": "is", "value": "x", "more": 1},
    {"column": "label", "operator": ["is"], "value": "x"},
    "label = 1",
    None,
]


@pytest.mark.parametrize("condition", BAD)
def test_conditions_that_are_none(condition):
    with pytest.raises((ValueError, TypeError)):
        read_conditions([condition])


def test_what_conditions_are_made_of():
    text, values = where([Condition("label", "contains", "'; DROP TABLE rows; --"), Condition("tag", "is there")])
    assert text == 'WHERE contains(lower("label"), lower(?)) AND "tag" IS NOT NULL'
    assert values == ["'; DROP TABLE rows; --"]
    with pytest.raises(ValueError, match="at most"):
        read_conditions([{"column": "tag", "operator": "is there"}] * (MOST + 1))
    with pytest.raises(ValueError, match="list"):
        read_conditions({"column": "tag"})


def test_labels_that_are_no_classes_are_neither_right_nor_wrong(tmp_path):
    source = photographs(tmp_path / "p")
    (source / "lime").rename(source / "others")
    table = Table([maps_of(source, tmp_path / "maps")])
    found = {(row["label"], row["is_right"]) for row in table.page([], "place", False, 0, 100)}
    table.close()
    assert found == {("red", True), ("red", False), ("blue", True), ("others", None), ("red", None)}


def test_a_folder_given_twice(folders):
    with pytest.raises(ValueError, match="given twice"):
        Table([folders[0], folders[0]])


def test_another_source_is_refused(folders, tmp_path):
    table = Table(folders)
    source = folders[0].parent / "photos"
    Photographs(table, str(source)).check()
    Photographs(table, None).check()
    with pytest.raises(ValueError, match="`source` is not the one"):
        Photographs(table, str(source / "red")).check()
    table.close()


def test_the_database_reads_no_file_any_more(table, tmp_path):
    (tmp_path / "secret.csv").write_text("a\n1\n")
    for text in (
        f"SELECT * FROM '{tmp_path}/secret.csv'",
        "SET enable_external_access = true",
        f"COPY rows TO '{tmp_path}/out.csv'",
        "INSTALL httpfs",
    ):
        with pytest.raises(duckdb.Error):
            table.query(text)
    assert not (tmp_path / "out.csv").exists()


def test_a_folder_without_names_of_classes(tmp_path):
    source = photographs(tmp_path / "p")
    model = classifier()
    fastcam.dataset.run(
        source, model.model, tmp_path / "m", target_layer="1", preprocessing=model.preprocessing, workers=1
    )
    table = Table([tmp_path / "m"])
    found = everything(table)
    table.close()
    assert {row["target_name"] for row in found} == {row["is_right"] for row in found} == {None}
    assert {row["target"] for row in found} == {0, 1, 2, None}


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="maps"):
        Table([tmp_path])
    with pytest.raises(ValueError, match="sorted by place"):
        raise_of_sort(tmp_path)


def raise_of_sort(folder):
    source = photographs(folder / "p")
    table = Table([maps_of(source, folder / "m", ("hires_cam",))])
    try:
        table.page([], "score DESC; --", False, 0, 1)
    finally:
        table.close()
