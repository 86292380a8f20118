"""Maps as heat maps of FiftyOne."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import fastcam.dataset
from fastcam.classifiers.preprocessing import read_photograph
from tests.cli.command_line import run as command
from tests.dataset.small import PREPROCESSING, SETTINGS, folder, network
from tests.dataset.test_detections import run as run_detector
from tests.dataset.test_detections import write_squares

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(source, maps): three photographs and a broken one, two methods, one of two layers, two classes."""
    path = tmp_path_factory.mktemp("fiftyone")
    source = folder(path / "in", 3)
    (source / "cats" / "bad.jpg").write_bytes(b"bad")
    settings = {**SETTINGS, "method": ["grad_cam", "hires_cam"], "target": ["0", "3"]}
    fastcam.dataset.run(source, network(), path / "out", **settings)
    return source, fastcam.dataset.open(path / "out")


def samples_of(path):
    return json.loads((path / "samples.json").read_text())["samples"]


def test_samples(made, tmp_path):
    source, maps = made
    assert fastcam.dataset.to_fiftyone(maps, tmp_path / "fo", source) == 12
    samples = samples_of(tmp_path / "fo")
    assert [each["image_id"] for each in samples] == ["cats/000.jpg", "dogs/001.jpg", "dogs/002.jpg"]
    assert not (tmp_path / "fo" / "samples.json.part").exists()
    for sample in samples:
        rows = maps.rows(sample["image_id"])
        crop = np.asarray(PREPROCESSING.crop(read_photograph(source / sample["image_id"])), np.int16)
        written = np.asarray(Image.open(tmp_path / "fo" / sample["filepath"]), np.int16)
        assert np.abs(written - crop).mean() < 3
        assert sample["ground_truth"] == {"_cls": "Classification", "label": rows[0]["label"]}
        assert sample["prediction"]["label"] == f"class {rows[0]['predicted']}"
        names = ["grad_cam", "grad_cam_2", "hires_cam", "hires_cam_2"]
        for name, row, values in zip(names, rows, maps.maps(sample["image_id"]), strict=True):
            heat = sample[name]
            assert (heat["_cls"], heat["range"]) == ("Heatmap", [0, 255])
            assert (heat["target"], heat["score"]) == (row["target"], row["score"])
            assert name.startswith(row["method"])
            pixels = np.asarray(Image.open(tmp_path / "fo" / heat["map_path"]))
            np.testing.assert_allclose(pixels / 255, values, atol=0.5 / 255 + 1e-6)


def test_layers_have_fields_of_their_own(made, tmp_path):
    source, _ = made
    fastcam.dataset.run(source, network(), tmp_path / "out", **{**SETTINGS, "target_layer": ["features.0", "features"]})
    fastcam.dataset.to_fiftyone(fastcam.dataset.open(tmp_path / "out"), tmp_path / "fo", source)
    for sample in samples_of(tmp_path / "fo"):
        assert {"grad_cam_features_0", "grad_cam_features"} <= set(sample)
        assert "grad_cam" not in sample


def test_detections(tmp_path):
    detected = write_squares(tmp_path / "in")
    run_detector(detected, tmp_path / "out", method=["hires_cam", "layer_cam"])
    fastcam.dataset.to_fiftyone(fastcam.dataset.open(tmp_path / "out"), tmp_path / "fo", detected)
    first, none, _ = samples_of(tmp_path / "fo")
    boxes = first["detections"]["detections"]
    assert [box["index"] for box in boxes] == [1, 2]
    np.testing.assert_allclose(boxes[1]["bounding_box"], [18 / 32, 20 / 32, 6 / 32, 8 / 32])
    assert boxes[0]["confidence"] == pytest.approx(0.9)
    assert {"hires_cam", "hires_cam_2", "layer_cam", "layer_cam_2"} <= set(first)
    assert "detections" not in none


def test_refusals(made, tmp_path):
    source, maps = made
    with pytest.raises(ValueError, match="`source` is not the one"):
        fastcam.dataset.to_fiftyone(maps, tmp_path / "fo", source / "cats")
    with pytest.raises(FileExistsError):
        fastcam.dataset.to_fiftyone(maps, tmp_path, source)
    done = command("export", str(maps.store.folder), "--to", "fiftyone", "--out", str(tmp_path / "new"))
    assert done.exit_code == 2
    assert "fiftyone needs --source" in done.output
    assert not (tmp_path / "new").exists()


READER = """
import json, sys
from fiftyone.utils.data.importers import FiftyOneDatasetImporter

found = FiftyOneDatasetImporter(sys.argv[1])
assert found._is_legacy_format_data()  # the format of JSON objects, for which from_dir takes this reader
with found._to_legacy_importer() as samples:
    for sample in samples:
        heat = sample["grad_cam"]
        print(json.dumps([sample.filepath, heat.get_map().tolist(), heat.score, sample.ground_truth.label]))
"""


@pytest.mark.slow  # installs FiftyOne, 1 GB, whose database is not needed to read a folder
def test_the_package_reads_it(made, tmp_path):
    source, maps = made
    fastcam.dataset.to_fiftyone(maps, tmp_path / "fo", source)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "fiftyone"], check=True)
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "FIFTYONE_DO_NOT_TRACK": "true"}
    done = subprocess.run(
        [python, "-c", READER, tmp_path / "fo"], env=environment, capture_output=True, text=True, check=True
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(lines) == 3
    for path, values, score, label in lines:
        image_id = path.removeprefix(str(tmp_path / "fo" / "data") + "/").removesuffix(".jpg")
        row = maps.rows(image_id)[0]
        np.testing.assert_allclose(np.array(values) / 255, maps.maps(image_id)[0], atol=0.5 / 255 + 1e-6)
        assert (score, label) == (row["score"], row["label"])
