"""Entropies, disagreements and means of stored maps, map by map in float64."""

import numpy as np
import pytest

import fastcam.dataset
from fastcam.view import Table
from fastcam.view.conditions import Condition
from fastcam.view.statistics import disagreements_of, entropies_of, statistics_of
from tests.view.served import maps_of, photographs

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("statistics")
    return maps_of(photographs(root / "photos"), root / "maps", ("grad_cam", "layer_cam", "hires_cam"))


@pytest.fixture(scope="module")
def rows(folder):
    maps = fastcam.dataset.open(folder)
    found = [row for name in maps for row in maps.rows(name)]
    for row in found:
        if row["map"] is not None:
            values = np.frombuffer(row["map"], row["map_dtype"]).astype(np.float64).reshape(row["map_shape"])
            row["values"] = values * row["map_scale"]
    return found


def test_entropies(folder, rows):
    found = statistics_of(fastcam.dataset.open(folder)).entropy
    for row, entropy in zip(rows, found, strict=True):
        positive = np.zeros(1) if row["map"] is None else row["values"].clip(0)
        if positive.sum() == 0:
            assert np.isnan(entropy)
            continue
        shares = positive[positive > 0] / positive.sum()
        assert entropy == pytest.approx(-(shares * np.log(shares)).sum() / np.log(positive.size), abs=1e-5)


def test_ends_of_the_entropy():
    one = np.zeros((1, 4, 4), np.float32)
    one[0, 1, 2] = 5
    assert entropies_of(np.concatenate([one, np.ones((1, 4, 4), np.float32), -one])).tolist() == pytest.approx(
        [0, 1, np.nan], nan_ok=True
    )


def test_disagreements(folder, rows):
    found = statistics_of(fastcam.dataset.open(folder)).disagreement
    seen = 0
    for number, row in enumerate(rows):
        others = [
            other
            for other in rows
            if other is not row and (other["image_id"], other["target"]) == (row["image_id"], row["target"])
        ]
        if row["map"] is None or np.ptp(row["values"]) == 0:
            assert np.isnan(found[number])
            continue
        alike = [
            np.corrcoef(row["values"].ravel(), other["values"].ravel())[0, 1]
            for other in others
            if np.ptp(other["values"]) > 0
        ]
        if alike:
            assert found[number] == pytest.approx(1 - np.mean(alike), abs=1e-4)
            seen += 1
    assert seen > 10


def test_the_opposite_disagrees_by_two():
    maps = np.arange(4, dtype=np.float32).reshape(1, 2, 2)
    both = np.concatenate([maps, -maps, maps])
    found = disagreements_of(both, np.array([0, 0, 1]))
    assert found[:2].tolist() == pytest.approx([2, 2])
    assert np.isnan(found[2])


def test_means(folder, rows):
    found = statistics_of(fastcam.dataset.open(folder)).means
    keys = {(row["method"], row["layer"], row["target"]) for row in rows if row["map"] is not None}
    assert set(found) == keys
    for key in keys:
        maps = [row["values"] for row in rows if (row["method"], row["layer"], row["target"]) == key]
        scaled = [(each - each.min()) / (np.ptp(each) or 1) for each in maps]
        np.testing.assert_allclose(found[key], np.mean(scaled, 0), atol=1e-5)


def test_rows_are_sorted_and_filtered_by_them(folder):
    expected = statistics_of(fastcam.dataset.open(folder))
    table = Table([folder])
    found = table.page([Condition("entropy", "at least", 0.5)], "disagreement", True, 0, 1000)
    table.close()
    chosen = np.flatnonzero(expected.entropy >= 0.5)
    assert sorted(row["place"] for row in found) == chosen.tolist()
    values = [row["disagreement"] for row in found if row["disagreement"] is not None]
    assert values == sorted(values, reverse=True)
    assert len(values) == np.isfinite(expected.disagreement[chosen]).sum()
