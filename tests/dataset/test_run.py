"""Runs over datasets: the right numbers in the right rows, resumed, and refused where they would mix."""

import hashlib
import signal
import threading

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import fastcam
import fastcam.dataset
from fastcam.classifiers.models import Classifier
from fastcam.classifiers.preprocessing import read_photograph
from tests.dataset.small import PREPROCESSING, SETTINGS, contents, folder, jpeg, network

pytestmark = pytest.mark.usefixtures("one_thread")


def run(source, out, model=None, **options):
    return fastcam.dataset.run(source, model or network(), out, **{**SETTINGS, **options})


def tensor_of(path):
    return PREPROCESSING(read_photograph(path))


def test_every_row_is_what_explain_says(tmp_path):
    source = folder(tmp_path / "in")
    done = run(source, tmp_path / "out", method=["grad_cam", "layer_cam"], target=["top2", "1"])
    assert (done.total, done.done, done.new, done.failed) == (10, 10, 10, 0)
    maps = fastcam.dataset.open(tmp_path / "out")
    assert list(maps) == sorted(str(each.relative_to(source)) for each in source.rglob("*.jpg"))
    model = network()
    for name in maps:
        image = tensor_of(source / name)[None]
        output = model(image)[0]
        wanted = list(dict.fromkeys([*output.argsort(descending=True)[:2].tolist(), 1]))
        rows = maps.rows(name)
        assert [(row["method"], row["target"]) for row in rows] == [
            (method, each) for method in ("grad_cam", "layer_cam") for each in wanted
        ]
        for row, found in zip(rows, maps.maps(name), strict=True):
            expected = fastcam.explain(model, image, row["method"], row["target"], "features")
            kept = np.frombuffer(row["map"], np.float16).reshape(row["map_shape"]) * row["map_scale"]
            native = expected.native[0].detach().numpy()
            np.testing.assert_allclose(kept, native, rtol=0, atol=1e-3 * max(abs(native).max(), 1e-9))
            np.testing.assert_allclose(found, expected.maps[0].numpy(), rtol=0, atol=2e-3)
            assert row["score"] == pytest.approx(output[row["target"]].item(), abs=1e-5)
            assert row["predicted"] == output.argmax().item()
            assert row["status"] == expected.status[0]
            assert row["label"] == name.split("/")[0]
            assert row["layer"] == "features"
            assert row["sha256"] == hashlib.sha256((source / name).read_bytes()).hexdigest()


@pytest.mark.parametrize(("resolution", "dtype"), [("input", "float32"), ("input", "uint8"), ("native", "uint8")])
def test_other_resolutions_and_types(tmp_path, resolution, dtype):
    source = folder(tmp_path / "in", 3)
    run(source, tmp_path / "out", resolution=resolution, dtype=dtype)
    maps = fastcam.dataset.open(tmp_path / "out")
    for name in maps:
        explanation = fastcam.explain(network(), tensor_of(source / name)[None], "grad_cam", None, "features")
        (row,) = maps.rows(name)
        assert row["map_dtype"] == dtype
        assert row["map_shape"] == ([16, 16] if resolution == "input" else list(explanation.native.shape[1:]))
        values = np.frombuffer(row["map"], dtype).reshape(row["map_shape"])
        if dtype == "uint8":
            assert row["map_scale"] is None
            assert values.min() == 0
            assert values.max() == 255
        else:
            np.testing.assert_allclose(values * row["map_scale"], explanation.raw[0].numpy(), rtol=0, atol=1e-6)
        tolerance = {"float32": 1e-5, "uint8": 0.6 / 255 if resolution == "input" else 3 / 255}[dtype]
        np.testing.assert_allclose(maps.maps(name)[0], explanation.maps[0].numpy(), rtol=0, atol=tolerance)


def test_several_layers_have_rows_of_their_own(tmp_path):
    source = folder(tmp_path / "in", 2)
    run(source, tmp_path / "out", target_layer=("stem", "features"))
    maps = fastcam.dataset.open(tmp_path / "out")
    for name in maps:
        assert [row["layer"] for row in maps.rows(name)] == ["stem", "features"]


