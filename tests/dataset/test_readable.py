"""The shards as other programs read them: as they are, without a line of ours."""

import datasets
import duckdb
import numpy as np
import pandas
import polars
import pytest

import fastcam.dataset
from fastcam.dataset import reader
from tests.dataset.small import SETTINGS, folder, network

COLUMNS = [
    *("image_id", "path", "sha256", "label", "target", "predicted", "score", "method", "layer", "status"),
    *("map", "map_shape", "map_dtype", "map_scale"),
]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    path = tmp_path_factory.mktemp("readable")
    source = folder(path / "in", 9)
    (source / "cats" / "bad.jpg").write_bytes(b"bad")
    fastcam.dataset.run(source, network(), path / "out", method=["grad_cam", "layer_cam"], **SETTINGS)
    return path / "out"


@pytest.fixture(scope="module")
def expected(out):
    """All rows, as the reader of this package has them."""
    maps = fastcam.dataset.open(out)
    return [row for name in maps for row in maps.rows(name)]


def check(rows, expected):
    assert [list(row) for row in rows] == [COLUMNS] * len(expected)
    for row, wanted in zip(rows, expected, strict=True):
        shape, found = row["map_shape"], dict(row)
        found["map_shape"] = None if shape is None else list(shape)
        found["score"] = None if row["score"] is None else pytest.approx(row["score"])
        assert {**found, "map_scale": None} == {**wanted, "map_scale": None}


def test_as_arrow(out, expected):
    check(fastcam.dataset.open(out).dataset().to_table().to_pylist(), expected)
    assert len(expected) == 19
    assert expected[5]["map"] != expected[6]["map"]


def test_duckdb(out, expected):
    found = duckdb.sql(f"select * from read_parquet('{out}/shards/*.parquet') order by filename, file_row_number")
    check([dict(zip(COLUMNS, row[: len(COLUMNS)], strict=True)) for row in found.fetchall()], expected)
    ((count, mean),) = duckdb.sql(
        f"select count(*), avg(score) from '{out}/shards/*.parquet' where status = 'ok' and method = 'grad_cam'"
    ).fetchall()
    chosen = [row for row in expected if row["status"] == "ok" and row["method"] == "grad_cam"]
    assert count == len(chosen)
    assert mean == pytest.approx(np.mean([row["score"] for row in chosen]))


def test_polars(out, expected):
    check(polars.read_parquet(f"{out}/shards/*.parquet").to_dicts(), expected)


def test_pandas(out, expected):
    frame = pandas.read_parquet(out / "shards")
    assert list(frame.columns) == COLUMNS
    assert frame["image_id"].tolist() == [row["image_id"] for row in expected]
    row = frame[frame["status"] == "ok"].iloc[0]
    values = np.frombuffer(row["map"], row["map_dtype"]).reshape(row["map_shape"]) * row["map_scale"]
    assert np.abs(values).max() == pytest.approx(row["map_scale"])


def test_hugging_face(out, expected, tmp_path):
    files = sorted(map(str, (out / "shards").glob("*.parquet")))
    found = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))
    check(list(found), expected)


def test_shards_stay_in_memory_up_to_a_limit(out, expected, monkeypatch):
    read = []

    class Watched(fastcam.dataset.Maps):
        def read_shard(self, commit):
            read.append(commit.start)
            return super().read_shard(commit)

    def rows_of_all(maps):
        return [row for name in [*maps, *maps] for row in maps.rows(name)]

    assert rows_of_all(Watched(out)) == expected * 2
    assert read == [0, 4, 8]
    read.clear()
    monkeypatch.setattr(reader, "MAX_CACHED_BYTES", 1)
    assert rows_of_all(Watched(out)) == expected * 2
    assert read == [0, 4, 8] * 2
