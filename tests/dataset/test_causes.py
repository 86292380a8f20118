"""Why maps show nothing is kept beside the columns, so that folders from before can be read and resumed."""

import json

import duckdb
import polars
import pyarrow.parquet as pq
import torch

import fastcam.dataset
from fastcam.dataset import store
from fastcam.dataset.rows import in_order
from fastcam.dataset.summary import count_causes, problems
from tests.dataset.small import SETTINGS, folder, network


def negative_network():
    """A network whose Grad-CAM has no positive part: the classifier's weights are negative, its inputs are not."""
    model = network()
    with torch.no_grad():
        model.classifier.weight.copy_(-model.classifier.weight.abs())
    return model


def run(source, out):
    return fastcam.dataset.run(source, negative_network(), out, **{**SETTINGS, "target_layer": "relu"})


def test_causes_are_those_of_the_explanation(tmp_path):
    run(folder(tmp_path / "in", 6), tmp_path / "out")
    maps = fastcam.dataset.open(tmp_path / "out")
    assert [maps.rows(name)[0]["status"] for name in maps] == ["constant map"] * 6
    assert [row["cause"] for row in problems(maps)] == ["all negative"] * 6
    assert count_causes(maps) == {"all negative": 6}
    assert "cause" not in maps.dataset().schema.names


def test_a_folder_from_before_is_read_and_resumed(tmp_path, monkeypatch):
    source, out = folder(tmp_path / "in", 6), tmp_path / "out"
    with monkeypatch.context() as before:
        before.setattr(store, "in_order", lambda rows: (in_order(rows)[0], {}))
        run(source, out)
    first, second = sorted((out / "shards").glob("*.parquet"))
    old = first.read_bytes()
    assert "causes" not in json.loads(pq.read_schema(first).metadata[b"fastcam"])
    maps = fastcam.dataset.open(out)
    assert [row["cause"] for row in problems(maps)] == [""] * 6
    maps.store.record(maps.commits[1].span).unlink()
    second.unlink()
    assert run(source, out).new == 2
    maps = fastcam.dataset.open(out)
    assert first.read_bytes() == old
    assert [row["cause"] for row in problems(maps)] == [""] * 4 + ["all negative"] * 2
    assert count_causes(maps) == {"all negative": 2}
    assert len(polars.read_parquet(f"{out}/shards/*.parquet")) == 6
    assert len(duckdb.sql(f"select * from '{out}/shards/*.parquet'").fetchall()) == 6
    assert fastcam.dataset.verify(out) == []