def test_a_bad_image_is_a_row_and_the_others_are_as_without_it(tmp_path):
    source = folder(tmp_path / "in", 6)
    (source / "cats" / "001b.jpg").write_bytes(b"no picture")
    (source / "dogs" / "empty.png").write_bytes(b"")
    done = run(source, tmp_path / "out")
    assert (done.total, done.new, done.failed) == (8, 8, 2)
    maps = fastcam.dataset.open(tmp_path / "out")
    assert maps.rows("dogs/empty.png")[0]["map"] is None
    assert maps.maps("dogs/empty.png") == []
    (row,) = maps.rows("cats/001b.jpg")
    assert row["status"].startswith("this is not a picture in one of JPEG, PNG")
    assert (row["label"], row["map"], row["sha256"]) == ("cats", None, hashlib.sha256(b"no picture").hexdigest())
    whole = [name for name in maps if maps.rows(name)[0]["status"] in ("ok", "constant map")]
    assert len(whole) == 6
    found = maps.stats()
    assert (found.images, found.failed, found.rows, found.total) == (8, 2, 8, 8)
    assert sum(found.statuses.values()) == 8
    assert sum(found.predicted.values()) == 6


def test_a_run_that_goes_on_gives_the_same_bytes(tmp_path):
    source = folder(tmp_path / "in", 11)
    run(source, tmp_path / "whole")

    def stop_after_one(progress):
        if progress.commit is not None:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(fastcam.dataset.InterruptedRunError, match="resumes it"):
        run(source, tmp_path / "parts", report=stop_after_one)
    before = contents(tmp_path / "parts")
    assert 0 < sum(name.startswith("commits/") for name in before) < 3
    assert not [name for name in before if name.endswith(".tmp")]
    done = run(source, tmp_path / "parts")
    assert 0 < done.new < 11
    assert done.done == 11
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert run(source, tmp_path / "parts").new == 0


