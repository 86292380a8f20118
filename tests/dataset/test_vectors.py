"""Feature vectors beside the maps of a dataset: those of a run of their own, from the passes that explain."""

import numpy as np
import pytest
import torch
from torch import nn

import fastcam.dataset
import fastcam.evaluate.datasets
import fastcam.features
from fastcam.classifiers.models import Classifier
from fastcam.dataset import device_decoding
from tests.cli.command_line import run as command
from tests.dataset.small import PREPROCESSING, SETTINGS, contents, folder, network
from tests.dataset.test_detections import WHOLE, Squares, write_squares

pytestmark = pytest.mark.usefixtures("one_thread")
FEEDING = {name: SETTINGS[name] for name in ("preprocessing", "shard_size", "batch_size")}
METHODS = {
    "grad_cam": {},
    "eigen_cam": {},
    "integrated_gradients": {"steps": 4},
    "smooth_grad": {"samples": 3},
    "score_cam": {},
    "occlusion": {"window": 8, "stride": 8},
    "full_grad": {},
}


class Counted(nn.Module):
    """The tests' network, and how many images it was run on."""

    def __init__(self):
        super().__init__()
        self.net, self.images = network(), 0

    def forward(self, images):
        self.images += len(images)
        return self.net(images)


def run(source, out, model=None, **options):
    return fastcam.dataset.run(source, model or network(), out, **{**SETTINGS, "features": "hidden", **options})


def vectors_of(source, out, model=None, **options):
    fastcam.features.run(source, model or network(), out, **FEEDING, **options)
    return fastcam.features.open(out)


@pytest.mark.parametrize("method", METHODS)
def test_the_vectors_of_a_run_of_their_own_without_its_passes(tmp_path, method):
    """Every method begins with a pass of the images themselves; two more images show where the last linear layer is."""
    source, options = folder(tmp_path / "in"), METHODS[method]
    layer = "net.features"
    plain, model = Counted().eval(), Counted().eval()
    run(source, tmp_path / "plain", plain, features=None, method=method, target_layer=layer, **options)
    run(source, tmp_path / "maps", model, method=method, target_layer=layer, **options)
    assert model.images == plain.images + 1  # which layer is the last linear one is seen in a pass of one image
    found, own = fastcam.features.open(tmp_path / "maps"), vectors_of(source, tmp_path / "own")
    assert found.ids == own.ids
    np.testing.assert_allclose(found.vectors, own.vectors, rtol=2e-3, atol=1e-4)
    assert set(found.images["layer"].to_pylist()) == {"input of net.classifier"}
    assert found.images["predicted"].to_pylist() == own.images["predicted"].to_pylist()
    maps, bare = fastcam.dataset.open(tmp_path / "maps"), fastcam.dataset.open(tmp_path / "plain")
    for name in bare:
        assert maps.rows(name) == bare.rows(name)


def test_one_vector_an_image_in_its_first_row(tmp_path):
    """Also where an image has several rows, and others none: a broken file has no vector."""
    source = folder(tmp_path / "in")
    (source / "dogs" / "005.jpg").write_bytes(b"no picture")
    run(source, tmp_path / "maps", method=["grad_cam", "layer_cam"], target="top3", features="features")
    table = fastcam.dataset.open(tmp_path / "maps").dataset().to_table(["image_id", "feature"]).to_pylist()
    assert len(table) == 9 * 6 + 1
    seen = set()
    for row in table:
        is_first = row["image_id"] not in seen and row["image_id"] != "dogs/005.jpg"
        assert (row["feature"] is not None) == is_first
        seen.add(row["image_id"])
    own = vectors_of(source, tmp_path / "own", layer="features")
    found = fastcam.features.open(tmp_path / "maps")
    assert found.ids == own.ids
    np.testing.assert_array_equal(found.vectors, own.vectors)
    assert found.reason("dogs/005.jpg")
    assert found.reason("cats/000.jpg") is None


def test_resumed_and_part_of_the_identity(tmp_path):
    source = folder(tmp_path / "in")
    run(source, tmp_path / "maps")
    whole = contents(tmp_path / "maps")
    for name in ("commits", "shards"):
        for file in sorted((tmp_path / "maps" / name).iterdir())[1:]:
            file.unlink()
    run(source, tmp_path / "maps")
    assert contents(tmp_path / "maps") == whole
    for other in (None, "features"):
        with pytest.raises(ValueError, match="results of another run: features"):
            run(source, tmp_path / "maps", features=other)


