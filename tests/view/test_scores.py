"""Measured values as columns beside the maps."""

import numpy as np
import pytest

import fastcam.dataset
import fastcam.evaluate.datasets
from fastcam.view import Table
from fastcam.view.conditions import Condition
from tests.dataset.test_detections import run as run_detector
from tests.dataset.test_detections import write_squares
from tests.view.served import classifier, maps_of, photographs

pytestmark = pytest.mark.usefixtures("one_thread")
OPTIONS = {"target_layer": "1", "target": ["top2"], "workers": 1, "batch_size": 4}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Maps of one model by two folders, values measured on the first's, and values measured with the model."""
    root = tmp_path_factory.mktemp("scores")
    source = photographs(root / "photos")
    maps = [maps_of(source, root / "first"), maps_of(source, root / "second", ("hires_cam",))]
    fastcam.evaluate.datasets.run_on_maps(maps[0], root / "sparse", ["sparseness", "complexity"])
    fastcam.evaluate.datasets.run(source, classifier(), root / "true", ["deletion"], method=["grad_cam"], **OPTIONS)
    return root, maps


@pytest.fixture(scope="module")
def table(made):
    root, maps = made
    table = Table(maps, [root / "sparse", root / "true"])
    yield table
    table.close()


def measured(root, name):
    """Values by image, method and class."""
    rows = fastcam.evaluate.datasets.open(root / name).dataset().to_table().to_pylist()
    return {
        (row["image_id"], row["method"], row["target"], row["measure"]): row["value"]
        for row in rows
        if row["measure"] is not None
    }


def test_every_row_has_its_values(made, table):
    root, _ = made
    values = {**measured(root, "sparse"), **measured(root, "true")}
    assert table.measures == ["complexity", "deletion", "sparseness"]
    rows = table.page([], "place", False, 0, 1000)
    for row in rows:
        for name in table.measures:
            of_maps = name == "deletion" or row["store"] == 0  # values of stored maps are of that folder alone
            wanted = values.get((row["image_id"], row["method"], row["target"], name)) if of_maps else None
            assert row[name] == (None if wanted is None or np.isnan(wanted) else wanted)
    assert sum(row["deletion"] is not None for row in rows) == 24
    assert sum(row["sparseness"] is not None for row in rows) == 48


def test_they_order_filter_and_are_distributed(table):
    found = [row["deletion"] for row in table.page([], "deletion", True, 0, 24)]
    assert found == sorted(found, reverse=True)
    middle = found[12]
    above = table.count([Condition("deletion", "at least", middle, table.columns)])
    assert above == sum(value >= middle for value in found)
    assert sum(table.histogram("deletion", [])["counts"]) == 24


def test_detections_of_one_class_have_no_value_of_their_own(tmp_path):
    """Rows that the values cannot be told apart by have none, instead of another's."""
    source = write_squares(tmp_path / "in")
    run_detector(source, tmp_path / "maps")
    fastcam.evaluate.datasets.run_on_maps(tmp_path / "maps", tmp_path / "scores", ["sparseness"])
    table = Table([tmp_path / "maps"], [tmp_path / "scores"])
    found = {(row["image_id"], row["detection"]): row["sparseness"] for row in table.page([], "place", False, 0, 10)}
    table.close()
    assert found["a.png", 1] is None
    assert found["a.png", 2] is None
    assert found["c.png", 1] is not None


def test_what_is_refused(made, tmp_path):
    root, maps = made
    with pytest.raises(ValueError, match="holds no measured values"):
        Table(maps, [maps[0]])
    with pytest.raises(ValueError, match="are not of these maps"):
        Table([maps[1]], [root / "sparse"])
    with pytest.raises(ValueError, match="a column already"):
        Table(maps, [root / "sparse", root / "sparse"])