def test_the_handlers_of_signals_are_as_before(tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    run(folder(tmp_path / "in", 2), tmp_path / "out")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_another_identity_refuses_the_folder(tmp_path):
    source = folder(tmp_path / "in", 4)
    run(source, tmp_path / "out")
    before = contents(tmp_path / "out")
    for change, word in (
        ({"model": network(factor=1.001)}, "weights"),
        ({"method": "layer_cam"}, "method "),
        ({"target_layer": "stem"}, "target_layer"),
        ({"dtype": "float32"}, "maps"),
        ({"target": "top2"}, "target"),
        ({"shard_size": 2}, "shard_size"),
        ({"limits": fastcam.dataset.Limits(pixels=1000)}, "limits"),
    ):
        with pytest.raises(ValueError, match=f"results of another run: {word}"):
            run(source, tmp_path / "out", **change)
    (source / "cats" / "new.jpg").write_bytes(jpeg(50))
    with pytest.raises(ValueError, match=r"another run: images 4 \(now 5\), .*source"):
        run(source, tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_two_runs_at_once_make_one_folder(tmp_path):
    source = folder(tmp_path / "in", 12)
    run(source, tmp_path / "alone", shard_size=1)
    errors, models = [], [network(), network()]  # seeded here: the seed is of the whole process

    def work(model):
        try:
            run(source, tmp_path / "both", model, shard_size=1)
        except Exception as error:  # shown by the assertion below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(model,)) for model in models]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert errors == []
    assert contents(tmp_path / "both") == contents(tmp_path / "alone")


class Fussy(torch.nn.Module):
    """Refuses some images as a model's own code may, and large batches as a small GPU does."""

    def __init__(self, limit: int = 100) -> None:
        super().__init__()
        self.net, self.limit = network(), limit

    def forward(self, x):
        if len(x) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if (x[:, 0, 0, 0] == 7).any():
            raise IndexError("seven is out of range")
        return self.net(x)


class Tensors(Dataset):
    def __init__(self, count, poison=()):
        self.count, self.poison = count, poison

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(index))
        if index in self.poison:
            image[0, 0, 0] = 7
        return image, index % 3


def test_an_image_the_model_cannot_take_is_alone_in_that(tmp_path):
    settings = {"target_layer": "net.features", "preprocessing": None}
    run(Tensors(8, poison={4, 6}), tmp_path / "out", Fussy().eval(), **settings)
    maps = fastcam.dataset.open(tmp_path / "out")
    statuses = [maps.rows(name)[0]["status"] for name in maps]
    assert statuses[4] == statuses[6] == "IndexError: seven is out of range"
    run(Tensors(8), tmp_path / "all", Fussy().eval(), **settings)
    expected = fastcam.dataset.open(tmp_path / "all")
    for name in (name for name in maps if name not in ("4", "6")):
        np.testing.assert_allclose(maps.maps(name)[0], expected.maps(name)[0], atol=2e-3)
        assert maps.rows(name)[0]["label"] == str(int(name) % 3)


@pytest.mark.parametrize("poison", [{0}, {1}, {0, 2}, {7}])
@pytest.mark.parametrize("batch_size", [3, 1])
def test_it_may_be_the_first_one(tmp_path, poison, batch_size):
    settings = {"target_layer": "net.features", "preprocessing": None, "batch_size": batch_size}
    if batch_size == 1 and 0 in poison:  # nothing tells the image from a wrong setting
        with pytest.raises(IndexError, match="seven is out of range"):
            run(Tensors(8, poison), tmp_path / "out", Fussy().eval(), **settings)
        return
    done = run(Tensors(8, poison), tmp_path / "out", Fussy().eval(), **settings)
    assert (done.new, done.failed) == (8, len(poison))
    maps = fastcam.dataset.open(tmp_path / "out")
    assert {int(name) for name in maps if not maps.maps(name)} == poison


def test_it_may_be_the_first_one_of_a_run_that_goes_on(tmp_path):
    settings = {"target_layer": "net.features", "preprocessing": None, "batch_size": 1}
    run(Tensors(8, {4}), tmp_path / "out", Fussy().eval(), **settings)
    for each in (tmp_path / "out").rglob("part-000000004*"):
        each.unlink()
    assert run(Tensors(8, {4}), tmp_path / "out", Fussy().eval(), **settings).failed == 1


def test_a_setting_that_cannot_be_is_no_row(tmp_path):
    with pytest.raises(ValueError, match="no_layer"):
        run(folder(tmp_path / "in", 3), tmp_path / "out", target_layer="no_layer")
    assert not list((tmp_path / "out" / "commits").iterdir())
    assert run(tmp_path / "in", tmp_path / "out").done == 3  # and it does not stand in the way of the right one
    run(tmp_path / "in", tmp_path / "plain")
    assert contents(tmp_path / "out") == contents(tmp_path / "plain")


def test_a_run_that_is_alive_keeps_its_folder(tmp_path):
    source, told = folder(tmp_path / "in", 3), []

    def other(progress):
        if progress.commit is None:
            with pytest.raises(ValueError, match="results of another run: method "):
                run(source, tmp_path / "out", method="layer_cam")
            told.append(progress.done)

    assert run(source, tmp_path / "out", report=other).done == 3
    assert told
    assert fastcam.dataset.verify(tmp_path / "out") == []


def test_out_of_memory_halves_the_batch_and_loses_nothing(tmp_path):
    settings = {"target_layer": "net.features", "preprocessing": None, "shard_size": 16, "batch_size": 8}
    done = run(Tensors(16), tmp_path / "small", Fussy(limit=2).eval(), **settings)
    assert (done.new, done.failed) == (16, 0)
    run(Tensors(16), tmp_path / "large", Fussy().eval(), **settings)
    small, large = fastcam.dataset.open(tmp_path / "small"), fastcam.dataset.open(tmp_path / "large")
    for name in large:
        assert small.rows(name)[0]["score"] == pytest.approx(large.rows(name)[0]["score"], abs=1e-5)
        np.testing.assert_allclose(small.maps(name)[0], large.maps(name)[0], atol=2e-3)


def test_data_loaders(tmp_path):
    settings = {"target_layer": "features", "preprocessing": None}
    run(DataLoader(Tensors(5), batch_size=2), tmp_path / "out", **settings)
    maps = fastcam.dataset.open(tmp_path / "out")
    expected = fastcam.explain(network(), Tensors(5)[3][0][None], "grad_cam", None, "features")
    np.testing.assert_allclose(maps.maps("3")[0], expected.maps[0].numpy(), atol=2e-3)
    with pytest.raises(TypeError, match="must not shuffle"):
        run(DataLoader(Tensors(5), shuffle=True), tmp_path / "other")


def test_a_classifier_brings_its_preprocessing(tmp_path):
    source = folder(tmp_path / "in", 2)
    classifier = Classifier(network(), PREPROCESSING, given_names=("a", "b", "c", "d", "e"))
    run(source, tmp_path / "out", classifier, preprocessing=None, target="d")
    assert {row["target"] for row in fastcam.dataset.open(tmp_path / "out").dataset().to_table().to_pylist()} == {3}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"batch_size": 0}, "`batch_size` must be a positive whole number, got 0"),
        ({"resolution": "huge"}, "`resolution` must be one of native, input, got 'huge'"),
        ({"dtype": "int8"}, "`dtype` must be one of float16, float32, uint8, got 'int8'"),
    ],
)
def test_bad_settings_in_a_sentence(tmp_path, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        run(folder(tmp_path / "in", 1), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_mean_maps_are_means(tmp_path):
    source = folder(tmp_path / "in", 6)
    run(source, tmp_path / "out", target="2")
    maps = fastcam.dataset.open(tmp_path / "out")
    ((key, mean),) = maps.mean_maps().items()
    assert key == ("grad_cam", "features", 2)
    np.testing.assert_allclose(mean, np.mean([maps.maps(name)[0] for name in maps], 0), atol=1e-6)


def test_an_unknown_id(tmp_path):
    run(folder(tmp_path / "in", 1), tmp_path / "out")
    with pytest.raises(KeyError, match="no maps of an image 'nobody'"):
        fastcam.dataset.open(tmp_path / "out").rows("nobody")
    with pytest.raises(ValueError, match="holds no maps"):
        fastcam.dataset.open(tmp_path)


def test_the_model_is_not_changed(tmp_path):
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run(folder(tmp_path / "in", 3), tmp_path / "out", model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(each._forward_hooks for each in model.modules())


def test_a_shard_without_a_map_has_the_same_bytes_whoever_writes_it(tmp_path):
    source = folder(tmp_path / "in", 4)
    for index in range(4):
        (source / "worse").mkdir(exist_ok=True)
        (source / "worse" / f"{index}.jpg").write_bytes(b"bad")
    run(source, tmp_path / "whole")
    run(source, tmp_path / "parts")
    for each in [*(tmp_path / "parts").rglob("part-000000004*")]:
        each.unlink()
    assert run(source, tmp_path / "parts").new == 4
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_images_are_loaded_a_few_ahead_and_no_more(tmp_path):
    class Counted(Tensors):
        loaded = 0

        def __getitem__(self, index):
            self.loaded += 1
            return super().__getitem__(index)

    dataset, ahead = Counted(60), []
    settings = {"target_layer": "features", "preprocessing": None, "workers": 2}
    run(dataset, tmp_path / "out", report=lambda done: ahead.append(dataset.loaded - done.new), **settings)
    assert dataset.loaded == 60
    assert max(ahead) <= 2 * SETTINGS["batch_size"] + 2


def test_the_class_of_the_label(tmp_path):
    """An image whose label is no class gets a row with the reason; the others the map of their own class."""
    source = folder(tmp_path / "in", 6)
    (source / "birds").mkdir()
    (source / "birds" / "9.jpg").write_bytes(jpeg(9))
    classifier = Classifier(network(), PREPROCESSING, ("dogs", "fish", "cats", "cars", "trees"))
    done = fastcam.dataset.run(source, classifier, tmp_path / "out", **{**SETTINGS, "target": "label"})
    assert done.failed == 1
    maps = fastcam.dataset.open(tmp_path / "out")
    for name in maps:
        (row,) = maps.rows(name)
        if row["label"] == "birds":
            assert "the model has no class named 'birds'" in row["status"]
        else:
            assert row["target"] == {"dogs": 0, "cats": 2}[row["label"]]
            expected = fastcam.explain(
                network(), tensor_of(source / name)[None], target=row["target"], target_layer="features"
            )
            assert row["score"] == pytest.approx(expected.scores.item(), abs=1e-5)