def test_a_prepared_network_has_a_pass_of_its_own(tmp_path):
    source = folder(tmp_path / "in", 4)
    run(source, tmp_path / "maps", precision="fp32")
    own, found = vectors_of(source, tmp_path / "own"), fastcam.features.open(tmp_path / "maps")
    np.testing.assert_array_equal(found.vectors, own.vectors)


def test_vectors_that_are_lost_leave_the_map(tmp_path):
    """Beyond what float16 holds."""
    conv, head = nn.Conv2d(3, 3, 1, bias=False), nn.Linear(3, 2)
    conv.weight.data = 1e9 * torch.ones(3, 3, 1, 1)
    head.weight.data = 1e-9 * torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    model = nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).eval()
    source = folder(tmp_path / "in", 3)
    run(source, tmp_path / "maps", model, target_layer="0")
    assert set(fastcam.dataset.open(tmp_path / "maps").stats().statuses) == {"ok"}
    with pytest.raises(ValueError, match="holds no vector of any image"):
        fastcam.features.open(tmp_path / "maps")


def test_detections(tmp_path):
    """A vector an image, beside a row for every detection of it."""
    write_squares(tmp_path / "in")
    out = tmp_path / "maps"
    options = {"target": "detections>0.3", "target_layer": "body", "method": "hires_cam", "features": "body"}
    fastcam.dataset.run(tmp_path / "in", Squares(), out, preprocessing=WHOLE, **options)
    found = fastcam.features.open(out)
    fastcam.features.run(tmp_path / "in", Squares(), tmp_path / "own", preprocessing=WHOLE, layer="body")
    own = fastcam.features.open(tmp_path / "own")
    assert found.ids == own.ids
    np.testing.assert_array_equal(found.vectors, own.vectors)


def test_networks_and_layers_that_have_none(tmp_path):
    source = folder(tmp_path / "in", 1)
    script = torch.jit.trace(network(), torch.rand(1, 3, 16, 16))
    for model, layer, error, words in (
        (script, "hidden", TypeError, "of a TorchScript module no layer can be read"),
        (network(), "nothing", ValueError, "nothing"),
        (network(), ["features", "relu"], TypeError, "must be one module of the model or its name"),
    ):
        with pytest.raises(error, match=words):
            run(source, tmp_path / "maps", model, features=layer, target_layer=None)
        assert not (tmp_path / "maps").exists()
    with pytest.raises(ValueError, match="`features`"):
        fastcam.evaluate.datasets.run(source, network(), tmp_path / "measures", ["insertion"], features="hidden")


@pytest.mark.parametrize("decoder", [None, "scaled", "gpu"])
def test_neighbours_of_mapped_images(tmp_path, monkeypatch, decoder):
    """A new picture is found by the same network, decoded by the processor."""
    monkeypatch.setattr(device_decoding, "_has_nvjpeg", lambda device: True)
    source = folder(tmp_path / "in")
    model, options = Classifier(network(), PREPROCESSING), {"target_layer": "features", "decoder": decoder}
    fastcam.dataset.run(source, model, tmp_path / "maps", features="hidden", **options)
    found = fastcam.features.open(tmp_path / "maps")
    data = (source / "cats" / "001.jpg").read_bytes()
    query = fastcam.features.query_of_picture(found, "new", data + b" ", model)
    near = fastcam.features.neighbours_of(found, [query], 1)
    assert found.ids[near.indices[0, 0]] == "cats/001.jpg"


def test_neighbours_by_command(tmp_path):
    source = folder(tmp_path / "in")
    out = str(tmp_path / "by command")
    network_options = ["--model", "tests.dataset.small:network", "--size", "16", "--features", "hidden"]
    command("map", str(source), *network_options, "--layer", "features", "--out", out)
    lines = command("neighbours", out, "--query", "cats/001.jpg", "-k", "2").stdout
    assert "cats/001.jpg" in lines
    assert "without a map" in command("stats", out).stdout
