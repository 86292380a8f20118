"""Maps for other programs: the same numbers wherever they go."""

import io
import json
import tarfile

import numpy as np
import pytest
import zarr
from datasets import load_from_disk
from PIL import Image

import fastcam.dataset
from fastcam import render
from fastcam.classifiers.preprocessing import read_photograph
from tests.dataset.small import PREPROCESSING, SETTINGS, folder, network
from tests.dataset.test_run import Tensors


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(source, maps): seven photographs and a broken one, two methods, two classes."""
    path = tmp_path_factory.mktemp("export")
    source = folder(path / "in", 7)
    (source / "cats" / "bad.jpg").write_bytes(b"bad")
    settings = {**SETTINGS, "method": ["grad_cam", "layer_cam"], "target": ["0", "3"]}
    fastcam.dataset.run(source, network(), path / "out", **settings)
    return source, fastcam.dataset.open(path / "out")


def test_overlays(made, tmp_path):
    source, maps = made
    assert fastcam.dataset.to_overlays(maps, tmp_path, source) == 28
    assert len(list(tmp_path.rglob("*.png"))) == 28
    picture = np.asarray(PREPROCESSING.crop(read_photograph(source / "dogs" / "004.jpg")))
    expected = render.overlay(picture[None], maps.maps("dogs/004.jpg")[3][None])[0]
    assert np.array_equal(Image.open(tmp_path / "dogs" / "004.jpg.layer_cam.3.png"), expected)
    assert fastcam.dataset.to_overlays(maps, tmp_path, source) == 28


def test_overlays_want_the_same_source(made, tmp_path):
    source, maps = made
    with pytest.raises(ValueError, match="`source` is not the one"):
        fastcam.dataset.to_overlays(maps, tmp_path / "out", source / "cats")
    settings = {**SETTINGS, "preprocessing": None}
    fastcam.dataset.run(Tensors(2), network(), tmp_path / "tensors", **settings)
    with pytest.raises(ValueError, match="encoded images"):
        fastcam.dataset.to_overlays(fastcam.dataset.open(tmp_path / "tensors"), tmp_path / "out", Tensors(2))


def test_zarr(made, tmp_path):
    _, maps = made
    assert fastcam.dataset.to_zarr(maps, tmp_path / "a.zarr") == 28
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="r")
    assert group.metadata.zarr_format == 3
    rows = list(maps.each())
    np.testing.assert_allclose(group["maps"][:], np.stack([found for _, found in rows]), atol=5e-4)
    for name in ("image_id", "method", "label", "target", "status"):
        assert group[name][:].tolist() == [row[name] for row, _ in rows]
    np.testing.assert_allclose(group["score"][:], [row["score"] for row, _ in rows])
    with pytest.raises(FileExistsError, match="already exists"):
        fastcam.dataset.to_zarr(maps, tmp_path / "a.zarr")


def test_webdataset(made, tmp_path):
    _, maps = made
    assert fastcam.dataset.to_webdataset(maps, tmp_path, per_tar=10) == 28
    files = sorted(tmp_path.iterdir())
    assert [each.name for each in files] == [f"maps-00000{number}.tar" for number in range(3)]
    found = []
    for file in files:
        with tarfile.open(file) as tar:
            members = {each.name: tar.extractfile(each).read() for each in tar}
        keys = [name.removesuffix(".json") for name in members if name.endswith(".json")]
        found += [(json.loads(members[f"{key}.json"]), np.load(io.BytesIO(members[f"{key}.npy"]))) for key in keys]
    for (facts, values), (row, expected) in zip(found, maps.each(), strict=True):
        assert facts.items() <= row.items()
        np.testing.assert_allclose(values, expected, atol=5e-4)
    with pytest.raises(FileExistsError):
        fastcam.dataset.to_webdataset(maps, tmp_path)


def test_a_dataset_of_hugging_face(made, tmp_path):
    _, maps = made
    assert fastcam.dataset.to_datasets(maps, tmp_path / "hf") == 28
    found = load_from_disk(str(tmp_path / "hf")).with_format("numpy")
    assert len(found) == 28
    for written, (row, values) in zip(found, maps.each(), strict=True):
        assert (written["image_id"], written["method"]) == (row["image_id"], row["method"])
        assert written["score"] == pytest.approx(row["score"])
        np.testing.assert_array_equal(written["map"], values)
    with pytest.raises(FileExistsError):
        fastcam.dataset.to_datasets(maps, tmp_path / "hf")
