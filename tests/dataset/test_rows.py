"""The rows of a shard, made in columns: what they hold, in which order, and in which bytes."""

import numpy as np
import pyarrow as pa
import pytest
import torch

import fastcam
from fastcam.dataset import rows
from fastcam.dataset.loading import LoadedImage
from fastcam.dataset.rows import COLUMNS, in_order, rows_of_failures, rows_of_maps
from fastcam.dataset.sources import Item
from fastcam.dataset.table import SCHEMA, MapFormat, encode_shard
from tests.dataset.small import network

pytestmark = pytest.mark.usefixtures("one_thread")


def image(number: int, label: str | None = "cat") -> LoadedImage:
    return LoadedImage(Item(f"{number}.jpg", f"in/{number}.jpg", label, lambda limits: b""), label, "5f" * 32, None)


def explained(targets, methods=("grad_cam", "layer_cam"), **options):
    pictures = torch.randn(len(targets), 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return list(fastcam.Explainer(network(), list(methods), "features", **options)(pictures, targets).values())


@pytest.mark.parametrize(
    "map_format", [MapFormat(), MapFormat("input", "float32"), MapFormat("native", "uint8")], ids=str
)
def test_every_value(map_format):
    targets = [[2, 0, 2], [1, 1, 1]]
    found = explained(targets)
    made, _ = in_order([rows_of_maps(found, map_format, [image(0), image(1, None)], [0, 1])])
    values = [map_format.encode(each) for each in found]
    expected = [
        {
            "image_id": f"{i}.jpg",
            "path": f"in/{i}.jpg",
            "sha256": "5f" * 32,
            "label": ["cat", None][i],
            "target": targets[i][k],
            "predicted": int(found[m].output[i].argmax()),
            "score": float(found[m].scores[i, k]),
            "method": ["grad_cam", "layer_cam"][m],
            "layer": "features",
            "status": "ok",
            "map": values[m][0][i, k].tobytes(),
            "map_shape": list(values[m][0].shape[2:]),
            "map_dtype": map_format.dtype,
            "map_scale": None if values[m][1] is None else float(values[m][1][i, k]),
        }
        for i, classes in enumerate(([0, 1], [0]))  # the places of classes that did not come before
        for m in range(2)
        for k in classes
    ]
    assert made.to_pylist() == expected
    assert made.schema == SCHEMA
    assert encode_shard(made, {"a": "b"}) == encode_shard(pa.Table.from_pylist(expected, SCHEMA), {"a": "b"})


def test_maps_of_more_bytes_than_a_chunk_holds(monkeypatch):
    tables = [rows_of_maps(explained([0, 1, 2]), MapFormat(), [image(i) for i in range(3)], [0, 1, 2])]
    expected = in_order(tables)[0]
    monkeypatch.setattr(rows, "MAX_CHUNK_BYTES", 2 * len(expected["map"][0].as_py()) + 1)
    chunked = rows_of_maps(explained([0, 1, 2]), MapFormat(), [image(i) for i in range(3)], [0, 1, 2])
    assert chunked["map"].num_chunks == 4  # two methods of three maps, two maps a chunk
    assert encode_shard(in_order([chunked])[0], {}) == encode_shard(expected, {})


def test_the_order_of_the_images_whatever_the_order_they_were_made_in():
    first, second, third = (explained([1], ["grad_cam"]) for _ in range(3))
    tables = [
        rows_of_failures([image(3), image(1)], [3, 1], ["damaged", "too large"]),
        rows_of_maps(third, MapFormat(), [image(4)], [4]),
        rows_of_maps(first, MapFormat(), [image(0)], [0]),
        rows_of_maps(second, MapFormat(), [image(2)], [2]),
    ]
    found, causes = in_order(tables)
    assert found["image_id"].to_pylist() == [f"{i}.jpg" for i in range(5)]
    assert found["status"].to_pylist() == ["ok", "too large", "ok", "damaged", "ok"]
    assert found["map"].null_count == found["score"].null_count == found["method"].null_count == 2
    assert causes == {}


def test_causes_are_numbered_by_row():
    pictures = torch.randn(1, 3, 16, 16)
    negative = network()
    with torch.no_grad():
        negative.classifier.weight.copy_(-negative.classifier.weight.abs())
    (constant,) = fastcam.Explainer(negative, ["grad_cam"], "relu")(pictures, 1).values()
    tables = [
        rows_of_maps([constant], MapFormat(), [image(2)], [2]),
        rows_of_failures([image(1)], [1], ["damaged"]),
        rows_of_maps(explained([[0, 1]], ["grad_cam"]), MapFormat(), [image(0)], [0]),
    ]
    found, causes = in_order(tables)
    assert found["status"].to_pylist() == ["ok", "ok", "damaged", "constant map"]
    assert causes == {"3": "all negative"}


def test_scores_and_scales_that_are_not_finite():
    (found,) = explained([0, 1], ["grad_cam"])
    found.native[1] = float("nan")
    found.scores[0] = float("inf")
    made, _ = in_order([rows_of_maps([found], MapFormat(), [image(0), image(1)], [0, 1])])
    assert made["score"].to_pylist()[0] == float("inf")
    assert made["map"].null_count == made["map_scale"].null_count == 0
    assert np.isnan(np.frombuffer(made["map"][1].as_py(), np.float16)).all()


def test_no_rows():
    found, causes = in_order([])
    assert (found.num_rows, causes, found.schema) == (0, {}, SCHEMA)
    assert COLUMNS.names[: len(SCHEMA)] == SCHEMA.names
