"""Feature vectors of datasets: the right numbers in the right rows, resumed, and readable by others."""

import duckdb
import numpy as np
import pandas
import polars
import pytest
import torch
from torch import nn

import fastcam.dataset
import fastcam.features
from fastcam.classifiers.models import Classifier
from fastcam.classifiers.preprocessing import read_photograph
from tests.dataset.small import PREPROCESSING, contents, folder, network

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS = {"preprocessing": PREPROCESSING, "shard_size": 4, "batch_size": 3}


def run(source, out, model=None, **options):
    return fastcam.features.run(source, model or network(), out, **{**SETTINGS, **options})


def expected_of(source, name, model=None):
    model = model or network()
    image = PREPROCESSING(read_photograph(source / name))[None]
    return model.features(model.stem(image)).relu().mean((2, 3))[0].detach().numpy(), model(image)[0]


def test_every_row_is_the_last_hidden_layer(tmp_path):
    source = folder(tmp_path / "in")
    done = run(source, tmp_path / "out")
    assert (done.total, done.new, done.failed) == (10, 10, 0)
    features = fastcam.features.open(tmp_path / "out")
    assert features.ids == sorted(str(each.relative_to(source)) for each in source.rglob("*.jpg"))
    assert features.vectors.dtype == np.float16
    for name, vector, row in zip(features.ids, features.vectors, features.images.to_pylist(), strict=True):
        hidden, output = expected_of(source, name)
        np.testing.assert_allclose(vector, hidden, rtol=2e-3, atol=1e-5)
        assert row["predicted"] == output.argmax().item()
        assert row["score"] == pytest.approx(output.max().item(), abs=1e-5)
        assert row["label"] == name.split("/")[0]
        assert row["layer"] == "input of classifier"


@pytest.mark.parametrize("pool", ["mean", "max", "none"])
def test_a_layer_by_name_in_float32(tmp_path, pool):
    source = folder(tmp_path / "in", 3)
    run(source, tmp_path / "out", layer="features", pool=pool, dtype="float32")
    features = fastcam.features.open(tmp_path / "out")
    assert features.vectors.dtype == np.float32
    for name, vector in zip(features.ids, features.vectors, strict=True):
        model = network()
        maps = model.features(model.stem(PREPROCESSING(read_photograph(source / name))[None]))[0].detach()
        wanted = {"mean": maps.mean((1, 2)), "max": maps.amax((1, 2)), "none": maps.flatten()}[pool]
        np.testing.assert_allclose(vector, wanted.numpy(), rtol=1e-5, atol=1e-6)


def test_resumed_by_the_same_command_and_refused_by_others(tmp_path):
    source = folder(tmp_path / "in")
    run(source, tmp_path / "out")
    whole = contents(tmp_path / "out")
    for name in ("commits", "shards"):
        for file in sorted((tmp_path / "out" / name).iterdir())[1:]:
            file.unlink()
    assert run(source, tmp_path / "out").new == 6
    assert contents(tmp_path / "out") == whole
    for options, word in (
        ({"layer": "features"}, "features"),
        ({"pool": "max"}, "features"),
        ({"dtype": "float32"}, ""),
    ):
        with pytest.raises(ValueError, match=f"results of another run: {word}"):
            run(source, tmp_path / "out", **options)
    with pytest.raises(ValueError, match="results of another run: weights"):
        run(source, tmp_path / "out", network(2.0))


def test_images_without_a_vector(tmp_path):
    """One that cannot be read, one that is too large for the type; maps are no features."""
    source = folder(tmp_path / "in", 4)
    (source / "cats" / "bad.jpg").write_bytes(b"nothing")
    (source / "aaa.jpg").write_bytes(b"the first of all")
    assert run(source, tmp_path / "out").failed == 2
    features = fastcam.features.open(tmp_path / "out")
    assert len(features) == 4
    assert {"cats/bad.jpg", "aaa.jpg"}.isdisjoint(features.ids)
    model = network()
    with torch.no_grad():
        model.features[0].weight.mul_(1e6)
    run(source, tmp_path / "large", model)
    rows = fastcam.dataset.open(tmp_path / "large").dataset().to_table(["image_id", "status"]).to_pylist()
    statuses = {row["image_id"]: row["status"] for row in rows}
    assert statuses["cats/000.jpg"] == "larger than float16 holds: store float32"
    with pytest.raises(ValueError, match="holds no vector of any image"):
        fastcam.features.open(tmp_path / "large")
    fastcam.dataset.run(source, network(), tmp_path / "maps", target_layer="features", preprocessing=PREPROCESSING)
    with pytest.raises(ValueError, match="holds no vectors: `fastcam features` makes them, or"):
        fastcam.features.open(tmp_path / "maps")
    with pytest.raises(ValueError, match="holds no maps"):
        fastcam.features.open(tmp_path)


def test_other_programs_read_the_vectors(tmp_path):
    run(folder(tmp_path / "in", 5), tmp_path / "out")
    features = fastcam.features.open(tmp_path / "out")
    files = str(tmp_path / "out" / "shards" / "*.parquet")
    by_polars = np.stack(polars.read_parquet(files)["feature"].to_list())
    np.testing.assert_array_equal(by_polars.astype(np.float16), features.vectors)
    by_pandas = pandas.concat([pandas.read_parquet(file) for file in sorted((tmp_path / "out" / "shards").iterdir())])
    np.testing.assert_array_equal(np.stack(by_pandas["feature"]), features.vectors)
    ((first,),) = duckdb.sql(f"select feature from '{files}' where image_id = 'cats/000.jpg'").fetchall()
    np.testing.assert_array_equal(np.array(first, np.float16), features.vectors[0])


def test_names_of_classes_and_outputs_that_are_no_classes(tmp_path):
    source = folder(tmp_path / "in", 3)
    names = [f"class {index}" for index in range(network()(torch.rand(1, 3, 16, 16)).shape[1])]
    run(source, tmp_path / "named", Classifier(network(), PREPROCESSING, names))
    features = fastcam.features.open(tmp_path / "named")
    predicted = features.images["predicted"].to_pylist()
    assert features.texts("predicted") == [names[index] for index in predicted]
    assert features.texts("label") == ["cats", "dogs", "dogs"]

    class Several(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, images):
            return {"out": self.net(images), "images": images}

    run(source, tmp_path / "several", Several().eval(), layer="net.relu")
    found = fastcam.features.open(tmp_path / "several")
    assert found.images["predicted"].null_count == 3
    np.testing.assert_array_equal(found.vectors, features.vectors)


def test_vectors_of_several_lengths_are_refused(tmp_path):
    """Inputs of several sizes whose maps are kept whole: there is nothing to compare."""
    images = [(torch.rand(3, size, size), 0) for size in (16, 16, 24)]
    fastcam.features.run(images, network(), tmp_path / "out", layer="features", pool="none", batch_size=1)
    with pytest.raises(ValueError, match="the vectors have 512, 1152 numbers, of inputs of several sizes"):
        fastcam.features.open(tmp_path / "out")


def test_several_layers_are_refused(tmp_path):
    with pytest.raises(TypeError, match="`layer` must be one module of the model or its name"):
        run(folder(tmp_path / "in", 1), tmp_path / "out", layer=["features", "relu"])


@pytest.mark.parametrize(("options", "word"), [({"dtype": "int8"}, "dtype"), ({"pool": "sum"}, "pool")])
def test_mistakes_before_anything_is_written(tmp_path, options, word):
    with pytest.raises(ValueError, match=f"`{word}` must be one of"):
        run(folder(tmp_path / "in", 1), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
