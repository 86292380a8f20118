"""A row for every detection of a dataset's images, with its box, class, score and map."""

import json
import tarfile

import numpy as np
import pyarrow.dataset as ds
import pytest
import torch
from PIL import Image
from torch import nn

import fastcam
import fastcam.dataset
import fastcam.evaluate.datasets
from fastcam.classifiers.preprocessing import Preprocessing, read_photograph
from fastcam.targets import Detections
from tests.cli.command_line import run as command

pytestmark = pytest.mark.usefixtures("one_thread")

WHOLE = Preprocessing(32, (32, 32), (0.0,) * 3, (1.0,) * 3, keep_aspect=False)


class Squares(nn.Module):
    """Finds what is bright in each colour: a box for every colour, and two of one class where there is red and blue."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 3, 1, bias=False)
        self.body.weight.data = torch.eye(3)[:, :, None, None]
        self.eval()

    def forward(self, images):
        results = []
        for maps in self.body(torch.stack(list(images))):
            boxes, scores, labels = [], [], []
            for channel in range(3):
                seen = (maps[channel].detach() > 0.5).nonzero()
                if len(seen):
                    (top, left), (bottom, right) = seen.amin(0).tolist(), (seen.amax(0) + 1).tolist()
                    boxes.append([left, top, right, bottom])
                    scores.append(maps[channel, top:bottom, left:right].mean() * (0.9 - 0.1 * channel))
                    labels.append(1 if channel == 1 else 0)
            results.append(
                {
                    "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                    "labels": torch.tensor(labels, dtype=torch.int64),
                    "scores": torch.stack(scores) if scores else maps.sum() * torch.zeros(0),
                }
            )
        return results


def build() -> nn.Module:
    return Squares()


def write_squares(folder):
    """Two squares of one class, none, one of another class, and a broken file."""
    folder.mkdir()
    for name, squares in {
        "a": [((255, 0, 0), 2, 3), ((0, 0, 255), 20, 18)],
        "b": [],
        "c": [((0, 255, 0), 10, 4)],
    }.items():
        picture = np.zeros((32, 32, 3), np.uint8)
        for colour, top, left in squares:
            picture[top : top + 8, left : left + 6] = colour
        Image.fromarray(picture).save(folder / f"{name}.png")
    (folder / "d.png").write_bytes(b"broken")
    return folder


@pytest.fixture
def source(tmp_path):
    return write_squares(tmp_path / "in")


def run(source, out, **options):
    settings = {"target_layer": "body", "method": ["hires_cam"], "preprocessing": WHOLE, "batch_size": 2, "workers": 1}
    return fastcam.dataset.run(source, Squares(), out, **{**settings, "target": "detections", **options})


@pytest.mark.parametrize("target", ["detections", Detections(0.5), ["detections>0.5"]])
def test_rows(source, tmp_path, target):
    done = run(source, tmp_path / "out", target=target)
    assert (done.total, done.failed) == (4, 1)
    maps = fastcam.dataset.open(tmp_path / "out")
    red, blue = maps.rows("a.png")
    assert [row["detection"] for row in (red, blue)] == [1, 2]
    assert [row["target"] for row in (red, blue)] == [0, 0]  # of one class, and both kept
    assert red["box"] == [3 / 32, 2 / 32, 9 / 32, 10 / 32]
    assert blue["box"] == [18 / 32, 20 / 32, 24 / 32, 28 / 32]
    assert red["confidence"] == pytest.approx(0.9)
    assert blue["score"] == pytest.approx(0.7)
    image = WHOLE(read_photograph(source / "a.png"))[None]
    expected = fastcam.explain(Squares(), image, "hires_cam", Detections(0.5), "body")
    for number, found in enumerate(maps.maps("a.png")):
        np.testing.assert_allclose(found, expected.maps[0, number].numpy(), atol=2e-3)
    (none,) = maps.rows("b.png")
    assert (none["detection"], none["target"], none["box"], none["status"]) == (None, None, None, "constant map")
    (broken,) = maps.rows("d.png")
    assert broken["map"] is None
    assert "box" in maps.dataset().schema.names


def test_a_lower_confidence_and_what_goes_on(source, tmp_path):
    run(source, tmp_path / "out", target="detections>0.75")
    assert len(fastcam.dataset.open(tmp_path / "out").rows("a.png")) == 1
    again = run(source, tmp_path / "out", target="detections>0.75")
    assert again.new == 0
    with pytest.raises(ValueError, match="another run"):
        run(source, tmp_path / "out", target="detections")


def test_exports(source, tmp_path):
    run(source, tmp_path / "out")
    maps = fastcam.dataset.open(tmp_path / "out")
    fastcam.dataset.to_overlays(maps, tmp_path / "overlays", source)
    found = sorted(path.name for path in (tmp_path / "overlays").iterdir())
    assert found == ["a.png.hires_cam.1.png", "a.png.hires_cam.2.png", "b.png.hires_cam.png", "c.png.hires_cam.png"]
    assert fastcam.dataset.to_zarr(maps, tmp_path / "maps.zarr") == 4
    import zarr

    assert zarr.open(str(tmp_path / "maps.zarr"))["box"].shape == (4, 4)
    fastcam.dataset.to_webdataset(maps, tmp_path / "tar")
    with tarfile.open(tmp_path / "tar" / "maps-000000.tar") as tar:
        assert json.load(tar.extractfile("000000001.json"))["detection"] == 2


def test_measured_detections_keep_their_classes(source, tmp_path):
    """Also beside an image without detections, whose row has no class."""
    run(source, tmp_path / "out")
    fastcam.evaluate.datasets.run_on_maps(tmp_path / "out", tmp_path / "scores", ["sparseness"])
    rows = fastcam.evaluate.datasets.open(tmp_path / "scores").dataset().to_table().to_pylist()
    targets = [(row["image_id"], row["target"]) for row in rows]
    assert targets == [("a.png", 0), ("a.png", 0), ("b.png", None), ("c.png", 1), ("d.png", None)]


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (["detections", "3"], "cannot be mixed with classes"),
        (["3", "detections>0.2"], "cannot be mixed with classes"),
        (Detections(index=0), "leave out `index`"),
        ("detections>2", "above"),
    ],
)
def test_mistakes(source, tmp_path, target, words):
    with pytest.raises(ValueError, match=words):
        run(source, tmp_path / "out", target=target)
    assert not (tmp_path / "out").exists()


def test_the_command(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["--model", "tests.dataset.test_detections:build", "--layer", "body", "--out", "out", "--size", "32"]
    done = command("map", "in", *arguments, "--target", "detections>0.6")
    assert done.exit_code == 1, done.output
    rows = ds.dataset("out", format="parquet", exclude_invalid_files=True).to_table().to_pylist()
    assert [row["detection"] for row in rows if row["image_id"] == "a.png"] == [1, 2]
    assert rows[0]["box"] == [3 / 32, 2 / 32, 9 / 32, 10 / 32]


def test_boxes_of_an_input_that_is_not_square(source, tmp_path):
    wide = Preprocessing(48, (24, 48), (0.0,) * 3, (1.0,) * 3, keep_aspect=False)
    run(source, tmp_path / "out", preprocessing=wide)
    image = wide(read_photograph(source / "c.png"))[None]
    found = fastcam.explain(Squares(), image, "hires_cam", Detections(0.5), "body").details["boxes"][0, 0]
    (row,) = fastcam.dataset.open(tmp_path / "out").rows("c.png")
    assert row["box"] == pytest.approx((found / torch.tensor([48, 24, 48, 24])).tolist())
