"""Several models in one pass over the images: the folders of runs of their own, each image read once."""

import pytest
import torch
from torch import nn

import fastcam.dataset
from fastcam.classifiers.models import Classifier
from fastcam.classifiers.preprocessing import Preprocessing
from fastcam.dataset.sources import source_of
from tests.cli.command_line import run as command
from tests.dataset.small import PREPROCESSING, SETTINGS, contents, folder, network

pytestmark = pytest.mark.usefixtures("one_thread")
LARGE = Preprocessing(shorter_side=30, size=(24, 24), interpolation="bilinear")


class Counting:
    """A source that counts how often its images are read."""

    def __init__(self, source):
        self.source, self.reads = source, 0

    def __len__(self):
        return len(self.source)

    def digest(self):
        return self.source.digest()

    def items(self, start, stop):
        self.reads += stop - start
        yield from self.source.items(start, stop)


class Seen(nn.Module):
    """The tests' network, which keeps how many images of what size it saw, and fails where it is told to."""

    def __init__(self, factor=1.0, fails=None):
        super().__init__()
        self.net, self.sizes, self.fails = network(factor), [], fails
        self.eval()

    def forward(self, images):
        self.sizes += [tuple(images.shape[2:])] * len(images)
        if self.fails is not None and (images.mean((1, 2, 3)) == self.fails).any():
            raise RuntimeError("this one is too much")
        return self.net(images)


MODELS = {"small": (network(), PREPROCESSING), "other": (network(2.0), PREPROCESSING), "large": (network(), LARGE)}
SHARED = {name: SETTINGS[name] for name in ("target_layer", "shard_size", "batch_size")}


def alone(source, out, **options):
    for name, (model, preprocessing) in MODELS.items():
        fastcam.dataset.run(source, model, out / name, preprocessing=preprocessing, **{**SHARED, **options})


def together(source, out, **options):
    models = {name: Classifier(*each) for name, each in MODELS.items()}
    return fastcam.dataset.run(source, models, out, **{**SHARED, **options})


@pytest.mark.parametrize(
    "options", [{}, {"decoder": "scaled"}, {"method": ["grad_cam", "layer_cam"], "target": "top2"}]
)
def test_the_folders_of_runs_of_their_own(tmp_path, options):
    source = folder(tmp_path / "in")
    (source / "dogs" / "005.jpg").write_bytes(b"no picture")
    alone(source, tmp_path / "alone", **options)
    counting = Counting(source_of(source))
    done = together(counting, tmp_path / "out", **options)
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")
    assert counting.reads == done.total == done.new == 10
    assert done.failed == 3  # one image of three models


def test_what_one_of_them_lacks_is_made_by_it_alone(tmp_path):
    source, nets = folder(tmp_path / "in"), {"a": Seen(), "b": Seen(2.0)}
    settings = {**SETTINGS, "target_layer": "net.features"}
    fastcam.dataset.run(source, nets, tmp_path / "out", **settings)
    whole = contents(tmp_path / "out")
    for kind in ("commits", "shards"):
        sorted((tmp_path / "out" / "b" / kind).iterdir())[1].unlink()
    for net in nets.values():
        net.sizes.clear()
    done = fastcam.dataset.run(source, nets, tmp_path / "out", **settings)
    assert contents(tmp_path / "out") == whole
    assert (done.new, len(nets["a"].sizes), len(nets["b"].sizes)) == (4, 0, 4)
    assert fastcam.dataset.run(source, nets, tmp_path / "out", **settings).new == 0


def test_an_image_that_one_model_cannot_take(tmp_path):
    """Has a row that says so in that model's folder alone."""
    images = [(torch.rand(3, 16, 16), index) for index in range(8)]
    nets = {"good": Seen(), "bad": Seen(fails=images[5][0].mean().item())}
    settings = {**SHARED, "target_layer": "net.features", "preprocessing": PREPROCESSING}
    done = fastcam.dataset.run(images, nets, tmp_path / "out", **settings)
    assert (done.new, done.failed) == (8, 1)
    good, bad = (fastcam.dataset.open(tmp_path / "out" / name) for name in ("good", "bad"))
    assert set(good.stats().statuses) == {"ok"}
    assert bad.rows("5")[0]["status"] == "RuntimeError: this one is too much"
    assert bad.stats().statuses == {"ok": 7, "RuntimeError: this one is too much": 1}


def test_settings_by_model(tmp_path):
    source = folder(tmp_path / "in", 4)
    models = {"a": network(), "b": network(2.0)}
    settings = {
        "target_layer": {"a": "features", "b": "stem"},
        "target": {"b": [1, 2]},
        "preprocessing": {"a": PREPROCESSING, "b": LARGE},
        "features": {"b": "hidden"},
    }
    fastcam.dataset.run(source, models, tmp_path / "out", **settings)
    for name, model in models.items():
        own = {setting: each[name] for setting, each in settings.items() if name in each}
        fastcam.dataset.run(source, model, tmp_path / "alone" / name, **own)
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")


@pytest.mark.parametrize(
    ("models", "options", "words"),
    [
        ({}, {}, "at least one model"),
        ({"a/b": network()}, {}, "names of folders below `out`, got 'a/b'"),
        ({"": network()}, {}, "names of folders below `out`, got ''"),
        ({"..": network()}, {}, "names of folders below `out`"),
        ({"a": network()}, {"target_layer": {"b": "stem"}}, "`target_layer` names 'b', which is none of the models a"),
        (
            network(),
            {"preprocessing": {"b": None}},
            r"`preprocessing` is given by the names of models \(b\), and `model`",
        ),
        ({"a": network()}, {"devices": ["cpu", "cpu"]}, "several models run in this process"),
        ({"a": network(), "b": network()}, {"dtype": "int8"}, "`dtype` must be one of"),
    ],
)
def test_mistakes_before_anything_is_written(tmp_path, models, options, words):
    with pytest.raises(ValueError, match=words):
        fastcam.dataset.run(folder(tmp_path / "in", 2), models, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_by_the_command_line(tmp_path):
    source = folder(tmp_path / "in", 6)
    torch.save(network(3.0).state_dict(), tmp_path / "three.pth")
    torch.save(network(2.0).state_dict(), tmp_path / "two.pth")
    shared = [source, "--size", "16", "--layer", "features", "--shard-size", "4"]
    done = command(
        *("map", *shared, "--out", tmp_path / "out"),
        *("--model", "tests.dataset.small:network", "--weights", tmp_path / "three.pth"),
        *("--model", "tests.dataset.test_several:second", "--weights", tmp_path / "two.pth"),
    )
    assert done.exit_code == 0, done.output
    assert "6 images in" in done.stdout
    for name, weights in (("network", "three.pth"), ("second", "two.pth")):
        assert f"{tmp_path / 'out' / name}" in done.stdout
        options = ["--model", "tests.dataset.small:network", "--weights", tmp_path / weights]
        command("map", *shared, *options, "--out", tmp_path / "alone" / name)
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "m:f", "--model", "n:f"], "two models are named 'f'"),
        (
            ["--model", "m:f", "--model", "n:g", "--weights", "w.pth"],
            "a --weights for each of the 2 models, or none, got 1",
        ),
    ],
)
def test_mistakes_by_the_command_line(tmp_path, options, words):
    done = command("map", folder(tmp_path / "in", 1), *options, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert words in " ".join(done.stderr.split())


def second() -> nn.Module:
    return network()
