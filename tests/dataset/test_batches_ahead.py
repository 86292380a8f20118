"""Batches that the device is given before the rows of earlier ones are made, as on a GPU: the same rows."""

from itertools import zip_longest

import pytest
import torch
from torch import nn

import fastcam
from fastcam.dataset import job
from fastcam.dataset.batch_inputs import BatchInputs
from fastcam.dataset.loading import LoadedImage
from fastcam.dataset.records import Span
from fastcam.dataset.rows import MapRows, table_of
from fastcam.dataset.shard_rows import ShardRows, batches_ahead
from fastcam.dataset.sources import Item, source_of
from fastcam.dataset.sources.files import FileSource
from fastcam.dataset.stages import Stages
from fastcam.dataset.work import MapMaker
from tests.dataset.small import PREPROCESSING, SETTINGS, contents, folder, network
from tests.support.conv_net import Call

OPTIONS = {**SETTINGS, "shard_size": 14}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Photographs, and files that are none."""
    path = folder(tmp_path_factory.mktemp("photographs"), 20)
    (path / "cats" / "004b.jpg").write_bytes(b"no picture")
    (path / "dogs" / "019b.jpg").write_bytes(b"")
    return path


@pytest.fixture(params=[1, 2])
def ahead(request, monkeypatch):
    monkeypatch.setattr(job, "batches_ahead", lambda device: request.param)
    return request.param


@pytest.fixture
def run(monkeypatch, source, tmp_path):
    """Runs with batches ahead as they are set, and without any."""

    def run(model, **options):
        found = fastcam.dataset.run(source, model, tmp_path / "ahead", **{**OPTIONS, **options})
        monkeypatch.setattr(job, "batches_ahead", lambda device: 0)
        expected = fastcam.dataset.run(source, model, tmp_path / "one", **{**OPTIONS, **options})
        assert (found.new, found.failed) == (expected.new, expected.failed)
        assert contents(tmp_path / "ahead") == contents(tmp_path / "one")
        return fastcam.dataset.open(tmp_path / "ahead").dataset().to_table()

    return run


@pytest.mark.usefixtures("ahead")
@pytest.mark.parametrize(
    "options",
    [{}, {"features": "features"}, {"method": ["grad_cam", "layer_cam"], "batch_size": 4}, {"batch_size": 30}],
    ids=str,
)
def test_the_same_files(run, options):
    table = run(network(), **options)
    assert table["status"].to_pylist().count("ok") == 20 * (2 if "method" in options else 1)


@pytest.mark.usefixtures("ahead")
def test_several_models(source, tmp_path):
    fastcam.dataset.run(source, {"a": network(), "b": network(-1)}, tmp_path / "both", **OPTIONS)
    for name, factor in (("a", 1), ("b", -1)):
        fastcam.dataset.run(source, network(factor), tmp_path / name, **OPTIONS)
        assert contents(tmp_path / "both" / name) == contents(tmp_path / name)


def test_the_next_batch_is_begun_before_the_rows_of_the_last_are_made(ahead, tmp_path, monkeypatch):
    events, of_batch = [], MapMaker.of_batch

    def logged(self, inputs, images, numbers):
        rows = of_batch(self, inputs, images, numbers)
        events.append(f"begun {numbers[0]}")

        def log():
            events.append(f"made {numbers[0]}")
            return rows()

        return log

    monkeypatch.setattr(MapMaker, "of_batch", logged)
    reports = []
    done = fastcam.dataset.run(
        folder(tmp_path / "in", 13),
        network(),
        tmp_path / "out",
        **{**OPTIONS, "shard_size": 6},
        report=lambda each: reports.append((each.new, each.commit and each.commit.start)),
    )
    numbers = [0, 3, 0, 3, 0]  # in its shard, of the first image of each batch
    begun = [f"begun {number}" for number in numbers]
    made = [f"made {number}" for number in numbers]
    expected = begun[:ahead]
    for begin, make in zip_longest(begun[ahead:], made):
        expected += [begin, make] if begin else [make]
    assert events == expected
    assert done.new == 13
    assert [start for _, start in reports if start is not None] == [0, 6, 12]
    assert reports[-1] == (13, 12)
    assert batches_ahead(torch.device("cpu")) == 0


def failing(kind):
    """A network that fails on dark images, or on several at a time."""

    def fail(x):
        if kind == "dark" and bool((x.mean((1, 2, 3)) < -0.6).any()):
            raise ValueError("too dark")
        if kind == "memory" and len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x

    return nn.Sequential(Call(fail), network()).eval()


@pytest.mark.usefixtures("ahead")
@pytest.mark.parametrize("kind", ["dark", "memory"])
def test_images_on_which_a_model_fails(run, kind):
    statuses = run(failing(kind), target_layer="1.features")["status"].to_pylist()
    assert 0 < statuses.count("ok") <= 20
    if kind == "dark":
        assert 1 < statuses.count("ValueError: too dark") < 19
    else:
        assert statuses.count("ok") == 20


@pytest.mark.usefixtures("ahead")
def test_rows_that_cannot_be_made(run, monkeypatch):
    """What fails after the model did its work is tried image by image too."""
    of_batch = MapRows.of_batch

    def fail(self, explainer, explanations, images, numbers):
        if any(image.item.id.endswith("007.jpg") for image in images):
            raise ValueError("no row")
        return of_batch(self, explainer, explanations, images, numbers)

    monkeypatch.setattr(MapRows, "of_batch", fail)
    assert run(network())["status"].to_pylist().count("ValueError: no row") == 1


@pytest.mark.usefixtures("ahead")
def test_memory_that_batches_before_hold(source, tmp_path):
    """A batch that finds no memory beside another is explained whole when that is done."""
    sizes, held = [], []

    class Holding(MapMaker):
        def of_batch(self, inputs, images, numbers):
            if held:
                raise torch.OutOfMemoryError("CUDA out of memory")
            sizes.append(len(images))
            held.append(numbers)
            rows = super().of_batch(inputs, images, numbers)

            def free():
                held.clear()
                return rows()

            return free

    done = fastcam.dataset.run(source, network(), tmp_path / "expected", **OPTIONS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastcam.dataset.work.MapMaker", Holding)
        assert fastcam.dataset.run(source, network(), tmp_path / "out", **OPTIONS).failed == done.failed
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")
    assert sorted(sizes, reverse=True)[:4] == [3] * 4


@pytest.mark.usefixtures("ahead")
def test_wrong_settings_are_an_error(source, tmp_path):
    def fail(x):
        raise ValueError("nothing that this model takes")

    model = nn.Sequential(Call(fail), network()).eval()
    with pytest.raises(ValueError, match="nothing that this model takes"):
        fastcam.dataset.run(source, model, tmp_path / "out", **{**OPTIONS, "target_layer": "1.features"})


def test_inputs_stay_until_their_rows_are_made():
    """Batches share their memory: as many as are begun must not."""
    kept = []

    class Keeping:
        def begin(self):
            return self

        def of_batch(self, inputs, images, numbers):
            before = inputs.clone()

            def rows():
                kept.append(torch.equal(inputs, before))
                return table_of({}, 0)

            return rows

    items = [Item(str(number), None, None, lambda limits: b"") for number in range(10)]
    images = [LoadedImage(item, None, None, torch.rand(3, 8, 8)) for item in items]
    rows = ShardRows(Keeping(), BatchInputs(torch.device("cpu"), PREPROCESSING, 2), 2)
    rows.begin(Span(0, 10))
    for image in images:
        rows.add(image, Stages(1))
    rows.end(Stages(1))
    assert kept == [True] * 5
    assert len({memory.tensor.data_ptr() for memory in rows.inputs._memory}) == 3


def test_images_that_do_not_come(tmp_path):
    """A source that has fewer images than it says: the rows of a shard are whole or not there."""

    class Short(FileSource):
        def items(self, start, stop):
            return super().items(start, min(stop, 8))

    whole = source_of(folder(tmp_path / "in", 13))
    short = Short(whole.system, whole.names, whole.root)
    with pytest.raises(ValueError, match="was asked for images 6 to 11, and gave 2 different ones"):
        fastcam.dataset.run(short, network(), tmp_path / "out", **{**OPTIONS, "shard_size": 6})
    assert [commit.start for commit in fastcam.dataset.open(tmp_path / "out").commits] == [0]
