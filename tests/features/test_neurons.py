"""Neurons of a dataset: the shards together are one pass over all images, resumed, with copies and failures."""

import numpy as np
import pyarrow.parquet
import pytest
import torch

import fastcam
from fastcam.classifiers.models import Classifier
from fastcam.classifiers.preprocessing import read_photograph
from fastcam.features import neurons
from tests.dataset.small import PREPROCESSING, contents, folder, network

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS = {"preprocessing": PREPROCESSING, "shard_size": 4, "batch_size": 3, "layers": ["features", "classifier"]}


def run(source, out, model=None, **options):
    return neurons.run(source, model or network(), out, **{**SETTINGS, **options})


def inputs(source):
    files = sorted(source.rglob("*.jpg"))
    return files, torch.stack([PREPROCESSING(read_photograph(file)) for file in files])


@pytest.mark.parametrize("k", [1, 3, 20])
def test_the_shards_together_are_one_pass(tmp_path, k):
    source = folder(tmp_path / "in", 14)
    assert run(source, tmp_path / "out", k=k).new == 14
    found = neurons.Neurons(tmp_path / "out")
    files, images = inputs(source)
    survey = fastcam.inspect.survey(network(), images, SETTINGS["layers"], k=k)
    for name, seen in survey.items():
        top = found.top[name]
        assert top.size == seen.top.size
        count = min(k, 14)
        np.testing.assert_allclose(top.values[:, :count], seen.top.values, rtol=1e-5, atol=1e-6)
        assert (top.values[:, count:] == -torch.inf).all()
        for channel, rank in np.argwhere(seen.top.images.numpy() >= 0).tolist():
            image = found.images[int(top.images[channel, rank])]
            expected = files[int(seen.top.images[channel, rank])]
            assert image["image_id"] == str(expected.relative_to(source))
            assert image["label"] == expected.parent.name
            assert top.position(channel, rank) == seen.top.position(channel, rank)
    assert found.size == (16, 16)
    used = {int(place) for top in found.top.values() for place in top.images.flatten() if place >= 0}
    assert used == set(range(len(found.images)))  # no image is kept that is not among them


def test_memory_does_not_grow_with_the_images(tmp_path):
    """Only the images that are among the highest are known at the end."""
    source = folder(tmp_path / "in", 30)
    run(source, tmp_path / "out", k=1, layers="features")
    assert len(neurons.Neurons(tmp_path / "out").images) <= 8


def test_resumed_and_refused(tmp_path):
    source = folder(tmp_path / "in")
    run(source, tmp_path / "out")
    whole = contents(tmp_path / "out")
    for name in ("commits", "shards"):
        for file in sorted((tmp_path / "out" / name).iterdir())[:2]:
            file.unlink()
    assert run(source, tmp_path / "out").new == 8
    assert contents(tmp_path / "out") == whole
    with pytest.raises(ValueError, match="results of another run: neurons"):
        run(source, tmp_path / "out", k=5)
    fastcam.features.run(source, network(), tmp_path / "f", preprocessing=PREPROCESSING)
    with pytest.raises(ValueError, match="another command than `fastcam neurons`"):
        neurons.Neurons(tmp_path / "f")


def test_copies_and_failures(tmp_path):
    """A copy of an image in another shard is left out; an image that cannot be read gets a row with the reason."""
    source = folder(tmp_path / "in", 8)
    (source / "zzz").mkdir()
    (source / "zzz" / "copy.jpg").write_bytes((source / "cats" / "000.jpg").read_bytes())
    (source / "aaa.jpg").write_bytes(b"nothing")
    assert run(source, tmp_path / "out", k=20).failed == 1
    found = neurons.Neurons(tmp_path / "out")
    assert {"zzz/copy.jpg", "aaa.jpg"}.isdisjoint({image["image_id"] for image in found.images})
    assert (found.top["features"].images >= 0).sum(1).tolist() == [8] * 8
    table = pyarrow.parquet.read_table(sorted((tmp_path / "out" / "shards").iterdir())[0])
    (reason,) = [row["status"] for row in table.to_pylist() if row["image_id"] == "aaa.jpg"]
    assert reason != "ok"


def test_the_table(tmp_path):
    source = folder(tmp_path / "in", 5)
    run(source, tmp_path / "out", k=2, layers="features")
    found = neurons.Neurons(tmp_path / "out")
    field = fastcam.inspect.receptive_field(network(), "features", (16, 16))
    table = found.table({"features": field.box}).to_pylist()
    assert len(table) == 8 * 2
    survey = fastcam.inspect.survey(network(), inputs(source)[1], "features", k=2)
    for row, each in zip(table, fastcam.inspect.excitations(survey["features"], field), strict=True):
        assert (row["channel"], row["rank"]) == (each.channel, each.rank)
        assert row["value"] == pytest.approx(each.value, abs=1e-6)
        assert (row["row"], row["column"]) == each.position
        assert (row["left"], row["top"], row["right"], row["bottom"]) == each.box


def test_what_a_class_uses(tmp_path):
    """The means over the images in which the model sees the class, of weight times mean activation."""
    source = folder(tmp_path / "in", 12)
    images = inputs(source)[1]
    model = network()
    output = model(images)
    index = int(output.argmax(1).mode().values)
    names = [f"class {number}" for number in range(output.shape[1])]
    for number, target in enumerate((index, f"class {index}")):
        classifier = Classifier(network(), PREPROCESSING, names)
        run(source, tmp_path / f"out{number}", classifier, layers="relu", target=target, batch_size=5)
        found = neurons.Neurons(tmp_path / f"out{number}")
        chosen = images[output.argmax(1) == index]
        hidden = model.features(model.stem(chosen)).relu().mean((2, 3))
        expected = (hidden * model.classifier.weight[index]).mean(0).detach().double()
        assert found.class_images == len(chosen)
        np.testing.assert_allclose(found.contributions["relu"], expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="no class named 'dog'"):
        run(source, tmp_path / "none", Classifier(network(), PREPROCESSING, names), layers="relu", target="dog")


@pytest.mark.parametrize("target", ["top1", "Top3", "label", "objects"])
def test_a_class_of_its_own_for_each_image_is_refused(tmp_path, target):
    with pytest.raises(ValueError, match="`target` must be one class for all images"):
        run(folder(tmp_path / "in", 1), tmp_path / "out", target=target)


@pytest.mark.parametrize("k", [0, -1, 1.5])
def test_mistakes(tmp_path, k):
    with pytest.raises(ValueError, match="`k` must be a positive whole number"):
        run(folder(tmp_path / "in", 1), tmp_path / "out", k=k)
    with pytest.raises(ValueError, match="no layer named 'layer9'"):
        run(folder(tmp_path / "in", 1), tmp_path / "out", layers="layer9")
    assert not (tmp_path / "out").exists()
